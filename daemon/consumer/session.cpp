#include "consumer/session.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "common/backoff.h"
#include "common/log.h"
#include "common/text.h"
#include "consumer/delay_ladder.h"
#include "consumer/topology.h"

namespace lope::consumer {

namespace {

constexpr int kFramesPerPump = 1024;
// What is finished waits no longer for more.
constexpr std::chrono::milliseconds kSettleWithin{2};
constexpr std::size_t kOpsPerTurn = 64;
// A connection that lasted so long was a good one.
constexpr std::chrono::seconds kLasting{10};
// So long, at most, a queue may take to say that it has the last acks, or, at the end, to answer
// what it was asked before.
constexpr std::chrono::milliseconds kSecuring{2000};
// And a stream's first message, once its lookout has had one.
constexpr std::chrono::milliseconds kFirstWithin{2000};
constexpr Backoff kResubscribe{std::chrono::milliseconds(200), std::chrono::milliseconds(5000)};

Reply reply_to(const Request& request) {
  struct Visitor {
    Reply operator()(const ChannelOpen&) const { return Reply::channel_open; }
    Reply operator()(const ExchangeDeclare&) const { return Reply::exchange_declare; }
    Reply operator()(const ExchangeBind&) const { return Reply::exchange_bind; }
    Reply operator()(const QueueDeclare&) const { return Reply::queue_declare; }
    Reply operator()(const QueueBind&) const { return Reply::queue_bind; }
    Reply operator()(const Unbind&) const { return Reply::unbind; }
    Reply operator()(const Qos&) const { return Reply::qos; }
    Reply operator()(const Consume&) const { return Reply::consume; }
    Reply operator()(const Cancel&) const { return Reply::cancel; }
    Reply operator()(const ConfirmSelect&) const { return Reply::confirm_select; }
  };
  return std::visit(Visitor{}, request);
}

std::int64_t seconds_since(TimePoint then) {
  return std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - then).count();
}

}  // namespace

void show_broker(GroupBoard::Broker& told, const Connection* connection) {
  told.address.set(connection == nullptr ? std::string() : connection->peer());
  told.cluster.set(connection == nullptr ? std::string() : escape(connection->cluster_name(), 240));
}

Session::Session(EventLoop& loop, const GroupSettings& group, GroupBoard& board, Events events)
    : loop_(loop),
      board_(board),
      events_(std::move(events)),
      group_(group.name),
      keeps_order_(group.order.by != OrderSettings::By::none),
      channels_(group.queues.size()) {
  for (std::size_t i = 0; i < channels_.size(); ++i) channels_[i].settings = group.queues[i];
  // What a consumer that has died had.
  show_broker(board_.consumes_from, nullptr);
  show_broker(board_.publishes_to, nullptr);
}

Result<std::unique_ptr<Session>> Session::create(EventLoop& loop, const BrokerSettings& broker,
                                                 const std::string& connection_name,
                                                 const GroupSettings& group, GroupBoard& board,
                                                 Events events) {
  if (!events.steps) events.steps = subscription_steps;
  std::unique_ptr<Session> session(new Session(loop, group, board, std::move(events)));
  auto connector = Connector::create(broker, connection_name);
  if (!connector) return Error{connector.error()};
  session->connector_ = std::move(*connector);
  Session* self = session.get();
  auto source = loop.watch_fd(self->connector_->event_fd(), EPOLLIN,
                              [self](std::uint32_t) { self->on_connect_ended(); });
  if (!source) return Error{source.error()};
  session->connector_source_ = std::move(*source);
  auto timer = loop.make_timer([self] { self->on_timer(); });
  if (!timer) return Error{timer.error()};
  session->timer_ = std::move(*timer);
  return session;
}

Session::Channel* Session::channel(ChannelNumber number) {
  return number >= 1 && number <= channels_.size() ? &channels_[number - 1u] : nullptr;
}

std::uint16_t Session::queue_of(const Channel& channel) const {
  return static_cast<std::uint16_t>(&channel - channels_.data());
}

// ---- The connection

void Session::start() {
  down_since_ = Clock::now();
  connect();
}

void Session::connect() {
  state_ = State::connecting;
  ++attempts_;
  connector_->start();
}

