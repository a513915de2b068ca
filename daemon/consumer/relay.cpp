#include "consumer/relay.h"

#include <unistd.h>

#include <algorithm>

#include "common/exit_code.h"
#include "common/log.h"
#include "common/text.h"
#include "consumer/delay_ladder.h"
#include "consumer/topology.h"

namespace lope::consumer {

namespace {

// What could not be published anywhere is handed back after this.
constexpr std::chrono::seconds kHandBackAfter{5};
// How long the broker may take to hear our last words.
constexpr std::chrono::milliseconds kCloseGrace{500};

}  // namespace

Relay::Relay(const ConsumerSettings& settings, GroupBoard& board)
    : settings_(settings), board_(board) {}

Result<void> Relay::set_up() {
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);
  Orders::Events orders_events;
  orders_events.on_drain = [this](std::optional<std::chrono::milliseconds> limit) {
    drain(limit.value_or(settings_.shutdown_timeout));
  };
  orders_events.on_stop = [this] { stop(); };
  orders_events.on_settings = [](const ConsumerSettings& next, ReplaceWorkers) {
    set_log_level(next.log.level);
  };
  auto orders = Orders::create(*loop_, std::move(orders_events));
  if (!orders) return Error{orders.error()};
  orders_ = std::move(*orders);
  auto delay = loop_->make_timer([this] { hand_back_due(); });
  if (!delay) return Error{delay.error()};
  delay_timer_ = std::move(*delay);
  auto tick = loop_->make_timer([this] { tick_timer_.arm(Clock::now() + kProgress); });
  if (!tick) return Error{tick.error()};
  tick_timer_ = std::move(*tick);
  tick_timer_.arm(Clock::now());
  auto deadline = loop_->make_timer([this] {
    overtime_ = true;
    if (closing_) stop();
  });
  if (!deadline) return Error{deadline.error()};
  deadline_timer_ = std::move(*deadline);

  const std::string name = "lope relay [" + std::to_string(::getpid()) + "]";
  Session::Events session_events;
  session_events.on_delivery = [this](std::uint16_t, std::uint64_t epoch,
                                      const IncomingDelivery& incoming) {
    return on_delivery(epoch, incoming);
  };
  session_events.on_complete = [this](std::uint16_t) { on_complete(); };
  session_events.on_channel_lost = [this](std::uint16_t) { on_channel_lost(); };
  session_events.on_change = [] {};
  session_events.steps = [this](const QueueSettings& queue, bool channel_open) {
    std::vector<Request> steps;
    if (!channel_open) steps.emplace_back(ChannelOpen{});
    for (Request& each : ladder_end_steps(settings_.delays.prefix))
      steps.push_back(std::move(each));
    for (Request& each : subscription_steps(queue, true)) steps.push_back(std::move(each));
    return steps;
  };
  auto session = Session::create(*loop_, settings_.broker, name, settings_.group, board_,
                                 std::move(session_events));
  if (!session) return Error{session.error()};
  session_ = std::move(*session);

  Publisher::Events publisher_events;
  publisher_events.on_fate = [this](std::unique_ptr<Outbound> copy, Fate fate,
                                    const std::string& reason) {
    on_fate(std::move(copy), fate, reason);
  };
  publisher_events.on_connection = [this](const Connection* connection) {
    show_broker(board_.publishes_to, connection);
  };
  publisher_events.steps_for = [this](const std::string& need) {
    return steps_for(need, settings_.delays, {}, false);
  };
  auto publisher = Publisher::create(*loop_, settings_.broker, name + " publishing",
                                     settings_.group.name, std::move(publisher_events));
  if (!publisher) return Error{publisher.error()};
  publisher_ = std::move(*publisher);
  return {};
}

int Relay::run() {
  if (auto done = set_up(); !done) {
    log_error("cannot start the relay", {{"reason", done.error()}});
    board_.last_error.set(done.error());
    return kExitTemporary;
  }
  session_->start();
  while (!done_) {
    const bool more = turn();
    if (done_) break;
    std::optional<std::chrono::microseconds> limit;
    if (more) limit = std::chrono::microseconds(0);
    session_->wake_for_anything();
    if (auto ran = loop_->run_once(limit); !ran) {
      log_error("the event loop failed", {{"reason", ran.error()}});
      return kExitFailed;
    }
  }
  board_.state.store(static_cast<std::uint32_t>(GroupState::ended), std::memory_order_relaxed);
  Orders::report_change();
  return kExitOk;
}

