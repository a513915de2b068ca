#include "cli/publish.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>

#include "cli/broker_client.h"
#include "common/clock.h"
#include "common/content_encoding.h"
#include "common/exit_code.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "common/uuid.h"
#include "common/wall_time.h"
#include "consumer/connection.h"
#include "consumer/delay_ladder.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

using namespace std::chrono_literals;
using consumer::ChannelNumber;

constexpr const char* kCommand = "lope publish";
constexpr ChannelNumber kChannel = 1;
constexpr ChannelNumber kLookChannel = 2;  // may be closed by what is looked for

// What is sent and not confirmed stays below these: a broker that stops reading is noticed before
// the socket is full, and few messages have an unknown fate when the connection breaks.
constexpr std::size_t kMaxUnconfirmed = 1000;
constexpr std::size_t kMaxUnconfirmedBytes = 8 << 20;

constexpr std::size_t kMaxShortText = 255;  // AMQP's short strings
// What the headers may take of the frame that holds all properties; the other properties are ten
// short strings at most.
constexpr std::size_t kMaxHeaderBytes = 131072 - 4096;

std::int64_t now_ms() { return static_cast<std::int64_t>(unix_ms()); }

std::string with_number(std::string_view body, std::uint64_t number) {
  constexpr std::string_view kMark = "{n}";
  const std::string digits = std::to_string(number);
  std::string result;
  while (true) {
    const std::size_t mark = body.find(kMark);
    result += body.substr(0, mark);
    if (mark == std::string_view::npos) return result;
    result += digits;
    body.remove_prefix(mark + kMark.size());
  }
}

class Publishing final : private BrokerClient {
 public:
  Publishing(const PublishOptions& options, Bodies bodies)
      : BrokerClient(kCommand),
        options_(options),
        bodies_(std::move(bodies)),
        later_(options.delay.count() > 0 || options.at_ms.value_or(0) > now_ms()),
        target_(target_text(options.exchange, options.routing_key)) {
    if (options.at_ms && !later_) {
      say(time_text(*options.at_ms) + " is past: published at once");
    }
  }

  int run() {
    if (!connect(options_.broker)) return kExitTemporary;
    catch_signals();
    if (begin(consumer::ChannelOpen{}) && (!later_ || prepare_delay()) &&
        begin(consumer::ConfirmSelect{})) {
      start_ = last_life_ = due_ = Clock::now();
      finished_ = start_;
      progress_ = std::make_unique<Progress>(options_.lines ? 0 : options_.count, progress_output(),
                                             start_);
      publish_all();
      erase_bar();
    }
    close();
    return report();
  }

 private:
  // ---- Setting up

  bool begin(const consumer::Request& request) {
    const Answer answer = ask(kChannel, request);
    if (answer == Answer::no) fail(describe(request) + ": " + refusal().to_string());
    return answer == Answer::yes;
  }

  // What is sent later is published by somebody else, where nobody would see that it cannot be: so
  // its destination is looked for now.
  bool prepare_delay() {
    const std::string version = connection_->broker_version();
    if (!consumer::has_delay_ladder(version)) {
      return fail("delays: expected RabbitMQ 3.10 or later, found " + escape(version));
    }
    return look_for_destination() && declare_ladder();
  }

  bool look_for_destination() {
    if (options_.exchange.empty() && !options_.mandatory) return true;
    consumer::Request look;
    if (options_.exchange.empty()) {
      look = consumer::QueueDeclare{options_.routing_key, {}, true};
    } else {
      consumer::ExchangeDeclare exchange;
      exchange.exchange.name = options_.exchange;
      exchange.passive = true;
      look = exchange;
    }
    if (ask(kLookChannel, consumer::ChannelOpen{}) != Answer::yes) {
      return fail("open channel: " + refusal().to_string());
    }
    const Answer answer = ask(kLookChannel, look);
    if (answer != Answer::no) return answer == Answer::yes;
    constexpr int kNotFound = 404, kLocked = 405;
    if (refusal().code == kLocked) return true;  // another connection's own
    if (refusal().code == kNotFound && options_.exchange.empty())
      return fail(no_queue(options_.routing_key));
    return fail(target_ + ": " + refusal().to_string());
  }