void Session::on_connect_ended() {
  const auto result = connector_->take();
  if (result == nullptr) return;
  if (state_ != State::connecting) return;  // given up meanwhile: the connection ends here
  if (!*result) {
    // Once for each reason, not for each attempt.
    if (std::find(reported_.begin(), reported_.end(), result->error()) == reported_.end()) {
      log_warn("cannot connect",
               {{"group", group_}, {"reason", result->error()}, {"retry", "with back-off"}});
      reported_.push_back(result->error());
    }
    if (connect_trouble_ != result->error()) {
      connect_trouble_ = result->error();
      events_.on_change();
    }
    state_ = State::waiting;
    reconnect_at_ = Clock::now() + connector_->failed();
    arm_timer();
    return;
  }
  connection_ = std::move(**result);
  auto source =
      loop_.watch_fd(connection_->fd(), EPOLLIN, [this](std::uint32_t) { readable_ = true; });
  if (!source) {
    connection_.reset();
    connection_lost(source.error());
    return;
  }
  socket_source_ = std::move(*source);
  state_ = State::connected;
  readable_ = true;
  board_.connections.fetch_add(1, std::memory_order_relaxed);
  show_broker(board_.consumes_from, connection_.get());
  const std::string tls = connection_->tls_version();
  log_info("connected", {{"group", group_},
                         {"broker", connection_->peer()},
                         {"cluster", connection_->cluster_name()},
                         {"tls", tls.empty() ? "no" : tls},
                         {"attempts", attempts_},
                         {"down_seconds", seconds_since(down_since_)}});
  if (const std::string version = connection_->broker_version(); !has_delay_ladder(version)) {
    log_error("the broker is too old",
              {{"group", group_},
               {"found", version},
               {"expected", "RabbitMQ 3.10 or later"},
               {"reason", "there are no delays: a retry is handed back, and not counted"}});
  }
  attempts_ = 0;
  connected_at_ = Clock::now();
  check_due_ = false;
  connect_trouble_.clear();
  reported_.clear();
  tick_ = connection_->heartbeat() / 4;
  next_tick_ = Clock::now() + tick_;
  may_move_ = connector_->has_other_address();
  may_ask_ =
      has_queue_check(connection_->broker_version()) &&
      check_number(static_cast<std::uint16_t>(channels_.size() - 1)) <= connection_->channel_max();
  for (Channel& channel : channels_) {
    channel.failures = 0;
    if (paused_) {
      channel.state = Channel::State::cancelled;
    } else {
      begin_subscription(channel);
    }
  }
  arm_timer();
  events_.on_change();
}

void Session::drop_connection() {
  socket_source_ = EventSource();
  connection_.reset();
  show_broker(board_.consumes_from, nullptr);
}

// All channels are gone with it.
void Session::void_connection() {
  drop_connection();
  // All of them first: an outcome that comes to light on the way belongs to none any more.
  for (Channel& channel : channels_) {
    channel.open = false;
    channel.check = {};
    void_channel(channel);
  }
  outgoing_.clear();
  outgoing_sent_ = 0;
  probe_open_ = probe_asked_ = false;
  probe_seen_.reset();
  protocol_error_.clear();
  close_sent_ = false;
  for (Channel& channel : channels_) {
    events_.on_channel_lost(queue_of(channel));
    if (is_to_be_quiet()) channel.state = Channel::State::cancelled;
  }
}

void Session::renewed() {
  renewing_ = false;
  void_connection();
  down_since_ = Clock::now();
  if (!cancelling_) connect();
  events_.on_change();
}

void Session::connection_lost(const std::string& reason) {
  void_connection();
  const bool ends = state_ == State::closing && !renewing_;
  renewing_ = false;
  if (ends || cancelling_) {
    log_warn("connection lost while ending", {{"group", group_}, {"reason", reason}});
    state_ = State::closed;
  } else {
    log_warn("connection lost", {{"group", group_}, {"reason", reason}});
    connect_trouble_ = reason;
    down_since_ = Clock::now();
    state_ = State::waiting;
    // A broker that takes our login and then cuts us off is no better than one that is not there.
    const bool lasted = down_since_ - connected_at_ >= kLasting;
    if (lasted && slow_set_ups_ == 0) connector_->lasted();
    reconnect_at_ = down_since_ + connector_->failed();
    arm_timer();
  }
  events_.on_change();
}

bool Session::pump() {
  if (connection_ == nullptr || !readable_) return false;
  const auto pumped = connection_->pump(*this, kFramesPerPump);
  if (state_ == State::closed) {  // close-ok came
    if (renewing_) {
      renewed();
      return false;
    }
    drop_connection();
    return false;
  }
  if (!pumped) {
    connection_lost(pumped.error());
    return false;
  }
  if (!protocol_error_.empty()) {
    connection_lost(std::exchange(protocol_error_, {}));
    return false;
  }
  readable_ = *pumped == Connection::Pumped::more;
  if (!readable_ && std::exchange(check_due_, false)) check_queues();
  return readable_;
}

bool Session::sleep(std::size_t bytes, std::chrono::nanoseconds limit) {
  if (connection_ == nullptr || readable_) return false;
  connection_->set_low_water(bytes);
  pollfd socket{connection_->fd(), POLLIN, 0};
  const timespec time{0, static_cast<long>(limit.count())};
  ::ppoll(&socket, 1, &time, nullptr);
  readable_ = true;  // less may be there
  return true;
}

