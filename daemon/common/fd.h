// An owned file descriptor, and the few system calls on descriptors that everybody needs. Every
// descriptor made here is close-on-exec from birth.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace lope {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

struct FdPair {
  UniqueFd first;
  UniqueFd second;
};

// A connected pair of Unix stream sockets / sequenced-packet sockets; both ends blocking.
Result<FdPair> make_stream_pair();
Result<FdPair> make_packet_pair();
// first: read end, second: write end; both blocking.
Result<FdPair> make_pipe();
Result<UniqueFd> make_eventfd();

// A sealed memfd that holds `content`; `name` is for /proc only.
Result<UniqueFd> make_memfd(std::string_view name, std::string_view content);
// A memfd of `size` zero bytes that cannot shrink or grow.
Result<UniqueFd> make_shared_memory(std::string_view name, std::size_t size);
// The whole content of a memfd, from its start.
Result<std::string> read_all_at(int fd);

// As send(), with a descriptor that arrives with the first byte; -1: none.
ssize_t send_with_fd(int socket, const void* bytes, std::size_t size, int fd, int flags = 0);
// As recv(), without waiting; `fd` gets the first descriptor that came with it, if one did.
ssize_t receive_with_fd(int socket, void* bytes, std::size_t size, UniqueFd& fd);

Result<void> set_nonblocking(int fd, bool nonblocking);
Result<void> set_close_on_exec(int fd);

// Opens a program to be run later with execveat, so that it stays the one that was on disk now.
Result<UniqueFd> open_program(const std::string& path);

}  // namespace lope