  bool declare_ladder() {
    const std::int64_t delay = options_.at_ms ? *options_.at_ms - now_ms() : options_.delay.count();
    const auto entry =
        consumer::ladder_entry(options_.delay_prefix, std::chrono::milliseconds(delay));
    for (const consumer::Request& step :
         consumer::ladder_steps(options_.delay_prefix, entry.level)) {
      if (!begin(step)) return false;
    }
    return true;
  }

  // ---- The loop

  void publish_all() {
    while (true) {
      const bool writable = publish_some();
      if (connection_ == nullptr || channel_closed_ || given_up_) return;
      if (auto sent = connection_->write(); !sent) {
        lost(sent.error());
        return;
      }
      const bool unwritten = connection_->unwritten() > 0;
      const bool dry = pump();
      if (connection_ == nullptr || channel_closed_) return;
      // What is sent is waited for also after a failure: as many fates as possible become known.
      const bool ended = stopping_ || (!body_ && bodies_.fd() < 0);
      if (ended && unconfirmed_.empty()) return;

      const TimePoint now = Clock::now();
      if (const std::string text = progress_->update(acked_, now); !text.empty()) write(text);
      TimePoint wake = progress_->next();
      if (options_.timeout.count() > 0 && (blocked_ || !unconfirmed_.empty())) {
        const TimePoint give_up = last_life_ + options_.timeout;
        if (now >= give_up) {
          fail("the broker has confirmed nothing for " +
               std::to_string(options_.timeout.count() / 1000) + " s" +
               (blocked_ ? ": it blocks publishers (" + block_reason_ + ")" : ""));
          return;
        }
        wake = std::min(wake, give_up);
      }
      const bool to_send = may_send() && body_.has_value();
      if (to_send && due_ > now) wake = std::min(wake, due_);
      if (!dry || (to_send && writable && due_ <= now)) continue;
      const int input = !stopping_ && !body_ ? bodies_.fd() : -1;
      if (wait(wake, unwritten || (to_send && !writable), input)) {
        if (auto read = bodies_.read(); !read) fail(read.error());
      }
    }
  }

  bool may_send() const {
    if (stopping_ || blocked_) return false;
    // The first one goes alone. Whatever is wrong with all of them (no such exchange, nobody bound,
    // another's user id, too large), the broker says of it, and nothing else is under way then.
    if (acked_ + refused_ == 0) return unconfirmed_.empty();
    return unconfirmed_.size() < kMaxUnconfirmed && unconfirmed_bytes_ < kMaxUnconfirmedBytes;
  }

  // Sends what may be sent now, a bounded number. False when the socket takes no more.
  bool publish_some() {
    for (int i = 0; i < kMessagesPerTurn; ++i) {
      if (!body_ && !stopping_) body_ = bodies_.next();
      if (!body_ || !may_send()) return true;
      const TimePoint now = Clock::now();
      if (due_ > now) return true;
      if (!connection_->writable()) return false;
      if (options_.rate > 0) {
        // Late by more than a moment: the lost time is not made up for in a burst.
        const auto interval = std::chrono::duration_cast<TimePoint::duration>(
            std::chrono::duration<double>(std::min(1 / options_.rate, 1e9)));
        due_ = std::max(due_ + interval, now - 100ms);
      }
      if (!publish_one(*body_, now)) return true;
      body_.reset();
    }
    if (!stopping_) body_ = bodies_.next();
    return true;
  }