void Session::wake_for_anything() {
  if (connection_ != nullptr) connection_->set_low_water(1);
}

void Session::wake_for_body() {
  // The rest of a large one comes in many pieces. To be woken for each costs both sides more than
  // the piece does.
  if (connection_ != nullptr) connection_->set_low_water(connection_->large_body_left());
}

// ---- Subscriptions

void Session::begin_subscription(Channel& channel) {
  channel.steps = events_.steps(channel.settings, channel.open);
  channel.step = 0;
  channel.step_sent = false;
  channel.lookout = Channel::Lookout::none;
  channel.first_came = channel.again = channel.left = false;
  channel.ends_before_at = TimePoint::max();
  channel.consumer_tag.clear();
  ++channel.subscription;
  channel.state = Channel::State::setting_up;
  if (!channel.open) {
    channel.settled = false;
    ++channel.epoch;
    channel.settlement.reset();
  }
  channel.check.refused = false;
  channel.check.policy = {};
  channel.probe.reset();
  channel.probe_before = 0;
  if (!events_.on_probed || channel.settings.stream) return;  // which dead-letters nothing
  if (!channel.settings.declare) {
    channel.probe.emplace(channel.settings.name);
    return;
  }
  // What was declared has what it was declared with; but is the exchange there?
  const AmqpValue* value = find(channel.settings.declaration.arguments, "x-dead-letter-exchange");
  const auto* name = value != nullptr ? std::get_if<std::string>(&value->value) : nullptr;
  if (name == nullptr || name->empty()) return;
  channel.probe.emplace(channel.settings.name, *name);
  const auto qos =
      std::find_if(channel.steps.begin(), channel.steps.end(),
                   [](const Request& step) { return std::holds_alternative<Qos>(step); });
  channel.probe_before = static_cast<std::size_t>(qos - channel.steps.begin());
}

void Session::subscription_failed(Channel& channel, const std::string& reason) {
  if (reason != channel.trouble) {
    log_warn("cannot consume", {{"group", group_},
                                {"queue", channel.settings.name},
                                {"reason", reason},
                                {"retry", "with back-off"}});
    if (channel.trouble.empty() && channel.failures == 0) down_since_ = Clock::now();
    channel.trouble = reason;
  }
  channel.retry_at = Clock::now() +
                     kResubscribe.full_jitter(channel.failures++, random_fraction()) +
                     kResubscribe.base;
  channel.state = is_to_be_quiet() ? Channel::State::cancelled : Channel::State::down;
  channel.step_sent = false;
  arm_timer();
  events_.on_change();
}

void Session::channel_lost(Channel& channel) {
  void_channel(channel);
  events_.on_channel_lost(queue_of(channel));
}

void Session::void_channel(Channel& channel) {
  // What was finished and has not been written: the broker will hand it out again.
  std::size_t unsaid = channel.settlement.pending();
  for (std::size_t i = outgoing_sent_; i < outgoing_.size(); ++i) {
    if (outgoing_[i].queue == queue_of(channel) && outgoing_[i].epoch == channel.epoch) ++unsaid;
  }
  if (unsaid > 0) {
    board_.stale_outcomes.fetch_add(unsaid, std::memory_order_relaxed);
    log_warn("settlements not sent",
             {{"group", group_},
              {"queue", channel.settings.name},
              {"at_least", unsaid},
              {"reason", "the channel is gone: handled messages come again"}});
  }
  channel.state = Channel::State::down;
  channel.steps.clear();
  channel.lookout = Channel::Lookout::none;
  ++channel.epoch;
  channel.settlement.reset();
}

void Session::send_steps() {
  for (Channel& channel : channels_) {
    if (connection_ == nullptr) return;
    if (channel.check.has_step_to_send() && connection_->writable()) send_check(channel);
    if (!channel.has_step_to_send()) continue;
    if (!connection_->writable()) return;
    if (channel.probe_is_next()) {
      send_probe(channel);
      continue;
    }
    if (channel.lookout == Channel::Lookout::to_cancel) {
      channel.lookout = Channel::Lookout::none;
      if (auto sent =
              connection_->send(number(queue_of(channel)), Cancel{std::string(kLookoutTag)});
          !sent) {
        connection_lost(sent.error());
        return;
      }
      if (!channel.has_step_to_send() || !connection_->writable()) continue;
    }
    const Request request = channel.state == Channel::State::cancelling
                                ? Request(Cancel{channel.consumer_tag})
                                : channel.steps[channel.step];
    channel.step_sent = true;
    channel.step_sent_at = Clock::now();
    if (auto sent = connection_->send(number(queue_of(channel)), request); !sent) {
      connection_lost(sent.error());
      return;
    }
  }
}

// ---- Is it still there?

