#include "consumer/stream_progress.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "common/text.h"

namespace lope::consumer {

namespace {

constexpr std::string_view kFirstLine = "lope stream position 1\n";
constexpr std::size_t kPrinted = 4096;  // of a body

struct FromName {
  StreamOffset::From from;
  std::string_view name;
};
constexpr FromName kFromNames[] = {{StreamOffset::From::next, "next"},
                                   {StreamOffset::From::first, "first"},
                                   {StreamOffset::From::last, "last"},
                                   {StreamOffset::From::number, "number"},
                                   {StreamOffset::From::time, "time"}};

std::uint64_t mix(std::uint64_t sum, std::uint64_t word) {
  sum = (sum ^ word) * 0x9e37'79b9'7f4a'7c15;
  return sum ^ (sum >> 29);
}

std::uint64_t mix(std::uint64_t sum, std::string_view text) {
  sum = mix(sum, text.size());
  for (; text.size() >= sizeof sum; text.remove_prefix(sizeof sum)) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data(), sizeof word);
    sum = mix(sum, word);
  }
  std::uint64_t rest = 0;
  std::memcpy(&rest, text.data(), text.size());
  return mix(sum, rest);
}

// 0 says that there is none.
std::uint64_t never_zero(std::uint64_t sum) { return sum == 0 ? 1 : sum; }

template <typename Number>
std::optional<Number> number(std::string_view text) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "WORD VALUE\n" of the front; nothing when it is none.
std::optional<std::string_view> take_line(std::string_view& text, std::string_view word) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos || !text.starts_with(word) ||
      text.substr(word.size(), 1) != " ") {
    return std::nullopt;
  }
  const std::string_view value = text.substr(word.size() + 1, end - word.size() - 1);
  text.remove_prefix(end + 1);
  return value;
}

std::optional<StreamOffset> parse_begin(std::string_view text) {
  const std::string_view name = text.substr(0, text.find(' '));
  const auto* const found = std::ranges::find(kFromNames, name, &FromName::name);
  if (found == std::end(kFromNames)) return std::nullopt;
  StreamOffset begin{found->from, 0};
  text.remove_prefix(std::min(name.size() + 1, text.size()));
  if (text.empty()) return begin;
  const auto value = number<std::int64_t>(text);
  if (!value) return std::nullopt;
  begin.value = *value;
  return begin;
}

std::optional<std::vector<StreamPosition::Range>> parse_ranges(std::string_view text) {
  std::vector<StreamPosition::Range> ranges;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(word.size() + 1, text.size()));
    const std::size_t dash = word.find('-');
    const auto first = number<std::int64_t>(word.substr(0, dash));
    const auto last =
        dash == std::string_view::npos ? first : number<std::int64_t>(word.substr(dash + 1));
    if (!first || !last || *first > *last || *first < 0) return std::nullopt;
    if (!ranges.empty() && *first <= ranges.back().last) return std::nullopt;
    ranges.push_back({*first, *last});
  }
  return ranges;
}

}  // namespace

std::uint64_t begin_print(std::string_view message_id, std::string_view routing_key,
                          std::uint64_t timestamp, std::uint64_t body_size) {
  return mix(mix(mix(mix(1, message_id), routing_key), timestamp), body_size);
}

std::uint64_t end_print(std::uint64_t begun, std::string_view body) {
  return never_zero(mix(begun, body.substr(0, kPrinted)));
}

std::string position_text(std::string_view stream, const StreamPosition& position) {
  std::string text(kFirstLine);
  text += "stream " + escape(stream) + "\n";
  text += "begin ";
  text += std::ranges::find(kFromNames, position.begin.from, &FromName::from)->name;
  text += " " + std::to_string(position.begin.value) + "\n";
  text += "seen " + std::to_string(position.seen) + "\nopen";
  for (const auto& [first, last] : position.open) {
    text += " " + std::to_string(first);
    if (last != first) text += "-" + std::to_string(last);
  }
  if (position.open.empty()) text += " ";
  text += "\nprint " + std::to_string(position.print) + "\n";
  return text + "sum " + std::to_string(mix(0, text)) + "\n";
}

Result<StreamPosition> parse_position(std::string_view text) {
  const Error damaged{"expected a stream's position with its sum, found another text"};
  const std::size_t sum_at = text.rfind("\nsum ");
  if (!text.starts_with(kFirstLine) || sum_at == std::string_view::npos) return damaged;
  const std::string_view summed = text.substr(0, sum_at + 1);
  std::string_view rest = text.substr(sum_at + 1);
  const auto sum = take_line(rest, "sum");
  if (!sum || !rest.empty() || number<std::uint64_t>(*sum) != mix(0, summed)) return damaged;

  rest = summed.substr(kFirstLine.size());
  const auto stream = take_line(rest, "stream");
  const auto begin = take_line(rest, "begin");
  const auto seen = take_line(rest, "seen");
  const auto open = take_line(rest, "open");
  const auto print = take_line(rest, "print");
  if (!stream || !begin || !seen || !open || !print || !rest.empty()) return damaged;
  const auto from = parse_begin(*begin);
  const auto highest = number<std::int64_t>(*seen);
  auto ranges = parse_ranges(*open);
  const auto printed = number<std::uint64_t>(*print);
  if (!from || !highest || *highest < -1 || !ranges || !printed) return damaged;
  if (!ranges->empty() && ranges->back().last > *highest) return damaged;
  return StreamPosition{*from, *highest, std::move(*ranges), *printed};
}

