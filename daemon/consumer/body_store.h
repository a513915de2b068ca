// Large bodies, in memory that the workers see too: a body is copied once, from the broker's socket
// to here, and does not pass through a link. Segments are used again, since new memory costs more
// than the copy; those that nobody has needed for a while are given back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"

namespace lope::consumer {

// Smaller bodies travel in their frame.
inline constexpr std::size_t kSharedBody = 32 * 1024;

class BodyStore {
 public:
  struct Segment {
    ~Segment();
    std::uint64_t id = 0;  // never used again
    UniqueFd fd;           // workers can map it for reading only
    char* data = nullptr;
    std::size_t capacity = 0;
    TimePoint free_since{};
  };

  // One with room for `size` bytes; nullptr when there is none to be had.
  Segment* take(std::size_t size);
  void give_back(Segment* segment);

  bool has_free() const { return !free_.empty(); }
  // Ends those that have been free since before `then`; returns their ids, for workers to forget.
  std::vector<std::uint64_t> trim(TimePoint then);

 private:
  Segment* make(std::size_t size);

  std::vector<std::unique_ptr<Segment>> all_;
  std::vector<Segment*> free_;
  std::uint64_t last_id_ = 0;
};

}  // namespace lope::consumer