// The queue whose check a channel is for; nullptr for other channels.
Session::Channel* Session::checked(ChannelNumber number_) {
  const int queue = number_ - check_number(0);
  return queue >= 0 && queue < static_cast<int>(channels_.size())
             ? &channels_[static_cast<std::size_t>(queue)]
             : nullptr;
}

// At each tick. It may give up the connection.
void Session::check_queues() {
  // While it is quiet nothing is waited for, and handlers may still run.
  if (state_ != State::connected || is_to_be_quiet()) return;
  if (probe_unanswered()) {
    const Channel& channel = channels_[probe_for_.first];
    connection_lost("broker " + connection_->peer() + ": look at queue '" + channel.settings.name +
                    "': no answer");
    return;
  }
  std::vector<std::string> reasons;
  bool others = false;
  for (Channel& channel : channels_) {
    reasons.push_back(unanswered(channel));
    const bool in_use = channel.state == Channel::State::consuming ||
                        channel.state == Channel::State::cancelling ||
                        channel.settlement.unfinished() > 0;
    others = others || (channel.open && in_use && reasons.back().empty());
  }
  std::string lost;  // the first reason
  bool slow_set_up = false;
  for (std::size_t i = 0; i < channels_.size(); ++i) {
    Channel& channel = channels_[i];
    if (reasons[i].empty()) continue;
    if (!channel.suspicion.silent(connector_->addresses(), others)) {
      leave(channel, reasons[i]);
      continue;
    }
    if (channel.state == Channel::State::setting_up) {
      slow_set_up = true;
    } else {
      connector_->pass_over();
    }
    if (lost.empty()) lost = reasons[i];
  }
  if (lost.empty()) return;
  if (slow_set_up) ++slow_set_ups_;
  connection_lost("broker " + connection_->peer() + ": " + lost +
                  ": is the node cut off from its cluster?");
}

// At a tick: what a queue has had time to answer, and has not. Empty: nothing.
std::string Session::unanswered(Channel& channel) {
  Channel::Check& check = channel.check;
  if (channel.state == Channel::State::setting_up && channel.step_sent) {
    const auto patience = set_up_patience(tick_, slow_set_ups_, connector_->addresses());
    // A broker that is asked for many queues at once answers for one after another. And what was
    // sent soon after a tick need not wait for two.
    const TimePoint since = std::max(channel.step_sent_at, set_up_at_);
    if (Clock::now() >= since + patience - tick_ / 4) {
      return describe(channel.steps[channel.step]) + ": no answer";
    }
  }
  if (channel.state != Channel::State::consuming) return {};
  const bool stream = channel.settings.stream || channel.settings.declaration.type == "stream";
  if (stream || !may_ask_ || check.refused) {
    answers(channel);
    return {};
  }
  switch (check.policy.tick(channel.settlement.next_tag())) {
    case QueueCheck::Next::lost: return "queue '" + channel.settings.name + "' does not answer";
    case QueueCheck::Next::ask:
      if (check.steps.empty()) {
        check.steps = queue_check_steps(channel.settings.name, check.open);
      }
      break;
    case QueueCheck::Next::nothing: break;
  }
  if (channel.settlement.next_tag() > 1) answers(channel);
  return {};
}

// Probes go one after another: those in line wait for no answer.
bool Session::probe_unanswered() {
  const auto asked = probe_asked_ ? std::optional(probes_sent_) : std::nullopt;
  return std::exchange(probe_seen_, asked) == asked && asked;
}

// The heartbeat alone tells now whether the connection is good.
void Session::leave(Channel& channel, const std::string& reason) {
  if (std::exchange(channel.left, true)) return;
  const bool consuming = channel.state == Channel::State::consuming;
  const std::string trouble = (consuming ? "it does not answer" : reason) + " at any address";
  if (trouble != channel.trouble) {
    log_warn("cannot consume", {{"group", group_},
                                {"queue", channel.settings.name},
                                {"reason", trouble},
                                {"retry", "none: its answer is waited for"}});
    channel.trouble = trouble;
  }
  forget_slow_set_ups();
  events_.on_change();
}

// Once none is under way that is waited for.
void Session::forget_slow_set_ups() {
  const bool goes_on = std::ranges::any_of(channels_, [](const Channel& each) {
    return each.state == Channel::State::setting_up && !each.left;
  });
  if (!goes_on) slow_set_ups_ = 0;
}

void Session::answers(Channel& channel) {
  channel.suspicion.answered();
  if (!std::exchange(channel.left, false)) return;
  channel.trouble.clear();
  events_.on_change();
}

void Session::send_check(Channel& channel) {
  channel.check.sent = true;
  // A failure shows at the next read.
  (void)connection_->send(check_number(queue_of(channel)), channel.check.steps.front());
}