  bool publish_one(std::string_view body, TimePoint now) {
    const std::uint64_t number = published_ + 1;
    std::string numbered;
    if (options_.numbered) body = numbered = with_number(body, number);
    std::string id = options_.message_id.empty() ? uuid() : options_.message_id;
    if (!options_.message_id.empty() && (options_.lines || options_.count > 1)) {
      id += "-" + std::to_string(number);
    }
    consumer::Publication& publication = publication_;
    publication.message_id = id;
    publication.timestamp = options_.timestamp.value_or(unix_ns() / 1'000'000'000);
    publication.body = body = packed(body);
    const std::int64_t wall = now_ms();
    address(options_.at_ms.value_or(wall + options_.delay.count()), wall);
    if (auto put = connection_->publish(kChannel, publication); !put) {
      return fail(target_ + ": message " + std::to_string(number) + ": " + put.error());
    }
    published_ = number;
    // Nothing was awaited of the broker while nothing was unconfirmed.
    if (unconfirmed_.empty()) last_life_ = now;
    unconfirmed_.emplace(number, body.size());
    unconfirmed_bytes_ += body.size();
    return true;
  }

  // What is sent of it. One body that is sent many times is compressed once.
  std::string_view packed(std::string_view body) {
    if (options_.compress.empty()) return body;
    if (published_ == 0 || options_.numbered || options_.lines) {
      smaller_ = compress_body(options_.compress, body, packed_);
    }
    publication_.content_encoding = smaller_ ? std::string_view(options_.compress) : "";
    return smaller_ ? std::string_view(packed_.data(), packed_.size()) : body;
  }

  // Where the publication goes: on its way over the ladder, or right away.
  void address(std::int64_t due_ms, std::int64_t wall_ms) {
    if (!later_) return;
    consumer::Publication& publication = publication_;
    publication.headers = options_.headers;
    const bool now = due_ms <= wall_ms;
    publication.exchange = options_.exchange;
    publication.routing_key = options_.routing_key;
    publication.mandatory = now ? options_.mandatory : true;
    publication.persistent = now ? options_.persistent : true;
    publication.expiration = now ? std::string_view(options_.expiration) : std::string_view();
    first_due_ms_ = std::min(first_due_ms_.value_or(due_ms), due_ms);
    last_due_ms_ = due_ms;
    if (now) return;
    consumer::Trip trip;
    trip.due_ms = static_cast<std::uint64_t>(due_ms);
    trip.exchange = options_.exchange;
    trip.routing_key = options_.routing_key;
    trip.transient = !options_.persistent;
    trip.may_be_unroutable = !options_.mandatory;
    trip.expiration_ms = options_.expiration.empty() ? 0 : std::stoull(options_.expiration);
    consumer::add_trip(publication.headers, trip);
    entry_ =
        consumer::ladder_entry(options_.delay_prefix, std::chrono::milliseconds(due_ms - wall_ms));
    publication.exchange = entry_.exchange;
    publication.routing_key = entry_.routing_key;
  }

  // ---- What the broker says

  void channel_lost(ChannelNumber, const Refusal& refusal) override {
    channel_closed_ = true;
    // What the channel was closed for is no message. Which one that was is known of the first.
    if (published_ == 1 && unconfirmed_.size() == 1) {
      ++refused_;
      unconfirmed_.clear();
    }
    fail(target_ + ": " + refusal.to_string());
  }

  void on_returned(const consumer::ReturnedPublication& publication) override {
    ++returned_;
    fail(unroutable(std::string(publication.exchange), std::string(publication.routing_key),
                    publication));
  }

  void on_confirmed(ChannelNumber, std::uint64_t tag, bool multiple, bool ack) override {
    last_life_ = finished_ = Clock::now();
    const auto last = multiple ? unconfirmed_.upper_bound(tag) : unconfirmed_.find(tag);
    const auto settle = [&](std::map<std::uint64_t, std::size_t>::iterator each) {
      unconfirmed_bytes_ -= each->second;
      ++(ack ? acked_ : refused_);
      if (!ack)
        fail(target_ + ": the broker refused message " + std::to_string(each->first) +
             " (is the queue full?)");
      return unconfirmed_.erase(each);
    };
    if (multiple) {
      for (auto each = unconfirmed_.begin(); each != last;) each = settle(each);
    } else if (last != unconfirmed_.end()) {
      settle(last);
    }
  }

  void on_blocked(std::string_view reason) override {
    BrokerClient::on_blocked(reason);
    last_life_ = Clock::now();
  }

  void on_unblocked() override {
    BrokerClient::on_unblocked();
    last_life_ = Clock::now();
  }

  // ---- Telling

  int report() {
    // The broker confirms what it returned as well.
    const std::uint64_t confirmed = acked_ - std::min(acked_, returned_);
    const double seconds = std::chrono::duration<double>(finished_ - start_).count();
    const bool ok = error_.empty();
    if (options_.json) {
      std::printf(
          "{\"published\":%llu,\"confirmed\":%llu,\"returned\":%llu,\"refused\":%llu,"
          "\"seconds\":%.3f%s}\n",
          static_cast<unsigned long long>(published_), static_cast<unsigned long long>(confirmed),
          static_cast<unsigned long long>(returned_), static_cast<unsigned long long>(refused_),
          seconds,
          first_due_ms_ ? (",\"due\":" + json_quote(utc_text(*first_due_ms_))).c_str() : "");
    } else if (ok) {
      std::string text = plural(published_, "message") + " published to " + target_;
      if (published_ > 0) text += ", confirmed";
      if (published_ > 1) {
        char time[64];
        std::snprintf(time, sizeof time, " in %.2f s", seconds);
        text += time;
      }
      if (first_due_ms_) {
        text += ", due " + time_text(*first_due_ms_);
        if (last_due_ms_ > *first_due_ms_) text += " to " + time_text(last_due_ms_);
      }
      std::printf("%s\n", text.c_str());
    }
    if (!ok) {
      std::string text = error_;
      if (published_ > 1 || confirmed > 0 || !unconfirmed_.empty()) {
        text += "; " + std::to_string(confirmed) + " of " + plural(published_, "message") +
                " confirmed";
        if (returned_ > 0) text += ", " + std::to_string(returned_) + " returned";
        if (refused_ > 0) text += ", " + std::to_string(refused_) + " refused";
        if (!unconfirmed_.empty()) {
          text += ", the fate of " + std::to_string(unconfirmed_.size()) + " not known";
        }
      }
      say(text);
    }
    return flush_output() && ok ? kExitOk : kExitFailed;
  }

  static constexpr int kMessagesPerTurn = 64;

  const PublishOptions& options_;
  Bodies bodies_;
  const bool later_;          // with a delay, or at a time that is to come
  const std::string target_;  // "queue 'hello'", for people

  // All but what differs from message to message.
  consumer::Publication publication_ = [this] {
    consumer::Publication publication;
    publication.exchange = options_.exchange;
    publication.routing_key = options_.routing_key;
    publication.mandatory = options_.mandatory;
    publication.persistent = options_.persistent;
    publication.content_type = options_.content_type;
    publication.content_encoding = options_.content_encoding;
    publication.correlation_id = options_.correlation_id;
    publication.reply_to = options_.reply_to;
    publication.type = options_.type;
    publication.app_id = options_.app_id;
    publication.user_id = options_.user_id;
    publication.expiration = options_.expiration;
    publication.priority = options_.priority;
    publication.headers = options_.headers;
    return publication;
  }();

  consumer::LadderEntry entry_;  // views of the publication point here
  std::optional<std::int64_t> first_due_ms_;
  std::int64_t last_due_ms_ = 0;

  std::optional<std::string_view> body_;  // the next to go
  ByteBuffer packed_;                     // the latest, compressed
  bool smaller_ = false;                  // that is
  std::map<std::uint64_t, std::size_t>
      unconfirmed_;  // confirm tag, which is the number: body's size
  std::size_t unconfirmed_bytes_ = 0;
  std::uint64_t published_ = 0, acked_ = 0, refused_ = 0, returned_ = 0;
  TimePoint start_, finished_;  // the first message, the last confirm
  TimePoint due_;               // not before then the next message
  TimePoint last_life_;         // when the broker last did anything with our messages

  bool channel_closed_ = false;
};

}  // namespace

