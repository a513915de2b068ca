#include "cli/publish.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>

#include "cli/progress.h"
#include "common/clock.h"
#include "common/exit_code.h"
#include "common/fd.h"
#include "common/text.h"
#include "common/uuid.h"
#include "consumer/connection.h"

namespace lope::cli {

namespace {

using namespace std::chrono_literals;
using consumer::ChannelNumber;
using consumer::Connection;

constexpr auto kConnectTimeout = 5s;  // for one address
constexpr auto kRequestTimeout = 10s;
constexpr auto kCloseTimeout = 1s;
constexpr auto kHeartbeat = 30s;
constexpr auto kTick = 5s;  // how often the connection must be pumped, for its heartbeats

constexpr ChannelNumber kChannel = 1;

// What is sent and not confirmed stays below these: a broker that stops reading is noticed before
// the socket is full, and few messages have an unknown fate when the connection breaks.
constexpr std::size_t kMaxUnconfirmed = 1000;
constexpr std::size_t kMaxUnconfirmedBytes = 8 << 20;

constexpr std::size_t kMaxBody = 512 << 20;  // no RabbitMQ can be told to take more
constexpr std::size_t kReadSize = 1 << 16;

constexpr std::size_t kMaxShortText = 255;  // AMQP's short strings
// What the headers may take of the frame that holds all properties; the other properties are ten
// short strings at most.
constexpr std::size_t kMaxHeaderBytes = 131072 - 4096;

std::string plural(std::uint64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

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

// The bodies to publish, one after another: the same one `count` times, or the lines of a file.
class Bodies {
 public:
  static Result<Bodies> open(const PublishOptions& options) {
    Bodies bodies;
    bodies.left_ = options.count;
    if (options.body) {
      bodies.text_ = *options.body;
      return bodies;
    }
    if (options.file == "-") {
      bodies.fd_ = STDIN_FILENO;
      bodies.name_ = "standard input";
      if (::isatty(STDIN_FILENO) == 1) {
        std::fputs("lope publish: reading from the terminal; Ctrl-D ends it\n", stderr);
      }
    } else {
      bodies.file_.reset(::open(options.file.c_str(), O_RDONLY | O_CLOEXEC));
      bodies.fd_ = bodies.file_.get();
      bodies.name_ = "'" + options.file + "'";
      if (!bodies.file_.valid()) return Error{bodies.name_ + ": " + errno_text("open", errno)};
    }
    if (options.lines) {
      bodies.lines_ = true;
      return bodies;
    }
    while (bodies.fd_ >= 0) {
      if (auto read = bodies.read(); !read) return Error{read.error()};
    }
    return bodies;
  }

  // Valid until read(). Nothing: this was the last, or more must be read() first.
  std::optional<std::string_view> next() {
    if (!lines_) {
      if (left_ == 0) return std::nullopt;
      --left_;
      return text_;
    }
    const std::string_view rest = std::string_view(text_).substr(position_);
    const std::size_t end = rest.find('\n', searched_);
    if (end == std::string_view::npos && (fd_ >= 0 || rest.empty())) {
      searched_ = rest.size();
      return std::nullopt;
    }
    position_ += end == std::string_view::npos ? rest.size() : end + 1;
    searched_ = 0;
    return rest.substr(0, end);
  }

  // What to poll for input; negative at its end.
  int fd() const { return fd_; }

  // Takes what is there. Blocks when nothing is.
  Result<void> read() {
    text_.erase(0, position_);
    position_ = 0;
    const std::size_t before = text_.size();
    text_.resize(before + kReadSize);
    const ssize_t size = ::read(fd_, text_.data() + before, kReadSize);
    const int error = errno;
    text_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    if (size < 0 && error == EAGAIN) {
      // Somebody else has made it non-blocking.
      pollfd input{fd_, POLLIN, 0};
      ::poll(&input, 1, -1);
      return {};
    }
    if (size < 0 && error != EINTR) return Error{name_ + ": " + errno_text("read", error)};
    if (size == 0) fd_ = -1;
    if (text_.size() > kMaxBody) {
      return Error{name_ + ": expected bodies of at most 512 MiB, found more"};
    }
    return {};
  }

 private:
  UniqueFd file_;
  int fd_ = -1;
  std::string name_;
  bool lines_ = false;
  std::string text_;
  std::uint64_t left_ = 0;    // how often text_ is still to be sent
  std::size_t position_ = 0;  // lines: where the next one starts
  std::size_t searched_ = 0;  // lines: so much behind it holds no newline
};

class Publishing final : private consumer::ConnectionEvents {
 public:
  Publishing(const PublishOptions& options, Bodies bodies)
      : options_(options),
        bodies_(std::move(bodies)),
        target_(options.exchange.empty() ? "queue '" + options.routing_key + "'"
                                         : "exchange '" + options.exchange + "' with key '" +
                                               options.routing_key + "'") {}

  int run() {
    if (!connect()) return kExitTemporary;
    catch_signals();
    if (ask(consumer::ChannelOpen{}) && ask(consumer::ConfirmSelect{})) {
      start_ = last_life_ = due_ = Clock::now();
      finished_ = start_;
      progress_ = std::make_unique<Progress>(options_.lines ? 0 : options_.count, output(), start_);
      publish_all();
      erase_bar();
    }
    close();
    return report();
  }

 private:
  // ---- Setting up and ending

  bool connect() {
    for (const BrokerAddress& address : options_.brokers) {
      auto opened = Connection::open(address, kConnectTimeout, kHeartbeat, "lope publish");
      if (opened) {
        connection_ = std::move(*opened);
        vhost_ = address.vhost;
        return true;
      }
      say(opened.error());
    }
    return false;
  }

  void catch_signals() {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGINT);
    ::sigaddset(&signals, SIGTERM);
    signals_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    // Without it they end the process at once, as ever.
    if (signals_.valid()) ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  }

  // Sends and waits for the answer.
  bool ask(const consumer::Request& request) {
    answered_ = false;
    if (auto sent = connection_->send(kChannel, request); !sent) return lost(sent.error());
    const TimePoint deadline = Clock::now() + kRequestTimeout;
    while (!answered_ && error_.empty()) {
      if (Clock::now() >= deadline) return fail(describe(request) + ": no answer");
      if (pump() && !answered_ && error_.empty()) wait(deadline, false, false);
    }
    return answered_;
  }

  // So that the broker does not log a connection that just vanished.
  void close() {
    if (connection_ == nullptr || blocked_) return;
    answered_ = false;
    if (!connection_->writable() || !connection_->send_close()) return;
    const TimePoint deadline = Clock::now() + kCloseTimeout;
    while (!answered_ && Clock::now() < deadline) {
      const auto pumped = connection_->pump(*this, kFramesPerTurn);
      if (!pumped) return;
      if (*pumped == Connection::Pumped::dry && !answered_) wait(deadline, false, false);
    }
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
      TimePoint wake = std::min(now + kTick, progress_->next());
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
      wait(wake, unwritten || (to_send && !writable), !stopping_ && !body_);
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
    publication.body = body;
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

  // True when nothing more is to be read now.
  bool pump() {
    const auto pumped = connection_->pump(*this, kFramesPerTurn);
    if (!pumped) {
      lost(pumped.error());
      return true;
    }
    return *pumped == Connection::Pumped::dry;
  }

  // Until the broker or a signal says something, there is input or room to write (when asked for),
  // or it is time.
  void wait(TimePoint until, bool for_room, bool for_input) {
    const auto left = std::max(until - Clock::now(), TimePoint::duration::zero());
    const timespec timeout{
        static_cast<time_t>(std::chrono::duration_cast<std::chrono::seconds>(left).count()),
        static_cast<long>((left % 1s).count())};
    std::array<pollfd, 3> fds{{{connection_ == nullptr ? -1 : connection_->fd(),
                                static_cast<short>(for_room ? POLLIN | POLLOUT : POLLIN), 0},
                               {for_input ? bodies_.fd() : -1, POLLIN, 0},
                               {signals_.valid() ? signals_.get() : -1, POLLIN, 0}}};
    if (::ppoll(fds.data(), fds.size(), &timeout, nullptr) <= 0) return;
    if (fds[2].revents != 0) on_signal();
    if (fds[1].revents != 0) {
      if (auto read = bodies_.read(); !read) fail(read.error());
    }
  }

  void on_signal() {
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof info) != sizeof info) return;
    if (interrupted_) given_up_ = true;
    interrupted_ = true;
    fail("interrupted by " + signal_name(static_cast<int>(info.ssi_signo)));
  }

