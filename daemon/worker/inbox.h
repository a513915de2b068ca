// What comes over the link, for all handler threads of the worker. Whoever is idle takes the next
// delivery; one of the idle threads reads the socket while the others wait. So a worker of one
// thread has no hand-over and no lock.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/fd.h"

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
    const char* body = nullptr;  // where it is, if it is not in the frame
  };
  enum class Next {
    deliveries,  // one, or a batch
    revoke,      // one frame of that type
    flush,       // the consumer asks for it: see Flushes
    due,         // the time is up
    ended,       // the consumer has closed the link, or broken it
  };

  // `fd` stays the caller's. `shared`: more than one thread calls.
  Inbox(int fd, bool shared);
  ~Inbox();
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  // A thread's own memory of requests to flush: every thread hears of every one.
  struct Flushes {
    std::uint64_t seen = 0;
    std::uint32_t reason = 0;  // of the last
  };

  // [any thread] Blocks for what comes next, no longer than to `due_ns` (CLOCK_MONOTONIC; 0: for
  // ever). The frames, if any, are to be released.
  Next next(std::vector<Lease>& frames, std::uint64_t due_ns, Flushes& flushes);
  // Would next() return a delivery without waiting? With several threads always false: another may
  // take it.
  bool has_next() const;
  // [any thread] The frame's memory may be used again.
  void release(Lease& lease);
  // [any thread] Bytes of all its memory.
  std::size_t capacity();

 private:
  enum class Received { data, due, end };

  Next take_next(std::unique_lock<std::mutex>& lock, std::vector<Lease>& frames,
                 std::uint64_t due_ns, Flushes& flushes);
  bool take_batch(std::unique_lock<std::mutex>& lock, std::vector<Lease>& deliveries,
                  std::size_t count);
  bool take_frame(Lease& lease);
  void take_control_frames();
  void map_segment(std::uint64_t id, std::size_t size);
  bool wait(std::unique_lock<std::mutex>& lock, std::uint64_t due_ns);
  Received read(std::unique_lock<std::mutex>& lock, std::uint64_t due_ns);
  Received receive(std::uint64_t due_ns);
  void make_room();
  Chunk* get_chunk(std::size_t capacity);
  void put_chunk(Chunk* chunk);
  void drop_user(Chunk* chunk);

  const int fd_;
  const bool shared_;
  std::mutex mutex_;  // guards all up to spare_mutex_, but for current_ while reading_
  std::condition_variable changed_;
  bool reading_ = false;  // a thread reads the socket
  int waiting_ = 0;       // threads
  Chunk* current_ = nullptr;
  bool ended_ = false;
  std::uint64_t flushes_ = 0;
  std::uint32_t flush_reason_ = 0;
  // Shared memory with large bodies, by the id that deliveries name.
  struct Segment {
    const char* data = nullptr;
    std::size_t size = 0;
  };
  std::unordered_map<std::uint64_t, Segment> segments_;
  std::deque<UniqueFd> descriptors_;  // received, and not mapped yet; the reading thread's
  std::mutex spare_mutex_;            // guards spare_ and all_
  std::vector<Chunk*> spare_;
  std::vector<std::unique_ptr<Chunk>> all_;
};

}  // namespace lope::worker
