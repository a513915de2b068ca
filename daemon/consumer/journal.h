// What a consumer tells of its messages: events, put together to messages of many, for the lane
// that sends them. Costs nothing while there is no journal: then there is no such object.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/delivery_table.h"
#include "consumer/journal_event.h"
#include "consumer/journal_lane.h"
#include "consumer/publisher.h"

namespace lope::consumer {

// What became of an attempt.
struct Handled {
  std::string_view outcome;
  std::string_view reason = {};
  std::string_view code = {};  // of a dead letter
  std::uint32_t crashes = 0;
  std::chrono::milliseconds delay{0};
};

// As it was loaded.
struct HandlerName {
  std::string_view name = {}, version = {};
};

class Journal {
 public:
  static constexpr std::size_t kBatchBytes = 64 * 1024;
  static constexpr std::chrono::milliseconds kBatchWait{20};

  Journal(const ConsumerSettings& settings, std::string_view host, GroupBoard& board);

  // `view` is that of its frame, `body` its body, if it was read.
  void received(const Delivery& delivery, const DeliveryView& view,
                std::optional<std::string_view> body);
  void handled(const Delivery& delivery, const DeliveryView& view, const Handled& handled,
               const HandlerName& handler);
  // What was published for it.
  void published(const Delivery& delivery, const DeliveryView& view, const Outbound& outbound,
                 std::string_view fate);

  // Passes on what is there: all of it, or only what has waited long enough.
  void pass_on(TimePoint now, bool all);
  // When there is something for the next pass_on(); max(): nothing is.
  TimePoint due() const { return due_; }
  JournalLane& lane() { return lane_; }

 private:
  template <typename Event>
  void tell(const Delivery& delivery, const MessageIds& ids, std::uint64_t time_us,
            const Event& event);

  const std::string group_;
  const JournalSettings settings_;
  std::vector<std::string> origins_;  // by queue
  std::uint64_t number_ = 0;
  std::string events_;
  std::uint32_t count_ = 0;
  TimePoint due_ = TimePoint::max();
  JournalLane lane_;
};

}  // namespace lope::consumer
