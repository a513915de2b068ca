#include "worker/inbox.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/link.h"

namespace lope::worker {

namespace {

constexpr std::size_t kChunkSize = 128 * 1024;
// What a read should have room for, so that many small frames come with one call.
constexpr std::size_t kReadRoom = 32 * 1024;
constexpr std::size_t kMaxSpare = 4;

}  // namespace

Inbox::Inbox(int fd, bool shared) : fd_(fd), shared_(shared) {
  current_ = get_chunk(kChunkSize);
  current_->users = 1;  // the inbox's own hold
}

Inbox::~Inbox() = default;

bool Inbox::next(Lease& lease) {
  std::unique_lock<std::mutex> lock(reading_, std::defer_lock);
  if (shared_) lock.lock();
  while (!take_frame(lease)) {
    if (ended_ || !receive()) {
      ended_ = true;
      return false;
    }
  }
  return true;
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

bool Inbox::receive() {
  make_room();
  Chunk& chunk = *current_;
  ssize_t n = 0;
  do {
    n = ::recv(fd_, chunk.data.get() + chunk.size, chunk.capacity - chunk.size, 0);
  } while (n < 0 && errno == EINTR);
  if (n <= 0) return false;
  chunk.size += static_cast<std::size_t>(n);
  return true;
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
