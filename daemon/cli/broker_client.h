// What the commands that talk to a broker have in common: one connection on which one thing after
// another is asked, signals that end the command in good order, and what is told on standard error.
// Each command is a class of its own on top of this.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/progress.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::cli {

// "1 message", "2 messages"
std::string plural(std::uint64_t count, const std::string& noun);

// "queue 'hello'", or "exchange 'e' with key 'k'".
std::string target_text(const std::string& exchange, const std::string& routing_key);

class BrokerClient : protected consumer::ConnectionEvents {
 public:
  BrokerClient(const BrokerClient&) = delete;
  BrokerClient& operator=(const BrokerClient&) = delete;

 protected:
  using ChannelNumber = consumer::ChannelNumber;

  // `command` begins every line on standard error: "lope publish".
  explicit BrokerClient(std::string command) : command_(std::move(command)) {}
  ~BrokerClient() override = default;

  // ---- Beginning and ending

  // With the first that can be logged in to; of each that cannot be it says why. False: with none.
  bool connect(const BrokerSettings& broker);
  // `address` is one of the broker's.
  Result<void> connect(const BrokerAddress& address, const BrokerSettings& broker);
  // From here on SIGINT and SIGTERM are on_signal().
  void catch_signals();
  // In good order, so that the broker has read everything and logs no connection that vanished.
  void close();

  // ---- Asking

  enum class Answer {
    yes,
    no,       // the broker closed the channel: refusal()
    nothing,  // the connection is lost, time is up, or the user has interrupted: error_ says it
  };
  // Sends and waits for the answer.
  Answer ask(ChannelNumber channel, const consumer::Request& request);
  // The same with a publication that the broker is to refuse; yes: it has not.
  Answer ask(ChannelNumber channel, const consumer::Publication& publication);
  // The same for what is no Request: expect_answer(), send it, and wait until answered() is called.
  void expect_answer() { answered_ = refused_ = false; }
  Answer wait_for_answer(ChannelNumber channel, const std::string& what);
  // To be called by an event that is the answer; on_ok() is one.
  void answered() { answered_ = true; }
  struct Refusal {
    int code = 0;
    std::string text;  // the broker's, made safe to show
    std::string to_string() const { return std::to_string(code) + " " + text; }
  };
  const Refusal& refusal() const { return refusal_; }

  // ---- Working

  // Handles what has arrived. True when nothing more is to be read now.
  bool pump();
  // Until the broker or a signal says something, there is room to write (when asked for) or
  // something to read from `input` (when not negative), or it is time. True: input is there.
  bool wait(TimePoint until, bool for_room, int input = -1);
  // Waits until small frames can be written. False: the connection is lost.
  bool wait_for_room();

  // ---- What goes wrong. The first reason is the one that is told.

  bool fail(const std::string& text);
  bool lost(const std::string& text);

  // Why a publication came back, or would.
  std::string no_queue(const std::string& queue) const;
  std::string unroutable(const std::string& exchange, const std::string& routing_key,
                         const consumer::ReturnedPublication& returned) const;

  // ---- Telling

  static Progress::Output progress_output();
  static void write(const std::string& text);
  void erase_bar();
  // A line on standard error.
  void say(const std::string& text);
  // Standard output has taken everything; otherwise it says why not.
  bool flush_output();

  // ---- For who builds on this

  // The broker closed a channel that nobody was asking on.
  virtual void channel_lost(ChannelNumber channel, const Refusal& refusal) = 0;

  void on_ok(ChannelNumber, consumer::Reply, std::string_view) override { answered(); }
  void on_channel_closed(ChannelNumber channel, int code, std::string_view text) final;
  void on_blocked(std::string_view reason) override;
  void on_unblocked() override;
  char* on_delivery(const consumer::IncomingDelivery&) override { return nullptr; }
  void on_body(ChannelNumber) override {}
  void on_cancelled(ChannelNumber, std::string_view) override {}
  void on_returned(const consumer::ReturnedPublication&) override {}
  void on_confirmed(ChannelNumber, std::uint64_t, bool, bool) override {}

  const std::string command_;
  std::string vhost_;
  std::unique_ptr<consumer::Connection> connection_;  // null once it is lost
  std::unique_ptr<Progress> progress_;
  bool blocked_ = false;
  std::string block_reason_;
  bool stopping_ = false;     // nothing more is begun
  bool interrupted_ = false;  // by a signal
  bool given_up_ = false;     // by a second one
  bool finishing_ = false;    // ask() goes on although interrupted
  std::string error_;

 private:
  void on_signal();

  UniqueFd signals_;
  ChannelNumber asking_ = 0;  // on this channel; 0: on none
  bool answered_ = false;
  bool refused_ = false;
  Refusal refusal_;
};

}  // namespace lope::cli