StreamProgress::StreamProgress(const StreamPosition& position)
    : begin_(position.begin), seen_(position.seen) {
  for (const auto& [first, last] : position.open) {
    for (std::int64_t offset = first; offset <= last; ++offset) {
      entries_.push_back({offset, 0, State::given_back});
    }
  }
  (entries_.empty() ? seen_print_ : entries_.front().print) = position.print;
}

StreamOffset StreamProgress::subscribe(std::int64_t now_s) {
  over_ = false;
  first_ = true;
  comparing_ = false;
  resumed_at_ = -1;
  if (!resumes()) {
    const StreamOffset from = begin_;
    if (from.from == StreamOffset::From::next || from.from == StreamOffset::From::last) {
      begin_ = {StreamOffset::From::time, now_s - kClockMargin_s};
      ++changes_;
    }
    return from;
  }
  const Entry* const open = first_open();
  resumed_at_ = open != nullptr ? open->offset : seen_;
  expected_ = open != nullptr ? open->print : seen_print_;
  return {StreamOffset::From::number, resumed_at_};
}

StreamProgress::Arrival StreamProgress::arrived(std::int64_t offset) {
  lost_ = 0;
  if (over_) return Arrival::skip;
  if (std::exchange(first_, false) && resumed_at_ >= 0) {
    if (offset == resumed_at_) {
      comparing_ = expected_ != 0;
    } else if (offset > resumed_at_) {
      for (Entry& entry : entries_) {
        if (entry.offset >= offset) break;
        if (entry.state != State::given_back) continue;
        entry.state = State::settled;
        ++settled_;
        ++lost_;
      }
      lost_ += std::max<std::int64_t>(offset - seen_ - 1, 0);
      forget_settled();
    }
  }
  const bool compare = comparing_ && offset == resumed_at_;
  if (offset > seen_) {
    seen_ = offset;
    seen_print_ = 0;
    entries_.push_back({offset, 0, State::in_hand});
    ++changes_;
    return Arrival::take;
  }
  Entry* const entry = find(offset);
  if (entry == nullptr || entry->state != State::given_back) {
    // One that was kept as done behind another that was open has no print yet.
    const bool unknown = offset == seen_ && seen_print_ == 0;
    return compare || unknown ? Arrival::compare : Arrival::skip;
  }
  entry->state = State::in_hand;
  return Arrival::take;
}

bool StreamProgress::complete(std::int64_t offset, std::uint64_t print) {
  if (comparing_ && offset == resumed_at_) {
    comparing_ = false;
    if (print != expected_) return false;
  }
  const auto learn = [&](std::uint64_t& known) {
    if (std::exchange(known, print) != print) ++changes_;
  };
  if (offset == seen_) learn(seen_print_);
  if (Entry* const entry = find(offset); entry != nullptr) learn(entry->print);
  return true;
}

void StreamProgress::settled(std::int64_t offset) {
  Entry* const entry = find(offset);
  if (entry == nullptr || entry->state != State::in_hand) return;
  entry->state = State::settled;
  ++settled_;
  ++changes_;
  forget_settled();
}

void StreamProgress::given_back(std::int64_t offset) {
  Entry* const entry = find(offset);
  if (entry != nullptr && entry->state == State::in_hand) entry->state = State::given_back;
}

void StreamProgress::start_over() {
  begin_ = {StreamOffset::From::first, 0};
  seen_ = -1;
  seen_print_ = 0;
  entries_.clear();
  settled_ = 0;
  over_ = true;
  ++changes_;
}

StreamPosition StreamProgress::position() const {
  StreamPosition position{begin_, seen_, {}, seen_print_};
  for (const Entry& entry : entries_) {
    if (entry.state == State::settled) continue;
    if (!position.open.empty() && position.open.back().last + 1 == entry.offset) {
      position.open.back().last = entry.offset;
    } else {
      position.open.push_back({entry.offset, entry.offset});
    }
  }
  if (const Entry* const open = first_open(); open != nullptr) position.print = open->print;
  return position;
}

std::int64_t StreamProgress::next() const {
  if (const Entry* const open = first_open(); open != nullptr) return open->offset;
  return seen_ < 0 ? -1 : seen_ + 1;
}

StreamProgress::Entry* StreamProgress::find(std::int64_t offset) {
  const auto found = std::ranges::lower_bound(entries_, offset, {}, &Entry::offset);
  return found != entries_.end() && found->offset == offset ? &*found : nullptr;
}

// Those at the front at once, those between others when they are the most.
void StreamProgress::forget_settled() {
  constexpr std::size_t kFew = 64;
  while (!entries_.empty() && entries_.front().state == State::settled) {
    entries_.pop_front();
    --settled_;
  }
  if (settled_ < kFew || 2 * settled_ < entries_.size()) return;
  std::erase_if(entries_, [](const Entry& entry) { return entry.state == State::settled; });
  settled_ = 0;
}

}  // namespace lope::consumer