// One at a time.
Session::Channel* Session::probed_now() {
  const auto first = std::find_if(channels_.begin(), channels_.end(),
                                  [](const Channel& each) { return each.probe_is_next(); });
  return first == channels_.end() ? nullptr : &*first;
}

// Whose probe an answer is for; nullptr when its channel was lost or paused meanwhile.
Session::Channel* Session::answered_probe() {
  Channel& channel = channels_[probe_for_.first];
  return channel.subscription == probe_for_.second && channel.probe_is_next() ? &channel : nullptr;
}

void Session::send_probe(Channel& channel) {
  if (probed_now() != &channel || probe_asked_) return;
  probe_asked_ = true;
  ++probes_sent_;
  probe_for_ = {queue_of(channel), channel.subscription};
  const Request request = probe_open_ ? channel.probe->next() : Request(ChannelOpen{});
  // A failure shows at the next read.
  (void)connection_->send(probe_number(), request);
}

void Session::probe_ended(Channel& channel, bool last) {
  if (!last) return;
  events_.on_probed(queue_of(channel), *channel.probe);
  channel.probe.reset();
}

void Session::on_ok(ChannelNumber number_, Reply reply, std::string_view text) {
  if (reply == Reply::connection_close) {
    state_ = State::closed;
    return;
  }
  if (number_ == probe_number()) {
    probe_asked_ = false;
    if (reply == Reply::channel_open) {
      probe_open_ = true;
    } else if (Channel* const probed = answered_probe(); probed != nullptr) {
      probe_ended(*probed, probed->probe->on_ok());
    }
    return;
  }
  if (Channel* const asked = checked(number_); asked != nullptr) {
    Channel::Check& check = asked->check;
    if (reply == Reply::channel_open) check.open = true;
    if (!check.sent || check.steps.empty() || reply_to(check.steps.front()) != reply) return;
    check.sent = false;
    check.steps.erase(check.steps.begin());
    if (check.steps.empty()) {
      check.policy.answered();
      answers(*asked);
    }
    return;
  }
  Channel* found = channel(number_);
  if (found == nullptr) return;
  Channel& it = *found;
  if (reply == Reply::cancel && text == kLookoutTag) return;
  if (it.state == Channel::State::cancelling && reply == Reply::cancel) {
    it.state = Channel::State::cancelled;
    it.step_sent = false;
    if (!is_to_be_quiet()) begin_subscription(it);  // resumed meanwhile, or ended only for this
    return;
  }
  const bool setting_up = it.state == Channel::State::setting_up;
  if ((!setting_up && it.state != Channel::State::securing) || it.step >= it.steps.size() ||
      reply_to(it.steps[it.step]) != reply) {
    return;
  }
  if (reply == Reply::channel_open) it.open = true;
  if (reply == Reply::consume && setting_up) {
    if (text == kLookoutTag) {
      it.lookout = it.first_came ? Channel::Lookout::to_cancel : Channel::Lookout::out;
    } else {
      it.consumer_tag = text;
    }
  }
  it.step_sent = false;
  if (it.failures == 0) set_up_at_ = Clock::now();  // others may be refused again and again
  const bool last = ++it.step == it.steps.size();
  if (!setting_up) {
    if (last) it.state = Channel::State::cancelled;
    return;
  }
  if (!last) {
    if (is_to_be_quiet()) {
      it.state = it.consumer_tag.empty() ? Channel::State::cancelled : Channel::State::cancelling;
    }
    return;
  }
  it.steps.clear();
  it.state = Channel::State::consuming;
  if (is_to_be_quiet() || it.again) end_subscription(it);
  log_info("consuming", {{"group", group_},
                         {"queue", it.settings.name},
                         {"prefetch", it.settings.prefetch},
                         {"consumer_tag", it.consumer_tag}});
  it.failures = 0;
  it.left = false;
  it.trouble.clear();
  forget_slow_set_ups();
  events_.on_change();
}

void Session::on_cancelled(ChannelNumber number_, std::string_view consumer_tag) {
  Channel* found = channel(number_);
  if (found == nullptr) return;
  if (consumer_tag == kLookoutTag) {  // the other goes with it
    found->lookout = Channel::Lookout::none;
    return;
  }
  if (found->state == Channel::State::securing) {  // with its queue, which forgets everything
    found->state = Channel::State::cancelled;
    return;
  }
  if (state_ == State::closing) return;
  // The channel and its tags live on; only the consumer is gone.
  subscription_failed(*found, "the broker cancelled the consumer: its queue was deleted or moved");
}

// They were sent, and are nearly always there.
void Session::not_secured(const Channel& channel, const std::string& reason) const {
  log_warn("the last acks may not have arrived: handled messages may come again",
           {{"group", group_}, {"queue", channel.settings.name}, {"reason", reason}});
}

