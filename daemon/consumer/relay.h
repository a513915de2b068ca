// The process that forwards what has left the delay ladder, to the exchange and key that its
// headers name. One a daemon; those of all daemons compete for the one queue at the ladder's end. A
// message is acked there once its copy is confirmed. What cannot be delivered goes back into the
// ladder for a while, and in the end to a queue of its own: it never keeps the others waiting.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/event_loop.h"
#include "common/log.h"
#include "common/repeated_log.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "consumer/copies.h"
#include "consumer/delivery_table.h"
#include "consumer/orders.h"
#include "consumer/publisher.h"
#include "consumer/session.h"

namespace lope::consumer {

class Relay {
 public:
  Relay(const ConsumerSettings& settings, GroupBoard& board);

  // Runs until it is drained or stopped. Returns the exit code.
  int run();

 private:
  Result<void> set_up();
  bool turn();
  char* on_delivery(std::uint64_t epoch, const IncomingDelivery& incoming);
  void on_complete();
  void on_channel_lost();
  void forward(Delivery& delivery);
  void give_up(Delivery& delivery, const Travel& travel, const std::string& kind,
               const std::string& reason);
  void log_repeated(LogLevel level, std::string_view event, const Delivery& delivery,
                    const Travel& travel, const std::string& kind, const std::string& reason,
                    const Field& then);
  void publish(Delivery& delivery, std::unique_ptr<Outbound> copy);
  void on_fate(std::unique_ptr<Outbound> copy, Fate fate, const std::string& reason);
  void settle(Delivery& delivery, Verdict verdict);
  void hand_back_due();
  void drain(std::chrono::milliseconds limit);
  void advance_drain();
  void stop();
  void update_board();

  const ConsumerSettings& settings_;
  GroupBoard& board_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Orders> orders_;
  RepeatedLog repeated_;
  DeliveryTable table_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Publisher> publisher_;
  Delivery* receiving_ = nullptr;
  std::vector<std::uint32_t> delayed_;  // to be handed back when due
  std::size_t publishing_ = 0;
  bool draining_ = false;
  bool closing_ = false;
  bool overtime_ = false;
  bool done_ = false;
  TimePoint deadline_{};
  GroupState reported_state_ = GroupState::starting;
  std::string reported_trouble_;

  EventSource tick_timer_;
  EventSource delay_timer_;
  EventSource deadline_timer_;
};

}  // namespace lope::consumer
