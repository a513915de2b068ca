#include "common/fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/text.h"

namespace lope {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

namespace {

Result<FdPair> socket_pair(int type) {
  int fds[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) < 0) {
    return Error{errno_text("socketpair", errno)};
  }
  return FdPair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

}  // namespace

Result<FdPair> make_stream_pair() { return socket_pair(SOCK_STREAM); }
Result<FdPair> make_packet_pair() { return socket_pair(SOCK_SEQPACKET); }

Result<FdPair> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) < 0) return Error{errno_text("pipe2", errno)};
  return FdPair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Result<UniqueFd> make_eventfd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return Error{errno_text("eventfd", errno)};
  return fd;
}

Result<UniqueFd> make_memfd(std::string_view name, std::string_view content) {
  UniqueFd fd(::memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return Error{errno_text("memfd_create", errno)};
  while (!content.empty()) {
    const ssize_t n = ::write(fd.get(), content.data(), content.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return Error{errno_text("write to memfd", errno)};
    }
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
    return Error{errno_text("fcntl(F_ADD_SEALS)", errno)};
  }
  return fd;
}

Result<UniqueFd> make_shared_memory(std::string_view name, std::size_t size) {
  UniqueFd fd(::memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return Error{errno_text("memfd_create", errno)};
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) < 0) {
    return Error{errno_text("ftruncate of memfd", errno)};
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
    return Error{errno_text("fcntl(F_ADD_SEALS)", errno)};
  }
  return fd;
}

Result<std::string> read_all_at(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) < 0) return Error{errno_text("fstat", errno)};
  std::string content(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t n =
        ::pread(fd, content.data() + done, content.size() - done, static_cast<off_t>(done));
    if (n < 0) {
      if (errno == EINTR) continue;
      return Error{errno_text("pread", errno)};
    }
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  content.resize(done);
  return content;
}

ssize_t send_with_fd(int socket, const void* bytes, std::size_t size, int fd, int flags) {
  iovec part{const_cast<void*>(bytes), size};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof fd)] = {};
  if (fd >= 0) {
    message.msg_control = ancillary;
    message.msg_controllen = sizeof ancillary;
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | flags);
}

ssize_t receive_with_fd(int socket, void* bytes, std::size_t size, UniqueFd& fd) {
  iovec part{bytes, size};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int))] = {};
  message.msg_control = ancillary;
  // Not all of the buffer: the system would put a second one into what is there for alignment.
  message.msg_controllen = CMSG_LEN(sizeof(int));
  const ssize_t n = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const cmsghdr* const with = n < 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (with != nullptr && with->cmsg_level == SOL_SOCKET && with->cmsg_type == SCM_RIGHTS) {
    int received = -1;
    std::memcpy(&received, CMSG_DATA(with), sizeof received);
    fd.reset(received);
  }
  return n;
}

Result<void> set_nonblocking(int fd, bool nonblocking) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return Error{errno_text("fcntl(F_GETFL)", errno)};
  const int wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (::fcntl(fd, F_SETFL, wanted) < 0) return Error{errno_text("fcntl(F_SETFL)", errno)};
  return {};
}

Result<void> set_close_on_exec(int fd) {
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return Error{errno_text("fcntl(F_SETFD)", errno)};
  return {};
}

Result<UniqueFd> open_program(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return Error{"program '" + path + "': " + errno_text("open", errno)};
  return fd;
}

}  // namespace lope