void Session::on_channel_closed(ChannelNumber number_, int code, std::string_view text) {
  if (number_ == probe_number()) {
    probe_open_ = probe_asked_ = false;
    if (Channel* const probed = answered_probe(); probed != nullptr) {
      probe_ended(*probed, probed->probe->on_channel_closed(code, text));
    }
    return;
  }
  if (Channel* const asked = checked(number_); asked != nullptr) {
    asked->check = {};  // an answer, too
    asked->check.refused = true;
    answers(*asked);
    return;
  }
  Channel* found = channel(number_);
  if (found == nullptr) return;
  std::string reason = std::to_string(code) + " " + escape(text);
  if (found->state == Channel::State::securing) {
    found->open = false;
    found->state = Channel::State::cancelled;
    constexpr int kNotFound = 404;  // the queue is gone, and with it what could come again
    if (code != kNotFound) not_secured(*found, reason);
    return;
  }
  if (found->state == Channel::State::setting_up && found->step < found->steps.size()) {
    reason = describe(found->steps[found->step]) + ": " + reason;
  } else {
    reason = "the broker closed the channel: " + reason;
  }
  found->open = false;
  channel_lost(*found);
  if (state_ == State::closing) {
    found->state = Channel::State::cancelled;
    return;
  }
  subscription_failed(*found, reason);
}

// ---- Deliveries and settlements

char* Session::on_delivery(const IncomingDelivery& delivery) {
  Channel* found = channel(delivery.channel);
  if (found == nullptr) {
    protocol_error_ = "a delivery on a channel that does not consume";
    return nullptr;
  }
  if (!found->settlement.delivered(delivery.view.delivery_tag)) {
    protocol_error_ = "queue '" + found->settings.name + "': delivery tag " +
                      std::to_string(delivery.view.delivery_tag) + " is out of turn";
    return nullptr;
  }
  const std::uint16_t queue = queue_of(*found);
  found->from_stream = found->settings.stream && delivery.stream_offset >= 0;
  if (is_for_lookout(*found, delivery)) return nullptr;
  // Of a subscription that is answered after all; it goes back with the connection.
  if (found->left && found->state == Channel::State::cancelled) return nullptr;
  if (state_ == State::closing) {  // to the barrier's consumer
    if (!keeps_order_) finish(queue, delivery.view.delivery_tag, Verdict::hand_back);
    return nullptr;
  }
  char* to = events_.on_delivery(queue, found->epoch, delivery);
  if (to != nullptr && delivery.body_size == 0) events_.on_complete(queue);
  return to;
}

// What comes first ends the lookout: a message for the consumer that it is beside, or its own.
bool Session::is_for_lookout(Channel& channel, const IncomingDelivery& delivery) {
  if (!channel.settings.stream) return false;
  const bool is_first = !std::exchange(channel.first_came, true);
  if (channel.lookout == Channel::Lookout::out) channel.lookout = Channel::Lookout::to_cancel;
  if (delivery.view[TextProperty::consumer_tag] != kLookoutTag) {
    channel.ends_before_at = TimePoint::max();
    return false;
  }
  finish(queue_of(channel), delivery.view.delivery_tag, Verdict::ack);
  if (is_first) {
    channel.ends_before_at = Clock::now() + kFirstWithin;
    channel.last_part = delivery.stream_offset;
    arm_timer();
  }
  return true;
}

void Session::on_body(ChannelNumber number_) {
  if (Channel* found = channel(number_)) events_.on_complete(queue_of(*found));
}

void Session::finish(std::uint16_t queue, std::uint64_t tag, Verdict verdict) {
  Channel& channel = channels_[queue];
  if (channel.settlement.pending() == 0) channel.finished_since = Clock::now();
  channel.settlement.finish(tag, channel.from_stream ? Verdict::ack : verdict);
}

void Session::flush(bool all) {
  if (state_ != State::connected && state_ != State::closing) return;
  for (Channel& channel : channels_) {
    const std::size_t pending = channel.settlement.pending();
    if (pending == 0) continue;
    // Most of the window is left for the broker to go on with.
    const bool few = 4 * pending < static_cast<std::size_t>(channel.settings.prefetch);
    if (!all && few && Clock::now() - channel.finished_since < kSettleWithin) continue;
    ops_.clear();
    channel.settlement.flush(ops_);
    for (const SettleOp& op : ops_) {
      outgoing_.push_back({queue_of(channel), channel.epoch, op});
    }
  }
  send_ops();
  send_steps();
  if (connection_ == nullptr) return;
  if (connection_->unwritten() > 0) {  // the rest of a frame
    if (auto written = connection_->write(); !written) {
      connection_lost(written.error());
      return;
    }
  }
  if (state_ == State::closing && !close_sent_ && cancelled() && flushed() &&
      connection_->writable()) {
    close_sent_ = true;
    if (auto sent = connection_->send_close(); !sent) {
      connection_lost(sent.error());
      return;
    }
  }
  watch_socket();
}