  // ---- What went wrong. The first reason is the one that is told.

  bool fail(const std::string& text) {
    if (error_.empty()) error_ = text;
    stopping_ = true;
    return false;
  }

  bool lost(const std::string& text) {
    connection_.reset();
    return fail("connection lost: " + text);
  }

  // ---- What the broker says

  void on_ok(ChannelNumber, consumer::Reply, std::string_view) override { answered_ = true; }

  void on_channel_closed(ChannelNumber, int code, std::string_view text) override {
    channel_closed_ = true;
    // What the channel was closed for is no message. Which one that was is known of the first.
    if (published_ == 1 && unconfirmed_.size() == 1) {
      ++refused_;
      unconfirmed_.clear();
    }
    fail(target_ + ": " + std::to_string(code) + " " + escape(text));
  }

  void on_returned(const consumer::ReturnedPublication& publication) override {
    ++returned_;
    if (options_.exchange.empty()) {
      fail("no queue '" + options_.routing_key + "' in vhost '" + vhost_ + "'");
    } else {
      fail(target_ + ": no queue takes it (" + std::to_string(publication.code) + " " +
           escape(publication.text) + ")");
    }
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
    blocked_ = true;
    block_reason_ = escape(reason);
    last_life_ = Clock::now();
    say("the broker blocks publishers: " + block_reason_);
  }

