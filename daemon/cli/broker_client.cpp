#include "cli/broker_client.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "common/text.h"

namespace lope::cli {

namespace {

using namespace std::chrono_literals;
using consumer::Connection;

constexpr auto kRequestTimeout = 10s;
constexpr auto kCloseTimeout = 1s;
constexpr auto kHeartbeat = 30s;
constexpr auto kTick = 5s;  // how often the connection must be pumped, for its heartbeats
constexpr int kFramesPerTurn = 256;

}  // namespace

std::string plural(std::uint64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

std::string target_text(const std::string& exchange, const std::string& routing_key) {
  if (exchange.empty()) return "queue '" + escape(routing_key) + "'";
  return "exchange '" + escape(exchange) + "' with key '" + escape(routing_key) + "'";
}

// ---- Beginning and ending

bool BrokerClient::connect(const BrokerSettings& broker) {
  for (const BrokerAddress& address : broker.addresses) {
    const auto connected = connect(address, broker);
    if (connected) return true;
    say(connected.error());
  }
  return false;
}

Result<void> BrokerClient::connect(const BrokerAddress& address, const BrokerSettings& broker) {
  auto opened = Connection::open(address, {broker.connect_timeout}, kHeartbeat, command_,
                                 broker.tls, broker.login);
  if (!opened) return Error{opened.error()};
  connection_ = std::move(*opened);
  vhost_ = address.vhost;
  return {};
}

void BrokerClient::catch_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  signals_.reset(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  // Without it they end the process at once, as ever.
  if (signals_.valid()) ::sigprocmask(SIG_BLOCK, &signals, nullptr);
}

void BrokerClient::close() {
  if (connection_ == nullptr || blocked_) return;
  answered_ = false;
  if (!connection_->writable() || !connection_->send_close()) return;
  const TimePoint deadline = Clock::now() + kCloseTimeout;
  while (!answered_ && Clock::now() < deadline) {
    const auto pumped = connection_->pump(*this, kFramesPerTurn);
    if (!pumped) return;
    if (*pumped == Connection::Pumped::dry && !answered_) wait(deadline, false);
  }
}

// ---- Asking

BrokerClient::Answer BrokerClient::ask(ChannelNumber channel, const consumer::Request& request) {
  expect_answer();
  if (!wait_for_room()) return Answer::nothing;
  if (auto sent = connection_->send(channel, request); !sent) {
    lost(sent.error());
    return Answer::nothing;
  }
  return wait_for_answer(channel, describe(request));
}

BrokerClient::Answer BrokerClient::ask(ChannelNumber channel,
                                       const consumer::Publication& publication) {
  expect_answer();
  if (!wait_for_room()) return Answer::nothing;
  if (auto put = connection_->publish(channel, publication); !put) {
    fail(put.error());
    return Answer::nothing;
  }
  // Publishing has no answer: the refusal comes in place of this one's.
  if (auto sent = connection_->send(channel, consumer::Qos{1}); !sent) {
    lost(sent.error());
    return Answer::nothing;
  }
  return wait_for_answer(channel,
                         "publish to exchange '" + std::string(publication.exchange) + "'");
}

BrokerClient::Answer BrokerClient::wait_for_answer(ChannelNumber channel, const std::string& what) {
  asking_ = channel;
  const TimePoint deadline = Clock::now() + kRequestTimeout;
  while (!answered_ && !refused_ && connection_ != nullptr && !given_up_ &&
         (finishing_ || !interrupted_)) {
    if (Clock::now() >= deadline) {
      fail(what + ": no answer" + (blocked_ ? ": the broker blocks publishers" : ""));
      break;
    }
    if (auto written = connection_->write(); !written) {
      lost(written.error());
      break;
    }
    if (pump() && !answered_ && !refused_ && connection_ != nullptr) {
      wait(deadline, connection_->unwritten() > 0);
    }
  }
  asking_ = 0;
  if (refused_) return Answer::no;
  return answered_ ? Answer::yes : Answer::nothing;
}

// ---- Working

bool BrokerClient::pump() {
  const auto pumped = connection_->pump(*this, kFramesPerTurn);
  if (!pumped) {
    lost(pumped.error());
    return true;
  }
  return *pumped == Connection::Pumped::dry;
}

bool BrokerClient::wait(TimePoint until, bool for_room, int input) {
  const TimePoint now = Clock::now();
  const auto left = std::max(std::min(until, now + kTick) - now, TimePoint::duration::zero());
  const timespec timeout{
      static_cast<time_t>(std::chrono::duration_cast<std::chrono::seconds>(left).count()),
      static_cast<long>((left % 1s).count())};
  const short input_of_broker =
      connection_ != nullptr && connection_->reading_needs_room() ? POLLOUT : POLLIN;
  std::array<pollfd, 3> fds{
      {{connection_ == nullptr ? -1 : connection_->fd(),
        static_cast<short>(for_room ? POLLOUT | input_of_broker : input_of_broker), 0},
       {input, POLLIN, 0},
       {signals_.valid() ? signals_.get() : -1, POLLIN, 0}}};
  if (::ppoll(fds.data(), fds.size(), &timeout, nullptr) <= 0) return false;
  if (fds[2].revents != 0) on_signal();
  return fds[1].revents != 0;
}

bool BrokerClient::wait_for_room() {
  while (connection_ != nullptr && !connection_->writable()) {
    pump();
    if (connection_ != nullptr) wait(TimePoint::max(), true);
    if (given_up_) return false;
  }
  return connection_ != nullptr;
}

void BrokerClient::on_signal() {
  signalfd_siginfo info;
  if (::read(signals_.get(), &info, sizeof info) != sizeof info) return;
  if (interrupted_) given_up_ = true;
  interrupted_ = true;
  fail("interrupted by " + signal_name(static_cast<int>(info.ssi_signo)));
}

// ---- What goes wrong

bool BrokerClient::fail(const std::string& text) {
  if (error_.empty()) error_ = text;
  stopping_ = true;
  return false;
}

bool BrokerClient::lost(const std::string& text) {
  connection_.reset();
  return fail("connection lost: " + text);
}

std::string BrokerClient::no_queue(const std::string& queue) const {
  return "no queue '" + escape(queue) + "' in vhost '" + escape(vhost_) + "'";
}

std::string BrokerClient::unroutable(const std::string& exchange, const std::string& routing_key,
                                     const consumer::ReturnedPublication& returned) const {
  if (exchange.empty()) return no_queue(routing_key);
  return target_text(exchange, routing_key) + ": no queue takes it (" +
         std::to_string(returned.code) + " " + escape(returned.text) + ")";
}

// ---- What the broker says

void BrokerClient::on_channel_closed(ChannelNumber channel, int code, std::string_view text) {
  const Refusal refusal{code, escape(text)};
  if (channel != asking_) return channel_lost(channel, refusal);
  refused_ = true;
  refusal_ = refusal;
}

void BrokerClient::on_blocked(std::string_view reason) {
  blocked_ = true;
  block_reason_ = escape(reason);
  say("the broker blocks publishers: " + block_reason_);
}

void BrokerClient::on_unblocked() {
  blocked_ = false;
  say("the broker takes messages again");
}

// ---- Telling

Progress::Output BrokerClient::progress_output() {
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

void BrokerClient::write(const std::string& text) { std::fputs(text.c_str(), stderr); }

void BrokerClient::erase_bar() {
  if (progress_ != nullptr) write(progress_->clear());
}

void BrokerClient::say(const std::string& text) {
  erase_bar();
  write(command_ + ": " + text + "\n");
}

bool BrokerClient::flush_output() {
  if (std::fflush(stdout) == 0) return true;
  say(errno_text("standard output: write", errno));
  return false;
}

}  // namespace lope::cli