void Session::send_ops() {
  // At most a bounded number, and each only when the socket takes it: the library would otherwise
  // wait for ever.
  const std::size_t end = std::min(outgoing_.size(), outgoing_sent_ + kOpsPerTurn);
  for (; outgoing_sent_ < end; ++outgoing_sent_) {
    const OutgoingOp& out = outgoing_[outgoing_sent_];
    const ChannelNumber to = number(out.queue);
    if (channels_[out.queue].epoch != out.epoch) continue;  // of a channel that is gone
    if (!connection_->writable()) return;
    Result<void> sent;
    if (out.op.verdict == Verdict::ack || out.op.verdict == Verdict::reject) {
      channels_[out.queue].settled = true;
    }
    switch (out.op.verdict) {
      case Verdict::ack: sent = connection_->ack(to, out.op.tag, out.op.multiple); break;
      case Verdict::reject: sent = connection_->reject(to, out.op.tag, false); break;
      case Verdict::requeue: sent = connection_->reject(to, out.op.tag, true); break;
      case Verdict::hand_back: sent = connection_->nack_requeue(to, out.op.tag); break;
    }
    if (!sent) {
      connection_lost(sent.error());
      return;
    }
  }
  if (outgoing_sent_ == outgoing_.size()) {
    outgoing_.clear();
    outgoing_sent_ = 0;
  }
}

void Session::watch_socket() {
  const bool more = !outgoing_.empty() || connection_->unwritten() > 0 ||
                    (state_ == State::closing && !close_sent_ && cancelled()) ||
                    std::any_of(channels_.begin(), channels_.end(), [](const Channel& channel) {
                      return (channel.has_step_to_send() && !channel.probe_is_next()) ||
                             channel.check.has_step_to_send();
                    });
  const std::uint32_t input = connection_->reading_needs_room() ? EPOLLOUT : EPOLLIN;
  socket_source_.set_events(more ? input | EPOLLOUT : input);
}

// ---- Being asked

bool Session::consuming() const {
  return std::all_of(channels_.begin(), channels_.end(), [](const Channel& channel) {
    return channel.state == Channel::State::consuming && !channel.left;
  });
}

std::string Session::trouble() const {
  if (state_ == State::connecting || state_ == State::waiting) {
    return connect_trouble_.empty() ? "connecting" : connect_trouble_;
  }
  for (const Channel& channel : channels_) {
    if (channel.state == Channel::State::consuming && !channel.left) continue;
    return "queue '" + channel.settings.name +
           "': " + (channel.trouble.empty() ? "subscribing" : channel.trouble);
  }
  return {};
}

// ---- Ending

void Session::end_subscription(Channel& channel) {
  switch (channel.state) {
    case Channel::State::consuming:
      if (keeps_order_) break;
      channel.state = Channel::State::cancelling;
      channel.step_sent = false;
      if (channel.lookout == Channel::Lookout::out) channel.lookout = Channel::Lookout::to_cancel;
      break;
    case Channel::State::down: channel.state = Channel::State::cancelled; break;
    case Channel::State::setting_up:
      // With a request under way its answer decides; see on_ok(). Or nothing does, to the end.
      if (channel.step_sent && !(channel.left && cancelling_)) break;
      channel.state =
          channel.consumer_tag.empty() ? Channel::State::cancelled : Channel::State::cancelling;
      break;
    case Channel::State::cancelling:
    case Channel::State::cancelled:
    case Channel::State::securing: break;
  }
}

void Session::pause() {
  paused_ = true;
  for (Channel& channel : channels_) end_subscription(channel);
}

void Session::resume() {
  if (!std::exchange(paused_, false) || cancelling_ || state_ != State::connected) return;
  // One that is just being cancelled begins when that is done.
  for (Channel& channel : channels_) {
    if (channel.state == Channel::State::cancelled) begin_subscription(channel);
  }
  arm_timer();
}

// When it has ended it begins again, as after a pause.
void Session::subscribe_again(std::uint16_t queue) {
  Channel& channel = channels_[queue];
  channel.again = true;
  if (channel.state == Channel::State::consuming) end_subscription(channel);
}

void Session::cancel() {
  if (!std::exchange(cancelling_, true)) answered_by_ = Clock::now() + kSecuring;
  for (Channel& channel : channels_) end_subscription(channel);
  if (state_ == State::connecting || state_ == State::waiting || state_ == State::idle) {
    state_ = State::closed;
    timer_.disarm();
  }
  if (state_ == State::connected) arm_timer();
}

bool Session::quiet() const {
  return state_ == State::closed ||
         std::all_of(channels_.begin(), channels_.end(), [](const Channel& channel) {
           return channel.state == Channel::State::cancelled ||
                  (channel.state == Channel::State::setting_up && channel.consumer_tag.empty());
         });
}

