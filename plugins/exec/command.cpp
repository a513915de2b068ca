#include "command.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <system_error>
#include <utility>

namespace lope::plugins {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRead = 64 * 1024;
// What is still read of a program that has ended: its pipe's content, of any size it may have.
constexpr std::size_t kLastReads = 1024 * 1024 / kRead;
constexpr std::size_t kLongestName = 255;  // of an exchange, and a routing key

int poll_timeout(Clock::time_point due) {
  if (due == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 3'600'000));
}

// Writes what the pipe takes of `rest`; true when there is nothing more to be written.
bool write_some(const Fd& pipe, std::string_view& rest) {
  while (!rest.empty()) {
    const ssize_t n = ::write(pipe.get(), rest.data(), rest.size());
    if (n > 0) {
      rest.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno != EINTR) {
      return errno != EAGAIN;  // it need not read its input: EPIPE is no failure
    }
  }
  return true;
}

std::string name_of(const Message& message) {
  if (!message.message_id().empty()) return std::string(message.message_id());
  return "#" + std::to_string(message.delivery_tag());
}

// Before the command runs: the host would refuse it afterwards.
void require_name(const char* option, const std::string& name) {
  if (name.size() <= kLongestName) return;
  throw Reject("option '" + std::string(option) + "': expected at most " +
               std::to_string(kLongestName) + " bytes, found " + std::to_string(name.size()));
}

}  // namespace

Command::Command(const Host& host, const ExecSettings& settings)
    : host_(host),
      settings_(settings),
      measures_(host),
      arguments_(settings),
      output_(host, Level::info, settings.log_lines),
      errors_(host, Level::warn, settings.log_lines) {
  if (settings.output == ExecSettings::Output::none) {
    null_ = Fd(::open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (!null_.open()) throw std::system_error(errno, std::generic_category(), "open /dev/null");
  }
}

Outcome Command::run(const Message& message) {
  if (settings_.output == ExecSettings::Output::reply && message.reply_to().empty()) {
    throw Reject("expected a message with 'reply_to', which the output goes to, found none");
  }
  arguments_.fill(message);
  Publication made;
  if (settings_.output == ExecSettings::Output::publish) {
    made.exchange = settings_.exchange.expand(message);
    made.routing_key = settings_.routing_key.expand(message);
    require_name("publish.exchange", made.exchange);
    require_name("publish.routing_key", made.routing_key);
  }
  const std::string name = name_of(message);
  if (!arguments_.left_out().empty()) {
    std::string names;
    for (const std::string& each : arguments_.left_out()) names += " " + each;
    host_.warn(name + ": too large for the environment, or with a NUL, and left out:" + names);
  }
  output_.begin(name + ": ");
  errors_.begin(name + ": ");
  captured_.clear();
  too_large_ = false;
  const auto begin = Clock::now();
  Ended ended;
  try {
    ended = run_program(message.body_text());
  } catch (const std::system_error& error) {
    const std::string why = settings_.program + ": " + error.what();
    if (error.code().value() == E2BIG) throw Reject(why);
    throw Retry(why);
  }
  output_.end();
  errors_.end();
  Outcome outcome = judge(message, ended);
  if (outcome == Outcome::ack) {
    try {
      send_output(message, made);
    } catch (const Error& error) {
      // Refused as it is, it would be the same the next time.
      const bool never = error.status() == LOPE_E_INVALID || error.status() == LOPE_E_TOO_LARGE;
      outcome = never ? Outcome::reject : Outcome::retry;
      message.explain(std::string("its output cannot be sent: ") + error.what());
    }
  }
  measures_.outcome(outcome, Clock::now() - begin);
  return outcome;
}

Command::Ended Command::run_program(std::string_view body) {
  const bool discards = null_.open();
  Pipe in = pipe_to_program();
  Pipe out = discards ? Pipe{} : pipe_from_program();
  Pipe err = pipe_from_program();
  // Before it runs: a small body is never waited for.
  if (write_some(in.ours, body)) in.ours.reset();
  const char* const directory = settings_.directory.empty() ? nullptr : settings_.directory.c_str();
  Process process({settings_.program.c_str(),
                   directory,
                   arguments_.argv(),
                   arguments_.envp(),
                   {in.theirs.get(), discards ? null_.get() : out.theirs.get(), err.theirs.get()}});
  measures_.started();
  in.theirs.reset();
  // Its other ends stay open here until it has ended: so it does not wake us by closing them.

  Ended ended;
  auto due = Clock::time_point::max();
  if (settings_.time_limit.count() > 0) due = Clock::now() + settings_.time_limit;
  while (true) {
    pollfd fds[] = {{process.pidfd(), POLLIN, 0},
                    {out.ours.get(), POLLIN, 0},  // one that is closed is passed over
                    {err.ours.get(), POLLIN, 0},
                    {in.ours.get(), POLLOUT, 0}};
    if (::poll(fds, std::size(fds), poll_timeout(due)) < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "poll");
    }
    if (fds[0].revents != 0) break;
    if (fds[1].revents != 0 && !read_from(out.ours, true)) out.ours.reset();
    if (fds[2].revents != 0 && !read_from(err.ours, false)) err.ours.reset();
    if (fds[3].revents != 0 && write_some(in.ours, body)) in.ours.reset();
    if (Clock::now() < due) continue;
    process.signal_group(ended.out_of_time ? SIGKILL : SIGTERM);
    due = ended.out_of_time ? Clock::time_point::max() : Clock::now() + settings_.grace;
    if (!ended.out_of_time) measures_.time_limit();
    ended.out_of_time = true;
  }
  ended.how = process.reap();
  drain(out.ours, true);
  drain(err.ours, false);
  return ended;
}