bool Relay::turn() {
  board_.progress.fetch_add(1, std::memory_order_relaxed);
  bool more = session_->pump();
  more = publisher_->pump() || more;
  publisher_->flush();
  session_->flush(!more);
  advance_drain();
  update_board();
  return more && !done_;
}

// ---- One message's way

char* Relay::on_delivery(std::uint64_t epoch, const IncomingDelivery& incoming) {
  board_.delivered.fetch_add(1, std::memory_order_relaxed);
  if (draining_) {
    session_->finish(0, incoming.view.delivery_tag, Verdict::hand_back);
    return nullptr;
  }
  Delivery& delivery = table_.allocate();
  delivery.state = Delivery::State::receiving;
  delivery.queue = 0;
  delivery.epoch = epoch;
  delivery.tag = incoming.view.delivery_tag;
  delivery.properties.assign_size(incoming.properties.size());
  std::copy(incoming.properties.begin(), incoming.properties.end(), delivery.properties.data());
  receiving_ = &delivery;
  return encode_delivery(incoming.view, incoming.body_size, delivery.frame);
}

void Relay::on_complete() {
  Delivery& delivery = *std::exchange(receiving_, nullptr);
  if (draining_) {
    settle(delivery, Verdict::hand_back);
    return;
  }
  forward(delivery);
}

void Relay::forward(Delivery& delivery) {
  const auto view = decode_delivery(delivery.frame.bytes());
  const Travel travel = view ? travel_of(view->headers) : Travel{};
  if (!travel.has_destination) {
    give_up(delivery, travel, "no destination", "its headers do not say where it is to go");
    return;
  }
  std::uint64_t left = 0;
  if (travel.expiration_ms > 0) {
    const std::uint64_t ends = travel.due_ms + travel.expiration_ms;
    const std::uint64_t now = unix_ms();
    if (ends <= now) {
      give_up(delivery, travel, "expired",
              "expired: it was to be delivered at the latest " + std::to_string(now - ends) +
                  " ms ago");
      return;
    }
    left = ends - now;
  }
  publish(delivery, due_copy(delivery, left));
}

// `kind`: of reason, without what is the message's own.
void Relay::give_up(Delivery& delivery, const Travel& travel, const std::string& kind,
                    const std::string& reason) {
  log_repeated(LogLevel::error, "delayed message cannot be delivered", delivery, travel, kind,
               reason, {"to", "queue " + undeliverable_name(settings_.delays.prefix)});
  publish(delivery, undeliverable_copy(settings_.delays, delivery, reason));
}

// Once a minute for each destination and kind: a queue that is gone is each message's trouble.
void Relay::log_repeated(LogLevel level, std::string_view event, const Delivery& delivery,
                         const Travel& travel, const std::string& kind, const std::string& reason,
                         const Field& then) {
  std::string what(event);
  for (const std::string_view part : {travel.to_exchange, travel.to_key, std::string_view(kind)}) {
    what.append(1, '\n').append(part);
  }
  const std::size_t count = repeated_.count(what, Clock::now());
  if (count == 0) return;
  const auto view = decode_delivery(delivery.frame.bytes());
  log_event(level, event,
            {{"group", settings_.group.name},
             {"message_id", view ? (*view)[TextProperty::message_id] : std::string_view()},
             {"exchange", travel.to_exchange},
             {"key", travel.to_key},
             {"reason", reason},
             {"messages", count},
             then});
}

void Relay::publish(Delivery& delivery, std::unique_ptr<Outbound> copy) {
  if (delivery.state != Delivery::State::publishing) ++publishing_;
  delivery.state = Delivery::State::publishing;
  copy->cause = table_.new_sequence(delivery);
  publisher_->publish(std::move(copy));
}