bool Session::cancelled() const {
  return state_ == State::closed ||
         std::all_of(channels_.begin(), channels_.end(), [](const Channel& channel) {
           return channel.state == Channel::State::cancelled;
         });
}

bool Session::flushed() const {
  if (state_ == State::closed) return true;
  return outgoing_.empty() && (connection_ == nullptr || connection_->unwritten() == 0) &&
         std::all_of(channels_.begin(), channels_.end(),
                     [](const Channel& channel) { return channel.settlement.pending() == 0; });
}

std::chrono::milliseconds Session::close(TimePoint deadline) {
  const TimePoint now = Clock::now();
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now);
  const auto limit = std::clamp(left / 2, std::chrono::milliseconds(0), kSecuring);
  const TimePoint end = now + limit;
  if (state_ == State::closing && end < secured_by_) {
    secured_by_ = end;
    arm_timer();
  }
  if (state_ != State::connected) return limit;
  state_ = State::closing;
  secured_by_ = end;
  for (Channel& channel : channels_) {
    const bool classic = channel.settings.declare && channel.settings.declaration.type == "classic";
    if (keeps_order_) channel.state = Channel::State::cancelled;  // with the connection
    if (!channel.open || !channel.settled || classic || channel.settings.stream) continue;
    if (channel.step_sent) {  // a late answer must not be taken for the barrier's
      channel.state = Channel::State::cancelled;
      not_secured(channel, "the broker has not answered what it was asked before");
      continue;
    }
    channel.steps = ack_barrier(channel.settings.name);
    channel.step = 0;
    channel.step_sent = false;
    channel.state = Channel::State::securing;
  }
  arm_timer();
  return limit;
}

void Session::renew() {
  if (state_ != State::connected) return;
  renewing_ = true;
  close(Clock::now() + 2 * kSecuring);
}

void Session::abandon() {
  drop_connection();
  for (Channel& channel : channels_) {
    ++channel.epoch;  // an outcome that still comes is nobody's
    channel.settlement.reset();
  }
  state_ = State::closed;
}

// ---- Time

void Session::arm_timer() {
  TimePoint when = TimePoint::max();
  if (state_ == State::waiting) when = std::min(when, reconnect_at_);
  if (state_ == State::connected || state_ == State::closing) {
    if (tick_.count() > 0) when = std::min(when, next_tick_);
    if (renewing_) when = std::min(when, secured_by_ + kSecuring);
    for (const Channel& channel : channels_) {
      if (channel.state == Channel::State::down) when = std::min(when, channel.retry_at);
      if (channel.state == Channel::State::consuming) when = std::min(when, channel.ends_before_at);
      if (channel.state == Channel::State::securing) when = std::min(when, secured_by_);
      if (cancelling_ && channel.keeps_end_waiting()) when = std::min(when, answered_by_);
    }
  }
  if (when == TimePoint::max()) {
    timer_.disarm();
  } else {
    timer_.arm(when);
  }
}

void Session::on_timer() {
  const TimePoint now = Clock::now();
  if (state_ == State::waiting && now >= reconnect_at_) {
    connect();
    return;
  }
  if (state_ == State::connected || state_ == State::closing) {
    if (tick_.count() > 0 && now >= next_tick_) {
      readable_ = true;  // pump() sends a heartbeat that is due and misses those that did not come
      next_tick_ = now + tick_;
      // After it: an answer may have come while we were held up.
      check_due_ = may_move_;
    }
    for (Channel& channel : channels_) {
      if (!cancelling_ || !channel.keeps_end_waiting() || now < answered_by_) continue;
      channel.state = Channel::State::cancelled;
      channel.left = true;
    }
    for (Channel& channel : channels_) {
      if (channel.state == Channel::State::securing && now >= secured_by_) {
        channel.state = Channel::State::cancelled;
        not_secured(channel, "the broker has not answered in time");
      }
    }
    if (renewing_ && now >= secured_by_ + kSecuring) {
      connection_lost("broker " + connection_->peer() + ": close: no answer");
      return;
    }
    for (Channel& channel : channels_) {
      if (channel.state != Channel::State::consuming || now < channel.ends_before_at) continue;
      channel.ends_before_at = TimePoint::max();
      events_.on_ends_before(queue_of(channel), channel.last_part);
    }
    if (!cancelling_) {
      for (Channel& channel : channels_) {
        if (channel.state == Channel::State::down && now >= channel.retry_at) {
          begin_subscription(channel);
        }
      }
    }
  }
  arm_timer();
}

// A consuming connection publishes nothing.
void Session::on_returned(const ReturnedPublication&) {}
void Session::on_confirmed(ChannelNumber, std::uint64_t, bool, bool) {}
void Session::on_blocked(std::string_view) {}
void Session::on_unblocked() {}

}  // namespace lope::consumer