Result<AmqpEntry> parse_header(std::string_view text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return Error{"expected NAME=VALUE, found '" + escape(text) + "'"};
  }
  const std::string value(text.substr(equals + 1));
  std::string name(text.substr(0, equals));
  std::string type = "text";
  if (const std::size_t colon = name.rfind(':'); colon != std::string::npos) {
    type = name.substr(colon + 1);
    name.resize(colon);
  }
  const auto expected = [&](const std::string& what) {
    return Error{"header '" + escape(name) + "': expected " + what + ", found '" + escape(value) +
                 "'"};
  };
  const auto number = [&value](auto& to) {
    const char* end = value.data() + value.size();
    const auto [stopped, error] = std::from_chars(value.data(), end, to);
    return error == std::errc{} && stopped == end;
  };
  if (name.empty()) return Error{"expected NAME=VALUE, found '" + escape(text) + "'"};
  if (name.size() > kMaxShortText) {
    return Error{"header '" + escape(name, 40) + "': expected a name of at most 255 bytes, found " +
                 std::to_string(name.size())};
  }
  if (type == "text") return AmqpEntry{name, AmqpValue{value}};
  if (type == "int") {
    std::int64_t integer = 0;
    if (!number(integer)) return expected("a whole number of 64 bits");
    return AmqpEntry{name, AmqpValue{integer}};
  }
  if (type == "double") {
    double real = 0;
    if (!number(real) || !std::isfinite(real)) return expected("a number");
    return AmqpEntry{name, AmqpValue{real}};
  }
  if (type == "bool") {
    if (value != "true" && value != "false") return expected("true or false");
    return AmqpEntry{name, AmqpValue{value == "true"}};
  }
  return Error{"header '" + escape(name) + "': expected type text, int, bool or double, found '" +
               escape(type) + "'"};
}

