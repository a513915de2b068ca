#include "worker/inbox.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/clock.h"
#include "common/link.h"

namespace lope::worker {

namespace {

constexpr std::size_t kChunkSize = 128 * 1024;
// What a read should have room for, so that many small frames come with one call.
constexpr std::size_t kReadRoom = 32 * 1024;
constexpr std::size_t kMaxSpare = 4;

void unmap(const char* data, std::size_t size) { ::munmap(const_cast<char*>(data), size); }

}  // namespace

Inbox::Inbox(int fd, bool shared) : fd_(fd), shared_(shared) {
  current_ = get_chunk(kChunkSize);
  current_->users = 1;  // the inbox's own hold
}

Inbox::~Inbox() {
  for (const auto& [id, segment] : segments_) unmap(segment.data, segment.size);
}

Inbox::Next Inbox::next(std::vector<Lease>& frames, std::uint64_t due_ns, Flushes& flushes) {
  frames.clear();
  std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
  if (shared_) lock.lock();
  const Next next = take_next(lock, frames, due_ns, flushes);
  // There may be more, and somebody has to read the socket.
  if (waiting_ > 0 && !reading_) changed_.notify_one();
  return next;
}

Inbox::Next Inbox::take_next(std::unique_lock<std::mutex>& lock, std::vector<Lease>& frames,
                             std::uint64_t due_ns, Flushes& flushes) {
  while (true) {
    if (!reading_) take_control_frames();
    if (flushes_ != flushes.seen) {
      flushes = {flushes_, flush_reason_};
      return Next::flush;
    }
    if (reading_) {
      if (!wait(lock, due_ns)) return Next::due;
      continue;
    }
    Lease first;
    if (take_frame(first)) {
      FrameHead head;
      std::memcpy(&head, first.frame.data(), sizeof head);
      frames.push_back(first);
      if (head.type == FrameType::revoke) return Next::revoke;
      return take_batch(lock, frames, head.batch) ? Next::deliveries : Next::ended;
    }
    if (ended_) return Next::ended;
    switch (read(lock, due_ns)) {
      case Received::data: break;
      case Received::due: return Next::due;
      case Received::end:
        ended_ = true;
        changed_.notify_all();
        break;
    }
  }
}

// The rest of a batch, which is on its way. False: the link ended before.
bool Inbox::take_batch(std::unique_lock<std::mutex>& lock, std::vector<Lease>& deliveries,
                       std::size_t count) {
  while (deliveries.size() < count) {
    Lease next;
    if (take_frame(next)) {
      deliveries.push_back(next);
    } else if (ended_ || read(lock, 0) == Received::end) {
      ended_ = true;
      for (Lease& lease : deliveries) release(lease);
      deliveries.clear();
      changed_.notify_all();
      return false;
    }
  }
  return true;
}

// False: the time is up.
bool Inbox::wait(std::unique_lock<std::mutex>& lock, std::uint64_t due_ns) {
  ++waiting_;
  bool woken = true;
  if (due_ns == 0) {
    changed_.wait(lock);
  } else {
    const std::chrono::steady_clock::time_point due{std::chrono::nanoseconds(due_ns)};
    woken = changed_.wait_until(lock, due) == std::cv_status::no_timeout;
  }
  --waiting_;
  return woken;
}

// With the lock open, so that the others can wait and hear of flushes.
Inbox::Received Inbox::read(std::unique_lock<std::mutex>& lock, std::uint64_t due_ns) {
  reading_ = true;
  if (shared_) lock.unlock();
  const Received received = receive(due_ns);
  if (shared_) lock.lock();
  reading_ = false;
  return received;
}

bool Inbox::has_next() const {
  if (shared_) return false;  // all else is only to be looked at with the lock
  const std::size_t available = current_->size - current_->parsed;
  FrameHead head;
  if (available < sizeof head) return false;
  std::memcpy(&head, current_->data.get() + current_->parsed, sizeof head);
  return available >= head.size && head.type == FrameType::delivery && head.batch <= 1;
}

void Inbox::take_control_frames() {
  while (true) {
    const std::size_t available = current_->size - current_->parsed;
    FrameHead head;
    if (available < sizeof head) return;
    std::memcpy(&head, current_->data.get() + current_->parsed, sizeof head);
    if (head.type == FrameType::delivery || head.type == FrameType::revoke) return;
    if (available < head.size) return;
    if (head.type == FrameType::flush) {
      ++flushes_;
      flush_reason_ = static_cast<std::uint32_t>(head.sequence);
      changed_.notify_all();
    } else if (head.type == FrameType::segment) {
      SegmentHead segment;
      std::memcpy(&segment, current_->data.get() + current_->parsed + sizeof head, sizeof segment);
      map_segment(head.sequence, segment.size);
    } else if (const auto found = segments_.find(head.sequence); found != segments_.end()) {
      unmap(found->second.data, found->second.size);
      segments_.erase(found);
    }
    current_->parsed += head.size;
  }
}

void Inbox::map_segment(std::uint64_t id, std::size_t size) {
  if (descriptors_.empty()) std::abort();  // it comes with the frame
  const UniqueFd fd = std::move(descriptors_.front());
  descriptors_.pop_front();
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (address == MAP_FAILED) {
    std::fprintf(stderr, "lope-worker: mmap of a body: %s\n", std::strerror(errno));
    std::abort();  // our consumer starts us again
  }
  segments_[id] = {static_cast<const char*>(address), size};
}

void Inbox::release(Lease& lease) {
  drop_user(lease.chunk);
  lease = {};
}

std::size_t Inbox::capacity() {
  const std::lock_guard<std::mutex> lock(spare_mutex_);
  std::size_t bytes = 0;
  for (const auto& chunk : all_) bytes += chunk->capacity;
  return bytes;
}

bool Inbox::take_frame(Lease& lease) {
  const std::size_t available = current_->size - current_->parsed;
  FrameHead head;
  if (available < sizeof head) return false;
  std::memcpy(&head, current_->data.get() + current_->parsed, sizeof head);
  if (available < head.size) return false;
  lease.frame = {current_->data.get() + current_->parsed, head.size};
  lease.chunk = current_;
  if (const std::uint64_t segment = segment_of(lease.frame); segment != 0) {
    lease.body = segments_.at(segment).data;
  }
  current_->users.fetch_add(1, std::memory_order_relaxed);
  // The next frame starts aligned in memory only if this one's size is a multiple of 8; views are
  // read with memcpy, and a body's own alignment is the handler's to take care of.
  current_->parsed += head.size;
  return true;
}

void Inbox::make_room() {
  Chunk& chunk = *current_;
  const std::size_t available = chunk.size - chunk.parsed;
  std::size_t wanted = available + 1;
  FrameHead head;
  if (available >= sizeof head) {
    std::memcpy(&head, chunk.data.get() + chunk.parsed, sizeof head);
    wanted = std::max<std::size_t>(wanted, head.size);
  }
  const bool mine_alone = chunk.users.load(std::memory_order_acquire) == 1;
  const bool idle = mine_alone && available == 0;
  if (idle) chunk.size = chunk.parsed = 0;
  // A chunk that one huge frame needed is let go as soon as nothing is in it.
  const bool oversized = idle && chunk.capacity != kChunkSize;
  const std::size_t free_space = chunk.capacity - chunk.parsed;
  if (!oversized && free_space >= wanted &&
      chunk.capacity - chunk.size >= std::min(kReadRoom, wanted)) {
    return;
  }

  if (mine_alone && chunk.capacity >= wanted && chunk.capacity == kChunkSize) {
    std::memmove(chunk.data.get(), chunk.data.get() + chunk.parsed, available);
    chunk.size = available;
    chunk.parsed = 0;
    return;
  }
  Chunk* fresh = get_chunk(std::max(wanted, kChunkSize));
  fresh->users = 1;
  std::memcpy(fresh->data.get(), chunk.data.get() + chunk.parsed, available);
  fresh->size = available;
  current_ = fresh;
  drop_user(&chunk);
}

Inbox::Received Inbox::receive(std::uint64_t due_ns) {
  make_room();
  Chunk& chunk = *current_;
  while (true) {
    if (due_ns != 0) {
      const std::uint64_t now = monotonic_ns();
      if (now >= due_ns) return Received::due;
      const std::uint64_t left = due_ns - now;
      const timespec timeout{static_cast<time_t>(left / 1'000'000'000),
                             static_cast<long>(left % 1'000'000'000)};
      pollfd readable{fd_, POLLIN, 0};
      const int ready = ::ppoll(&readable, 1, &timeout, nullptr);
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    }
    iovec room{chunk.data.get() + chunk.size, chunk.capacity - chunk.size};
    alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &room;
    message.msg_iovlen = 1;
    message.msg_control = ancillary;
    message.msg_controllen = sizeof ancillary;
    const ssize_t n = ::recvmsg(fd_, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Received::end;
    for (const cmsghdr* with = CMSG_FIRSTHDR(&message); with != nullptr;
         with = CMSG_NXTHDR(&message, const_cast<cmsghdr*>(with))) {
      if (with->cmsg_level != SOL_SOCKET || with->cmsg_type != SCM_RIGHTS) continue;
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(with), sizeof fd);
      descriptors_.emplace_back(fd);
    }
    chunk.size += static_cast<std::size_t>(n);
    return Received::data;
  }
}

Inbox::Chunk* Inbox::get_chunk(std::size_t capacity) {
  const std::lock_guard<std::mutex> lock(spare_mutex_);
  if (capacity == kChunkSize && !spare_.empty()) {
    Chunk* chunk = spare_.back();
    spare_.pop_back();
    return chunk;
  }
  auto chunk = std::make_unique<Chunk>();
  chunk->data = std::make_unique_for_overwrite<char[]>(capacity);
  chunk->capacity = capacity;
  all_.push_back(std::move(chunk));
  return all_.back().get();
}

void Inbox::put_chunk(Chunk* chunk) {
  const std::lock_guard<std::mutex> lock(spare_mutex_);
  chunk->size = chunk->parsed = 0;
  if (chunk->capacity == kChunkSize && spare_.size() < kMaxSpare) {
    spare_.push_back(chunk);
    return;
  }
  std::erase_if(all_, [chunk](const std::unique_ptr<Chunk>& each) { return each.get() == chunk; });
}

void Inbox::drop_user(Chunk* chunk) {
  if (chunk->users.fetch_sub(1, std::memory_order_acq_rel) == 1) put_chunk(chunk);
}

}  // namespace lope::worker
