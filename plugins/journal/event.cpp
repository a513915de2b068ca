#include "event.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace lope::plugins {

namespace {

using Json = nlohmann::json;

struct TextField {
  std::string_view key;
  std::string Event::*member;
};
constexpr TextField kTexts[] = {
    {"event", &Event::event},
    {"source", &Event::source},
    {"kind", &Event::kind},
    {"host", &Event::host},
    {"group", &Event::group},
    {"queue", &Event::queue},
    {"message_id", &Event::message_id},
    {"parent_id", &Event::parent_id},
    {"trace_id", &Event::trace_id},
    {"exchange", &Event::exchange},
    {"routing_key", &Event::routing_key},
    {"content_type", &Event::content_type},
    {"type", &Event::type},
    {"app_id", &Event::app_id},
    {"outcome", &Event::outcome},
    {"reason", &Event::reason},
    {"code", &Event::code},
    {"worker", &Event::worker},
    {"handler", &Event::handler},
    {"handler_version", &Event::handler_version},
    {"fate", &Event::fate},
    {"body", &Event::body},
    {"body_encoding", &Event::body_encoding},
};
struct NumberField {
  std::string_view key;
  std::int64_t Event::*member;
};
constexpr NumberField kNumbers[] = {
    {"n", &Event::n},
    {"time_us", &Event::time_us},
    {"attempt", &Event::attempt},
    {"size", &Event::size},
    {"waited_us", &Event::waited_us},
    {"ran_us", &Event::ran_us},
    {"delay_ms", &Event::delay_ms},
    {"crashes", &Event::crashes},
    {"timestamp", &Event::timestamp},
};
struct FlagField {
  std::string_view key;
  bool Event::*member;
};
constexpr FlagField kFlags[] = {{"redelivered", &Event::redelivered},
                                {"body_cut", &Event::body_cut}};

template <typename Field, std::size_t kSize>
const Field* find(const Field (&fields)[kSize], std::string_view key) {
  for (const Field& field : fields) {
    if (field.key == key) return &field;
  }
  return nullptr;
}

// Values go to their fields as they come: no tree is made of a line. The object `headers` is
// written out again, since the parser keeps no place in its input.
class Reader {
 public:
  Reader(Event& event, std::string& problem) : event_(event), problem_(problem) {}

  bool null() { return scalar("null"); }
  bool boolean(bool value) {
    if (depth_ == 1) {
      if (const FlagField* const field = find(kFlags, key_)) event_.*field->member = value;
    }
    return scalar(value ? "true" : "false");
  }
  bool number_integer(std::int64_t value) { return number(value); }
  bool number_unsigned(std::uint64_t value) {
    const auto most = static_cast<std::uint64_t>(INT64_MAX);
    return number(static_cast<std::int64_t>(std::min(value, most)));
  }
  bool number_float(double value, const std::string& text) {
    if (depth_ == 1 && std::abs(value) < 9e18) return number(static_cast<std::int64_t>(value));
    return scalar(text);
  }
  bool string(std::string& value) {
    if (depth_ == 1) {
      if (const TextField* const field = find(kTexts, key_)) (event_.*field->member).swap(value);
    } else if (in_headers()) {
      return scalar(quoted(value));
    }
    return depth_ > 0;
  }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return begin('{'); }
  bool end_object() { return end('}'); }
  bool start_array(std::size_t) { return begin('['); }
  bool end_array() { return end(']'); }
  bool key(std::string& name) {
    if (depth_ == 1) {
      key_.swap(name);
    } else if (in_headers()) {
      separate();
      event_.headers += quoted(name) + ":";
      first_ = true;
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    // Behind what the library calls it.
    problem_ = error.what();
    if (const std::size_t end = problem_.find("] "); end != std::string::npos) {
      problem_.erase(0, end + 2);
    }
    return false;
  }

 private:
  static std::string quoted(const std::string& text) { return Json(text).dump(); }
  bool in_headers() const { return depth_ > 1 && key_ == "headers"; }
  void separate() {
    if (!first_) event_.headers += ',';
    first_ = false;
  }
  bool scalar(const std::string& json) {
    if (in_headers()) {
      separate();
      event_.headers += json;
    }
    return depth_ > 0;
  }
  bool number(std::int64_t value) {
    if (depth_ == 1) {
      if (const NumberField* const field = find(kNumbers, key_)) event_.*field->member = value;
      return true;
    }
    return scalar(std::to_string(value));
  }
  bool begin(char bracket) {
    if (depth_ == 0 && bracket != '{') return false;
    if (in_headers()) separate();
    ++depth_;
    if (in_headers()) event_.headers += bracket;
    first_ = true;
    return true;
  }
  bool end(char bracket) {
    if (in_headers()) event_.headers += bracket;
    --depth_;
    first_ = false;
    return true;
  }

  Event& event_;
  std::string& problem_;
  std::string key_;  // of the event's own field
  int depth_ = 0;
  bool first_ = true;  // in its object or array
};

// A consumer cuts them too; an index of PostgreSQL takes about 2700 bytes.
constexpr std::size_t kMostOfText = 1024;
constexpr std::size_t kMostOfReason = 2000;

// 30 years; a reader may add such numbers to times.
constexpr std::int64_t kLongestUs = 30LL * 366 * 86'400 * 1'000'000;

void cut(std::string& text, std::size_t most) {
  if (text.size() <= most) return;
  std::size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
}

void limit(Event& event) {
  for (const TextField& field : kTexts) {
    if (field.member == &Event::body) continue;
    cut(event.*field.member, field.member == &Event::reason ? kMostOfReason : kMostOfText);
  }
  for (std::int64_t* const took : {&event.waited_us, &event.ran_us}) {
    *took = std::clamp<std::int64_t>(*took, 0, kLongestUs);
  }
  event.delay_ms = std::clamp<std::int64_t>(event.delay_ms, 0, kLongestUs / 1000);
}

void clear(Event& event) {
  for (const TextField& field : kTexts) (event.*field.member).clear();
  for (const NumberField& field : kNumbers) event.*field.member = 0;
  for (const FlagField& field : kFlags) event.*field.member = false;
  event.headers.clear();
}

}  // namespace

bool parse_event(std::string_view line, Event& event, std::string& problem,
                 std::int64_t latest_us) {
  clear(event);
  problem.clear();
  Reader reader(event, problem);
  if (!Json::sax_parse(line, &reader)) {
    if (problem.empty()) problem = "expected a JSON object, found something else";
    return false;
  }
  if (event.event != "received" && event.event != "handled" && event.event != "published") {
    cut(event.event, kMostOfText);
    problem = "event: expected received, handled or published, found '" + event.event + "'";
    return false;
  }
  limit(event);
  if (event.source.empty()) problem = "source: expected a text, found none";
  if (event.n <= 0) problem = "n: expected a number above 0, found " + std::to_string(event.n);
  if (event.time_us <= 0) {
    problem = "time_us: expected a number above 0, found " + std::to_string(event.time_us);
  } else if (event.time_us > latest_us) {
    problem = "time_us: expected at most a day ahead of this machine's clock, found " +
              std::to_string(event.time_us);
  }
  return problem.empty();
}

}  // namespace lope::plugins