void Relay::on_fate(std::unique_ptr<Outbound> copy, Fate fate, const std::string& reason) {
  Delivery* const delivery = table_.find(copy->cause);
  if (delivery == nullptr || delivery->state != Delivery::State::publishing) return;
  const auto kind = static_cast<CopyKind>(copy->kind);
  if (fate == Fate::confirmed) {
    if (kind == CopyKind::undeliverable)
      board_.undeliverable.fetch_add(1, std::memory_order_relaxed);
    if (kind == CopyKind::again) board_.retried.fetch_add(1, std::memory_order_relaxed);
    if (kind == CopyKind::due) board_.published.fetch_add(1, std::memory_order_relaxed);
    --publishing_;
    settle(*delivery, Verdict::ack);
    return;
  }
  if (fate == Fate::too_large && next_best(*copy, fate, {})) {
    publish(*delivery, std::move(copy));
    return;
  }
  const std::string why = std::string(to_string(fate)) + ": " + reason;
  const bool never_fits = kind == CopyKind::again && fate == Fate::too_large;
  if ((kind == CopyKind::due && fate != Fate::lost) || never_fits) {
    const auto view = decode_delivery(delivery->frame.bytes());
    const Travel travel = view ? travel_of(view->headers) : Travel{};
    const auto patience = static_cast<std::uint64_t>(settings_.delays.give_up.count());
    // From when it was first tried: it may have become due while nobody was there.
    const std::uint64_t now = unix_ms();
    if (never_fits || now >= (travel.failing_ms != 0 ? travel.failing_ms : now) + patience) {
      give_up(*delivery, travel, why, why);
      return;
    }
    log_repeated(LogLevel::warn, "delayed message cannot be delivered now", *delivery, travel, why,
                 why, {"again_in_ms", settings_.delays.retry.count()});
    publish(*delivery, again_copy(settings_.delays, *delivery, why));
    return;
  }
  // Not even into the ladder: the broker has it still.
  if (const auto count = repeated_.count("back " + why, Clock::now()); count > 0) {
    log_error("delayed message goes back to the queue it came from",
              {{"group", settings_.group.name}, {"reason", why}, {"messages", count}});
  }
  --publishing_;
  delivery->state = Delivery::State::delayed;
  delivery->due = Clock::now() + kHandBackAfter;
  table_.drop_message(*delivery);
  delayed_.push_back(delivery->index);
  if (!delay_timer_.armed()) delay_timer_.arm(delivery->due);
}

void Relay::settle(Delivery& delivery, Verdict verdict) {
  session_->finish(0, delivery.tag, verdict);
  if (verdict == Verdict::ack) board_.acked.fetch_add(1, std::memory_order_relaxed);
  table_.free(delivery);
}

void Relay::hand_back_due() {
  const TimePoint now = Clock::now();
  TimePoint next = TimePoint::max();
  std::erase_if(delayed_, [&](std::uint32_t index) {
    Delivery& delivery = table_.at(index);
    if (delivery.due > now && !draining_) {
      next = std::min(next, delivery.due);
      return false;
    }
    settle(delivery, Verdict::hand_back);
    return true;
  });
  if (next != TimePoint::max()) delay_timer_.arm(next);
}

void Relay::on_channel_lost() {
  if (publisher_ == nullptr) return;
  receiving_ = nullptr;
  delayed_.clear();
  std::size_t unconfirmed = 0;
  table_.for_each([&](Delivery& delivery) {
    if (delivery.state == Delivery::State::publishing) {
      publisher_->forget(delivery.sequence);
      ++unconfirmed;
    }
    table_.free(delivery);
  });
  publishing_ = 0;
  if (unconfirmed > 0) {
    log_warn("deliveries go back to the broker",
             {{"group", settings_.group.name}, {"unconfirmed", unconfirmed}});
  }
}

// ---- Ending

void Relay::drain(std::chrono::milliseconds limit) {
  const TimePoint deadline = Clock::now() + limit;
  if (draining_ && deadline >= deadline_) return;
  deadline_ = deadline;
  if (!overtime_) deadline_timer_.arm(deadline);
  if (draining_) return;
  draining_ = true;
  session_->cancel();
  hand_back_due();
}

void Relay::advance_drain() {
  if (!draining_ || done_) return;
  if (!closing_ && session_->cancelled() && (publishing_ == 0 || overtime_) &&
      session_->flushed()) {
    closing_ = true;
    // At its deadline there is still a moment for the acks.
    const auto acks = session_->close(std::max(deadline_, Clock::now() + kCloseGrace / 2));
    deadline_timer_.arm(Clock::now() + acks + kCloseGrace);
    if (overtime_) {
      publisher_->abandon();
    } else {
      publisher_->close();
    }
    session_->flush(true);
  }
  if (closing_ && session_->closed() && publisher_->closed()) done_ = true;
}

void Relay::stop() {
  if (done_) return;
  session_->abandon();
  publisher_->abandon();
  done_ = true;
}

void Relay::update_board() {
  const GroupState state = draining_               ? GroupState::draining
                           : session_->consuming() ? GroupState::consuming
                                                   : GroupState::connecting;
  const std::string trouble = session_->trouble();
  if (state == reported_state_ && trouble == reported_trouble_) return;
  reported_state_ = state;
  reported_trouble_ = trouble;
  board_.state.store(static_cast<std::uint32_t>(state), std::memory_order_relaxed);
  board_.last_error.set(trouble);
  Orders::report_change();
}

}  // namespace lope::consumer