  void on_unblocked() override {
    blocked_ = false;
    last_life_ = Clock::now();
    say("the broker takes messages again");
  }

  // Nothing is consumed here.
  char* on_delivery(const consumer::IncomingDelivery&) override { return nullptr; }
  void on_body(ChannelNumber) override {}
  void on_cancelled(ChannelNumber, std::string_view) override {}

  // ---- Telling

  static Progress::Output output() {
    const char* term = std::getenv("TERM");
    Progress::Output output;
    output.terminal =
        ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
    winsize size{};
    if (output.terminal && ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
      output.columns = size.ws_col;
    }
    return output;
  }

  static void write(const std::string& text) { std::fputs(text.c_str(), stderr); }

  void erase_bar() {
    if (progress_ != nullptr) write(progress_->clear());
  }

  void say(const std::string& text) {
    erase_bar();
    write("lope publish: " + text + "\n");
  }

  int report() {
    // The broker confirms what it returned as well.
    const std::uint64_t confirmed = acked_ - std::min(acked_, returned_);
    const double seconds = std::chrono::duration<double>(finished_ - start_).count();
    const bool ok = error_.empty();
    if (options_.json) {
      std::printf(
          "{\"published\":%llu,\"confirmed\":%llu,\"returned\":%llu,\"refused\":%llu,"
          "\"seconds\":%.3f}\n",
          static_cast<unsigned long long>(published_), static_cast<unsigned long long>(confirmed),
          static_cast<unsigned long long>(returned_), static_cast<unsigned long long>(refused_),
          seconds);
    } else if (ok) {
      std::string text = plural(published_, "message") + " published to " + target_;
      if (published_ > 0) text += ", confirmed";
      if (published_ > 1) {
        char time[64];
        std::snprintf(time, sizeof time, " in %.2f s", seconds);
        text += time;
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
    if (std::fflush(stdout) != 0) {
      say(errno_text("standard output: write", errno));
      return kExitFailed;
    }
    return ok ? kExitOk : kExitFailed;
  }

  static constexpr int kFramesPerTurn = 256;
  static constexpr int kMessagesPerTurn = 64;

  const PublishOptions& options_;
  Bodies bodies_;
  const std::string target_;  // "queue 'hello'", for people
  std::string vhost_;
  std::unique_ptr<Connection> connection_;  // null once it is lost
  UniqueFd signals_;
  std::unique_ptr<Progress> progress_;

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

  std::optional<std::string_view> body_;  // the next to go
  std::map<std::uint64_t, std::size_t>
      unconfirmed_;  // confirm tag, which is the number: body's size
  std::size_t unconfirmed_bytes_ = 0;
  std::uint64_t published_ = 0, acked_ = 0, refused_ = 0, returned_ = 0;
  TimePoint start_, finished_;  // the first message, the last confirm
  TimePoint due_;               // not before then the next message
  TimePoint last_life_;         // when the broker last did anything with our messages

  bool answered_ = false;
  bool channel_closed_ = false;
  bool blocked_ = false;
  std::string block_reason_;
  bool stopping_ = false;     // nothing more is sent
  bool interrupted_ = false;  // by a signal
  bool given_up_ = false;     // by a second one
  std::string error_;
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
  auto bodies = Bodies::open(options);
  if (!bodies) {
    std::fprintf(stderr, "lope publish: %s\n", bodies.error().c_str());
    return kExitFailed;
  }
  return Publishing(options, std::move(*bodies)).run();
}

}  // namespace lope::cli
