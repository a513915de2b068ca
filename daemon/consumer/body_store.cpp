#include "consumer/body_store.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>

namespace lope::consumer {

namespace {

// Each is a descriptor: far below the usual limit of 1024. Bodies beyond travel in their frame.
constexpr std::size_t kMaxSegments = 512;

}  // namespace

BodyStore::Segment::~Segment() {
  if (data != nullptr) ::munmap(data, capacity);
}

BodyStore::Segment* BodyStore::take(std::size_t size) {
  // Not a huge one for a small body: that would keep it from being given back.
  const auto fits = [size](const Segment* segment) {
    return segment->capacity >= size && segment->capacity / 4 <= size;
  };
  const auto found = std::find_if(free_.rbegin(), free_.rend(), fits);
  if (found == free_.rend()) return make(size);
  Segment* const segment = *found;
  free_.erase(std::next(found).base());
  return segment;
}

BodyStore::Segment* BodyStore::make(std::size_t size) {
  if (all_.size() >= kMaxSegments) return nullptr;
  auto segment = std::make_unique<Segment>();
  segment->capacity = std::bit_ceil(size);
  auto memory = make_shared_memory("lope-body", segment->capacity);
  if (!memory) return nullptr;
  void* const address =
      ::mmap(nullptr, segment->capacity, PROT_READ | PROT_WRITE, MAP_SHARED, memory->get(), 0);
  if (address == MAP_FAILED) return nullptr;
  segment->data = static_cast<char*>(address);
  // From here on nobody else can write to it, whatever a handler scribbles over.
  if (::fcntl(memory->get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE) < 0) return nullptr;
  segment->fd = std::move(*memory);
  segment->id = ++last_id_;
  all_.push_back(std::move(segment));
  return all_.back().get();
}

void BodyStore::give_back(Segment* segment) {
  segment->free_since = Clock::now();
  free_.push_back(segment);
}

std::vector<std::uint64_t> BodyStore::trim(TimePoint then) {
  std::vector<std::uint64_t> ids;
  std::erase_if(free_, [&](const Segment* segment) {
    if (segment->free_since > then) return false;
    ids.push_back(segment->id);
    return true;
  });
  std::erase_if(all_, [&ids](const std::unique_ptr<Segment>& segment) {
    return std::find(ids.begin(), ids.end(), segment->id) != ids.end();
  });
  return ids;
}

}  // namespace lope::consumer