Result<void> check(const PublishOptions& options) {
  // Behind a message id comes "-" and a number of at most twenty digits.
  const bool several = options.lines || options.count > 1;
  struct Text {
    const char* name;
    const std::string& value;
    std::size_t limit = kMaxShortText;
  };
  const Text texts[] = {
      {"exchange", options.exchange},
      {options.exchange.empty() ? "queue" : "key", options.routing_key},
      {"content type", options.content_type},
      {"content encoding", options.content_encoding},
      {"correlation id", options.correlation_id},
      {"reply-to", options.reply_to},
      {"message id", options.message_id, several ? kMaxShortText - 21 : kMaxShortText},
      {"type", options.type},
      {"application id", options.app_id},
      {"user id", options.user_id},
  };
  for (const Text& text : texts) {
    if (text.value.size() > text.limit) {
      return Error{std::string(text.name) + ": expected at most " + std::to_string(text.limit) +
                   " bytes, found " + std::to_string(text.value.size())};
    }
  }
  if (!options.expiration.empty()) {
    std::uint32_t ms = 0;
    const char* end = options.expiration.data() + options.expiration.size();
    const auto [stopped, error] = std::from_chars(options.expiration.data(), end, ms);
    if (error != std::errc{} || stopped != end) {
      return Error{"expiration: expected a number of milliseconds up to 4294967295, found '" +
                   escape(options.expiration) + "'"};
    }
  }
  if (options.delay > consumer::kLongestDelay ||
      options.at_ms.value_or(0) - now_ms() > consumer::kLongestDelay.count()) {
    return Error{"delay: expected at most " +
                 duration_text(std::chrono::floor<std::chrono::days>(consumer::kLongestDelay)) +
                 ", found more"};
  }
  if (!is_plain_name(options.delay_prefix, kMaxDelayPrefix)) {
    return Error{"delay prefix: expected 1 to " + std::to_string(kMaxDelayPrefix) +
                 " letters, digits, '.', '_' and '-', found '" + escape(options.delay_prefix, 128) +
                 "'"};
  }
  std::size_t bytes = 0;
  for (const auto& [name, value] : options.headers) {
    const auto* text = std::get_if<std::string>(&value.value);
    bytes += name.size() + (text != nullptr ? text->size() : sizeof(double)) + 8;
  }
  if (bytes > kMaxHeaderBytes) {
    return Error{"headers: expected at most " + std::to_string(kMaxHeaderBytes) +
                 " bytes together, found " + std::to_string(bytes)};
  }
  return {};
}

int publish(const PublishOptions& options) {
  auto bodies = Bodies::open(options, kCommand);
  if (!bodies) {
    std::fprintf(stderr, "%s: %s\n", kCommand, bodies.error().c_str());
    return kExitFailed;
  }
  return Publishing(options, std::move(*bodies)).run();
}

}  // namespace lope::cli