// False: nothing more will come.
bool Command::read_from(const Fd& pipe, bool is_output) {
  char buffer[kRead];
  const ssize_t n = ::read(pipe.get(), buffer, sizeof buffer);
  if (n <= 0) return n < 0 && (errno == EAGAIN || errno == EINTR);
  const std::string_view bytes(buffer, static_cast<std::size_t>(n));
  if (is_output) {
    take_output(bytes);
  } else {
    errors_.add(bytes);
  }
  return true;
}

// What a program has left in its pipe; one that it has started may hold it open, and fill it.
void Command::drain(const Fd& pipe, bool is_output) {
  if (!pipe.open()) return;
  pollfd fd{pipe.get(), POLLIN, 0};
  for (std::size_t i = 0; i < kLastReads; ++i) {
    if (::poll(&fd, 1, 0) <= 0 || !read_from(pipe, is_output)) return;
  }
}

void Command::take_output(std::string_view bytes) {
  if (settings_.output == ExecSettings::Output::log) {
    output_.add(bytes);
    return;
  }
  too_large_ = too_large_ || captured_.size() + bytes.size() > settings_.output_limit;
  if (!too_large_) captured_ += bytes;
}

Outcome Command::judge(const Message& message, const Ended& ended) const {
  Outcome outcome = Outcome::retry;
  std::string why = ended.how.to_string();
  if (ended.out_of_time) {
    why = "time_limit is up: " + why;
  } else if (!ended.how.signalled) {
    outcome = settings_.outcomes[static_cast<std::size_t>(ended.how.code)];
  }
  if (outcome == Outcome::ack && too_large_) {
    outcome = Outcome::reject;
    why = "expected an output of at most " + std::to_string(settings_.output_limit) +
          " bytes (output_limit), found more";
  }
  if (outcome == Outcome::ack) return outcome;
  if (!errors_.last().empty()) why += ": " + std::string(errors_.last());
  message.explain(why);
  return outcome;
}

void Command::send_output(const Message& message, Publication& made) {
  made.content_type = settings_.content_type;
  made.body = std::move(captured_);
  switch (settings_.output) {
    case ExecSettings::Output::log:
    case ExecSettings::Output::none: return;
    case ExecSettings::Output::publish:
      if (!made.body.empty()) message.publish(made);
      return;
    case ExecSettings::Output::reply: message.reply(made); return;
  }
}

}  // namespace lope::plugins
