// Deliveries from the link, for all handler threads of the worker. Whoever is idle takes the next
// one: the thread that finds no whole frame reads the socket itself while the others wait for it.
// So one thread costs no hand-over and, alone, no lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace lope::worker {

class Inbox {
 public:
  // A piece of memory that frames lie in; lives as long as one of them is in use.
  struct Chunk {
    std::atomic<std::uint32_t> users{0};
    std::unique_ptr<char[]> data;
    std::size_t capacity = 0;
    std::size_t size = 0;    // bytes received
    std::size_t parsed = 0;  // bytes given out
  };
  // A whole frame, and the hold on its memory.
  struct Lease {
    std::span<const char> frame;
    Chunk* chunk = nullptr;
  };

  // `fd` stays the caller's. `shared`: more than one thread calls.
  Inbox(int fd, bool shared);
  ~Inbox();
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  // [any thread] Blocks for the next frame. False: the consumer has closed the link (or broken it).
  bool next(Lease& lease);
  // [any thread] The frame's memory may be used again.
  void release(Lease& lease);
  // [any thread] Bytes of all its memory.
  std::size_t capacity();

 private:
  bool take_frame(Lease& lease);
  void make_room();
  bool receive();
  Chunk* get_chunk(std::size_t capacity);
  void put_chunk(Chunk* chunk);
  void drop_user(Chunk* chunk);

  const int fd_;
  const bool shared_;
  std::mutex reading_;  // guards current_, ended_ and the socket
  Chunk* current_ = nullptr;
  bool ended_ = false;
  std::mutex spare_mutex_;  // guards spare_ and all_
  std::vector<Chunk*> spare_;
  std::vector<std::unique_ptr<Chunk>> all_;
};

}  // namespace lope::worker
