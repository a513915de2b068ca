#include "consumer/streams.h"

#include <algorithm>
#include <utility>

namespace lope::consumer {

namespace {

constexpr std::chrono::seconds kStaysShort{20};
// A subscription takes two or three until it is seen, or longer with a slow broker.
constexpr std::chrono::seconds kSeenWithin{10};

}  // namespace

bool Shortness::stays(TimePoint now) {
  const TimePoint before = std::exchange(latest_, now);
  if (before == TimePoint{} || now - before > kSeenWithin) since_ = now;
  return now - since_ >= kStaysShort;
}

Result<std::unique_ptr<Streams>> Streams::open(const ConsumerSettings& settings) {
  auto streams = std::make_unique<Streams>();
  const auto& queues = settings.group.queues;
  streams->streams_.resize(queues.size());
  if (std::ranges::none_of(queues, &QueueSettings::stream)) return streams;
  auto keeper = StreamKeeper::open(settings.state_dir, settings.group.name);
  if (!keeper) return Error{"the position in a stream: " + keeper.error()};
  streams->keeper_ = std::move(*keeper);
  for (std::size_t i = 0; i < queues.size(); ++i) {
    if (!queues[i].stream) continue;
    auto kept = streams->keeper_->load(queues[i].name);
    if (!kept) return Error{"the position in stream '" + queues[i].name + "': " + kept.error()};
    StreamPosition fresh;
    fresh.begin = queues[i].offset;
    Stream& stream = streams->streams_[i];
    stream.name = queues[i].name;
    stream.progress = std::make_unique<StreamProgress>(kept->value_or(fresh));
  }
  return streams;
}

bool Streams::due() const {
  return begun_ || std::ranges::any_of(streams_, [](const Stream& stream) {
           return stream.progress != nullptr && stream.progress->changes() != stream.kept;
         });
}

std::string Streams::keep() {
  std::string trouble = keeper_->take_trouble();
  begun_ = false;
  for (Stream& stream : streams_) {
    if (stream.progress == nullptr) continue;
    const std::uint64_t changes = stream.progress->changes();
    if (changes == stream.kept && trouble.empty()) continue;
    stream.kept = changes;
    begun_ = true;
    keeper_->save(stream.name, stream.progress->position());
  }
  return trouble;
}

std::string Streams::keep_now() {
  keep();
  if (!keeper_->finish()) {
    return "the disk has taken longer than " + std::to_string(StreamKeeper::kPatience.count()) +
           " ms";
  }
  return keeper_->take_trouble();
}

void Streams::show(GroupBoard& board) const {
  std::size_t at = 0;
  for (const Stream& stream : streams_) {
    if (stream.progress == nullptr || at == board.streams.size()) continue;
    board.streams[at++].store(static_cast<std::uint64_t>(stream.progress->next() + 1),
                              std::memory_order_relaxed);
  }
}

bool Streams::stays_short(std::uint16_t queue, TimePoint now) {
  return streams_[queue].shortness.stays(now);
}

}  // namespace lope::consumer
