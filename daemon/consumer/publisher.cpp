#include "consumer/publisher.h"

#include <sys/epoll.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/log.h"
#include "common/text.h"

namespace lope::consumer {

namespace {

constexpr int kFramesPerPump = 1024;
// What may be unconfirmed at a time; more waits here.
constexpr std::size_t kMostUnconfirmed = 4000;
// The buffer is not filled further than this, but for a body that is larger.
constexpr std::size_t kOutputAhead = 256 * 1024;
constexpr int kMostConnectionsLost = 3;
constexpr std::chrono::seconds kLasting{10};
// Of a quarter of the heartbeat each: no confirm or other answer comes, while some are waited for.
constexpr int kTicksStill = 6;
// And so long everything comes in time until what did not is forgotten.
constexpr int kTicksCalm = 24;
// What was not there is not looked for again before this.
constexpr std::chrono::milliseconds kMissingFor{1000};
// Of what handlers name; what was there, or was not, is forgotten beyond that.
constexpr std::size_t kMostRemembered = 1000;

constexpr ChannelNumber kMain = 1;
constexpr ChannelNumber kSearch = 2;
constexpr ChannelNumber kCareful = 3;
constexpr ChannelNumber kJournal = 4;
// The journal is sent behind all else, but not only when there is nothing else.
constexpr std::size_t kJournalAhead = kOutputAhead + 64 * 1024;

// In Publisher::missing_: an exchange that has refused a publication without a need, or with one.
std::string refused_key(const Outbound& outbound) {
  return "publish to " + std::string(outbound.publication.exchange);
}

std::size_t size_of(const Outbound& outbound) { return outbound.storage.size() + sizeof(Outbound); }

}  // namespace

const char* to_string(Fate fate) {
  switch (fate) {
    case Fate::confirmed: return "confirmed";
    case Fate::returned: return "returned";
    case Fate::nacked: return "nacked";
    case Fate::refused: return "refused";
    case Fate::too_large: return "too large";
    case Fate::lost: return "lost";
  }
  return "unknown";
}

Publisher::Publisher(EventLoop& loop, std::string group, Events events)
    : loop_(loop), events_(std::move(events)), group_(std::move(group)) {
  main_.number = kMain;
  careful_.number = kCareful;
}

Result<std::unique_ptr<Publisher>> Publisher::create(EventLoop& loop, const BrokerSettings& broker,
                                                     const std::string& connection_name,
                                                     std::string group, Events events) {
  std::unique_ptr<Publisher> publisher(new Publisher(loop, std::move(group), std::move(events)));
  auto connector = Connector::create(broker, connection_name);
  if (!connector) return Error{connector.error()};
  publisher->connector_ = std::move(*connector);
  Publisher* self = publisher.get();
  auto source = loop.watch_fd(self->connector_->event_fd(), EPOLLIN,
                              [self](std::uint32_t) { self->on_connect_ended(); });
  if (!source) return Error{source.error()};
  publisher->connector_source_ = std::move(*source);
  auto timer = loop.make_timer([self] { self->on_timer(); });
  if (!timer) return Error{timer.error()};
  publisher->timer_ = std::move(*timer);
  return publisher;
}

// ---- The connection

void Publisher::connect() {
  state_ = State::connecting;
  connector_->start();
}

void Publisher::on_connect_ended() {
  const auto result = connector_->take();
  if (result == nullptr || state_ != State::connecting) return;
  std::string failure;
  if (!*result) {
    failure = result->error();
  } else {
    connection_ = std::move(**result);
    auto source =
        loop_.watch_fd(connection_->fd(), EPOLLIN, [this](std::uint32_t) { readable_ = true; });
    if (source) {
      socket_source_ = std::move(*source);
    } else {
      connection_.reset();
      failure = source.error();
    }
  }
  if (!failure.empty()) {
    // Once for each reason, not for each attempt.
    if (std::find(reported_.begin(), reported_.end(), failure) == reported_.end()) {
      log_warn("cannot connect to publish",
               {{"group", group_}, {"reason", failure}, {"retry", "with back-off"}});
      reported_.push_back(failure);
    }
    state_ = State::waiting;
    reconnect_at_ = Clock::now() + connector_->failed();
    arm_timer();
    return;
  }
  state_ = State::connected;
  readable_ = true;
  connected_at_ = Clock::now();
  reported_.clear();
  if (events_.on_connection) events_.on_connection(connection_.get());
  log_info("connected to publish", {{"group", group_},
                                    {"broker", connection_->peer()},
                                    {"cluster", connection_->cluster_name()}});
  tick_ = connection_->heartbeat() / 4;
  all_still_.ticks = 0;
  for (Still& still : still_) still.ticks = 0;
  next_tick_ = Clock::now() + tick_;
  arm_timer();
}

void Publisher::drop_connection() {
  socket_source_ = EventSource();
  connection_.reset();
  if (events_.on_connection) events_.on_connection(nullptr);
}

void Publisher::connection_lost(const std::string& reason) {
  drop_connection();
  // A broker that reads nothing for so long that the connection breaks has nothing against them.
  const bool blocked = !blocked_.empty();
  blocked_.clear();
  const TimePoint now = Clock::now();
  log_warn("connection lost", {{"group", group_},
                               {"connection", "publishing"},
                               {"reason", reason},
                               {"unconfirmed", main_.in_flight + careful_.in_flight}});
  Queue unconfirmed;
  take_unconfirmed(careful_, unconfirmed);
  take_unconfirmed(main_, unconfirmed);
  reset_lane(main_);
  reset_lane(careful_);
  if (journal_ != nullptr) journal_->on_connection_lost();
  search_.state = Search::State::down;
  search_.asked = false;
  search_.sent = search_.answered = 0;
  search_.steps.clear();
  there_.clear();  // it may be another broker
  missing_.clear();
  if (ending_) {
    state_ = State::idle;
    return;
  }
  state_ = State::waiting;
  if (now - connected_at_ >= kLasting) connector_->lasted();
  reconnect_at_ = now + connector_->failed();
  arm_timer();
  Queue again, given_up;
  for (auto& outbound : unconfirmed) {
    if (!blocked) ++outbound->connections_lost;
    outbound->suspect = outbound->connections_lost >= kMostConnectionsLost - 1;
    const bool gone = outbound->connections_lost >= kMostConnectionsLost;
    (gone ? given_up : again).push_back(std::move(outbound));
  }
  route_again(std::move(again));
  conclude_all(std::move(given_up), Fate::lost,
               "three connections were lost with it unconfirmed, the last: " + reason);
}

void Publisher::reset_lane(Lane& lane) {
  lane.state = Lane::State::down;
  lane.asked = false;
  lane.unconfirmed.clear();
  lane.first_tag = 1;
  lane.in_flight = 0;
}

// In their order.
void Publisher::take_unconfirmed(Lane& lane, Queue& into) {
  for (auto& outbound : lane.unconfirmed) {
    if (outbound == nullptr) continue;
    if (outbound->cause == 0) {  // forgotten: nobody wants it sent again
      --pending_;
      pending_bytes_ -= size_of(*outbound);
      continue;
    }
    outbound->returned = false;
    into.push_back(std::move(outbound));
  }
  lane.unconfirmed.clear();
  lane.in_flight = 0;
}

// To be sent before everything else; and what was there for others may be gone.
void Publisher::route_again(Queue outbounds) {
  for (Queue* queue : {&suspects_, &ready_}) {
    std::move(queue->begin(), queue->end(), std::back_inserter(outbounds));
    queue->clear();
  }
  for (auto& outbound : outbounds) route(std::move(outbound));
}

void Publisher::arm_timer() {
  TimePoint when = TimePoint::max();
  if (state_ == State::waiting) when = reconnect_at_;
  if (connection_ != nullptr && tick_.count() > 0) when = next_tick_;
  if (when == TimePoint::max()) {
    timer_.disarm();
  } else {
    timer_.arm(when);
  }
}

void Publisher::on_timer() {
  const TimePoint now = Clock::now();
  if (state_ == State::waiting && now >= reconnect_at_) {
    connect();
    return;
  }
  if (connection_ != nullptr && tick_.count() > 0 && now >= next_tick_) {
    readable_ = true;  // pump() serves the heartbeats
    next_tick_ = now + tick_;
    if (const std::string reason = stands_still(); !reason.empty()) {
      connector_->pass_over();
      connection_lost("broker " + connection_->peer() + ": " + reason +
                      ": is the node cut off from its cluster?");
      return;
    }
  }
  arm_timer();
}

// So long that another node may do better. A node that is cut off from its cluster takes what is
// published for a queue that has no majority here, and never confirms it; nor does it declare what
// has to be there. Empty: no.
std::string Publisher::stands_still() {
  const bool may_move = blocked_.empty() && connector_->has_other_address();
  const bool written = connection_->unwritten() == 0;
  const bool waits = main_.waits() || careful_.waits() || search_.waits();
  all_still_.tick(may_move && written && waits, answers_);
  if (all_still_.ticks >= kTicksStill) return "it confirms nothing";
  if (may_move && !written) return {};  // what is not sent is not missed

  // It may still confirm what goes to a queue of its own.
  auto& [main, careful, search, journal] = still_;
  main.tick(may_move && main_.waits(), main_.moves);
  careful.tick(may_move && careful_.waits(), careful_.moves);
  search.tick(may_move && search_.waits(), search_.moves);
  if (journal_ != nullptr) journal.tick(may_move && journal_->waits(), journal_->moves());
  const int longest = std::ranges::max(still_, {}, &Still::ticks).ticks;
  ticks_calm_ = longest == 0 ? ticks_calm_ + 1 : 0;
  if (ticks_calm_ >= kTicksCalm) suspicion_.answered();
  if (longest < kTicksStill) return {};
  if (!suspicion_.silent(connector_->addresses(), true)) {
    if (longest == kTicksStill) {
      log_warn("some of what is published is confirmed at no address",
               {{"group", group_}, {"retry", "none: its confirm is waited for"}});
    }
    return {};
  }
  // The others first, next time.
  if (search.ticks >= kTicksStill && search_.needs.size() > 1) {
    search_.needs.push_back(std::move(search_.needs.front()));
    search_.needs.pop_front();
  }
  return "it does not confirm everything";
}

bool Publisher::pump() {
  if (connection_ == nullptr || !readable_) return false;
  const auto pumped = connection_->pump(*this, kFramesPerPump);
  if (close_sent_ && state_ == State::idle) {  // close-ok came
    drop_connection();
    return false;
  }
  if (!pumped) {
    connection_lost(pumped.error());
    return false;
  }
  readable_ = *pumped == Connection::Pumped::more;
  return readable_;
}

void Publisher::close() {
  if (!blocked_.empty()) return abandon();  // the broker would not hear of it
  ending_ = true;
  if (state_ == State::connecting || state_ == State::waiting) state_ = State::idle;
  if (state_ == State::connected) state_ = State::closing;
  timer_.disarm();
  flush();
}

void Publisher::abandon() {
  ending_ = true;
  drop_connection();
  timer_.disarm();
  state_ = State::idle;
}

// ---- What is published

void Publisher::publish(std::unique_ptr<Outbound> outbound) {
  outbound->returned = false;  // it may have been on another way before
  outbound->connections_lost = 0;
  outbound->suspect = false;
  ++pending_;
  pending_bytes_ += size_of(*outbound);
  if (state_ == State::idle && !ending_) connect();
  route(std::move(outbound));
}

// To where it waits for its turn.
void Publisher::route(std::unique_ptr<Outbound> outbound) {
  const std::string& need = outbound->need;
  if (!missing_.empty()) {
    for (const std::string& name : {need, refused_key(*outbound)}) {
      const auto missing = missing_.find(name);
      if (missing == missing_.end()) continue;
      if (Clock::now() < missing->second.until) {
        const std::string reason = missing->second.reason;
        conclude(std::move(outbound), Fate::refused, reason);
        return;
      }
      missing_.erase(missing);
    }
  }
  if (need.empty() || there_.contains(need)) {
    line_up(std::move(outbound));
    return;
  }
  if (events_.steps_for(need).empty()) {  // nothing has to be there
    there_.insert(need);
    line_up(std::move(outbound));
    return;
  }
  const auto [searched, added] = searching_.try_emplace(need);
  if (added) search_.needs.push_back(need);
  searched->second.push_back(std::move(outbound));
}

void Publisher::line_up(std::unique_ptr<Outbound> outbound) {
  (outbound->suspect ? suspects_ : ready_).push_back(std::move(outbound));
}

void Publisher::forget(std::uint64_t cause, const std::function<void(const Outbound&)>& on_each) {
  const auto drop = [&](Queue& queue) {
    std::erase_if(queue, [&](std::unique_ptr<Outbound>& outbound) {
      if (outbound->cause != cause) return false;
      if (on_each) on_each(*outbound);
      --pending_;
      pending_bytes_ -= size_of(*outbound);
      return true;
    });
  };
  drop(ready_);
  drop(suspects_);
  drop(concluding_);
  for (auto& [need, queue] : searching_) drop(queue);
  // What has been sent is confirmed into the void.
  for (Lane* lane : {&main_, &careful_}) {
    for (auto& outbound : lane->unconfirmed) {
      if (outbound == nullptr || outbound->cause != cause) continue;
      if (on_each) on_each(*outbound);
      outbound->cause = 0;
    }
  }
}

void Publisher::conclude(std::unique_ptr<Outbound> outbound, Fate fate, const std::string& reason) {
  --pending_;
  pending_bytes_ -= size_of(*outbound);
  if (outbound->cause != 0) events_.on_fate(std::move(outbound), fate, reason);
}

// The owner may forget some of them when it hears of another.
void Publisher::conclude_all(Queue outbounds, Fate fate, const std::string& reason) {
  concluding_ = std::move(outbounds);
  while (!concluding_.empty()) {
    auto outbound = std::move(concluding_.front());
    concluding_.pop_front();
    conclude(std::move(outbound), fate, reason);
  }
}

void Publisher::flush() {
  if (journal_ != nullptr && journal_->has_work() && state_ == State::idle && !ending_) connect();
  if (connection_ == nullptr) return;
  if (state_ == State::connected && blocked_.empty()) {
    send_suspects();
    send_ready();
    send_search();
    if (journal_ != nullptr) journal_->send(*connection_, kJournal, kJournalAhead);
  }
  if (state_ == State::closing && !close_sent_ && connection_->writable()) {
    close_sent_ = true;
    if (auto sent = connection_->send_close(); !sent) {
      connection_lost(sent.error());
      return;
    }
  }
  if (auto written = connection_->write(); !written) {
    connection_lost(written.error());
    return;
  }
  watch_socket();
}

void Publisher::watch_socket() {
  const bool more = connection_->unwritten() > 0 || (state_ == State::closing && !close_sent_);
  const std::uint32_t input = connection_->reading_needs_room() ? EPOLLOUT : EPOLLIN;
  socket_source_.set_events(more ? input | EPOLLOUT : input);
}

void Publisher::send_search() {
  if (search_.needs.empty() || connection_->unwritten() >= kOutputAhead) return;
  if (search_.state == Search::State::down) {
    search_.state = Search::State::opening;
    search_.asked = false;
  }
  if (search_.state == Search::State::opening) {
    if (search_.asked || !connection_->writable()) return;
    search_.asked = true;
    (void)connection_->send(kSearch, ChannelOpen{});  // a failure shows at the next write
    return;
  }
  if (search_.steps.empty()) {
    search_.steps = events_.steps_for(search_.needs.front());
    search_.sent = search_.answered = 0;
  }
  while (search_.sent < search_.steps.size() && connection_->writable()) {
    if (auto sent = connection_->send(kSearch, search_.steps[search_.sent]); !sent) return;
    ++search_.sent;
  }
}

void Publisher::need_met() {
  const std::string need = std::move(search_.needs.front());
  search_.needs.pop_front();
  search_.steps.clear();
  if (there_.size() >= kMostRemembered) there_.clear();
  there_.insert(need);
  Queue waiting = std::move(searching_[need]);
  searching_.erase(need);
  for (auto& outbound : waiting) line_up(std::move(outbound));
}

void Publisher::need_failed(const std::string& reason) {
  const std::string need = std::move(search_.needs.front());
  search_.needs.pop_front();
  search_.steps.clear();
  miss(need, reason);
  Queue waiting = std::move(searching_[need]);
  searching_.erase(need);
  conclude_all(std::move(waiting), Fate::refused, reason);
}

void Publisher::miss(const std::string& need, const std::string& reason) {
  const TimePoint now = Clock::now();
  if (missing_.size() >= kMostRemembered) {
    std::erase_if(missing_, [now](const auto& each) { return each.second.until <= now; });
  }
  missing_[need] = {now + kMissingFor, reason};
}

void Publisher::open_lane(Lane& lane) {
  if (lane.state == Lane::State::down) {
    lane.state = Lane::State::opening;
    lane.asked = false;
  }
  if (lane.asked || lane.state == Lane::State::open || !connection_->writable()) return;
  lane.asked = true;
  const Request request =
      lane.state == Lane::State::opening ? Request(ChannelOpen{}) : Request(ConfirmSelect{});
  (void)connection_->send(lane.number, request);
}

void Publisher::send_suspects() {
  if (suspects_.empty()) return;
  if (careful_.state != Lane::State::open) {
    open_lane(careful_);
    return;
  }
  while (!suspects_.empty() && careful_.in_flight == 0 && connection_->unwritten() < kOutputAhead) {
    auto outbound = std::move(suspects_.front());
    suspects_.pop_front();
    if (outbound->need.empty() || there_.contains(outbound->need)) {
      send_on(careful_, std::move(outbound));
    } else {
      route(std::move(outbound));
    }
  }
}

void Publisher::send_ready() {
  if (ready_.empty()) return;
  if (main_.state != Lane::State::open) {
    open_lane(main_);
    return;
  }
  while (!ready_.empty() && main_.in_flight < kMostUnconfirmed &&
         connection_->unwritten() < kOutputAhead) {
    auto outbound = std::move(ready_.front());
    ready_.pop_front();
    send_on(main_, std::move(outbound));
  }
}

void Publisher::send_on(Lane& lane, std::unique_ptr<Outbound> outbound) {
  if (auto put = connection_->publish(lane.number, outbound->publication); !put) {
    conclude(std::move(outbound), Fate::too_large, put.error());
    return;
  }
  lane.unconfirmed.push_back(std::move(outbound));
  ++lane.in_flight;
}

// ---- What the broker says

Publisher::Lane* Publisher::lane_of(ChannelNumber number) {
  if (number == kMain) return &main_;
  if (number == kCareful) return &careful_;
  return nullptr;
}

void Publisher::on_ok(ChannelNumber number, Reply reply, std::string_view) {
  if (reply == Reply::connection_close) {
    state_ = State::idle;
    return;
  }
  if (number != kJournal) ++answers_;
  if (number == kSearch) {
    ++search_.moves;
    if (search_.state == Search::State::opening && reply == Reply::channel_open) {
      search_.state = Search::State::open;
    } else if (!search_.steps.empty() && ++search_.answered == search_.steps.size()) {
      need_met();
    }
    return;
  }
  if (number == kJournal) {
    journal_->on_ok(reply);
    return;
  }
  Lane* lane = lane_of(number);
  if (lane == nullptr) return;
  ++lane->moves;
  lane->asked = false;
  if (lane->state == Lane::State::opening && reply == Reply::channel_open) {
    lane->state = Lane::State::confirming;
  } else if (lane->state == Lane::State::confirming && reply == Reply::confirm_select) {
    lane->state = Lane::State::open;
  }
}

void Publisher::on_channel_closed(ChannelNumber number, int code, std::string_view text) {
  const std::string reason = std::to_string(code) + " " + escape(text);
  if (number != kJournal) ++answers_;
  if (number == kSearch) {
    ++search_.moves;
    search_.state = Search::State::down;
    search_.asked = false;
    if (!search_.steps.empty()) {
      need_failed(describe(search_.steps[std::min(search_.answered, search_.steps.size() - 1)]) +
                  ": " + reason);
    }
    return;
  }
  if (number == kJournal) {
    journal_->on_closed(reason);
    return;
  }
  Lane* lane = lane_of(number);
  if (lane == nullptr) return;
  if (const auto count = repeated_.count(reason, Clock::now()); count > 0) {
    log_warn("the broker closed a channel that publishes", {{"group", group_},
                                                            {"reason", reason},
                                                            {"times", count},
                                                            {"unconfirmed", lane->in_flight}});
  }
  ++lane->moves;
  // Perhaps something that was there is not there any more.
  there_.clear();
  Queue unconfirmed;
  take_unconfirmed(*lane, unconfirmed);
  const bool found = lane == &careful_ && !unconfirmed.empty();
  reset_lane(*lane);
  if (found) {
    constexpr int kAccessRefused = 403;
    // Others would close it too, unless it was for their routing keys.
    if (code == kAccessRefused && text.find("access to exchange") != std::string_view::npos) {
      miss(refused_key(*unconfirmed.front()), reason);
    }
    conclude(std::move(unconfirmed.front()), Fate::refused, reason);
    unconfirmed.pop_front();
  }
  for (auto& outbound : unconfirmed) outbound->suspect = true;
  route_again(std::move(unconfirmed));
}

// In the order they were sent, so the first that fits is the one. Those that cannot be told from it
// may be the one as well: where they go may depend on their headers.
void Publisher::on_returned(const ReturnedPublication& publication) {
  if (publication.channel == kJournal) {
    journal_->on_returned(publication.message_id,
                          std::to_string(publication.code) + " " + escape(publication.text));
    return;
  }
  Lane* lane = lane_of(publication.channel);
  if (lane == nullptr) return;
  bool found = false;
  for (auto& outbound : lane->unconfirmed) {
    if (outbound == nullptr) continue;
    const Publication& sent = outbound->publication;
    if (!sent.mandatory || sent.exchange != publication.exchange ||
        sent.routing_key != publication.routing_key ||
        outbound->message_id != publication.message_id) {
      continue;
    }
    outbound->returned = true;
    outbound->return_reason = std::to_string(publication.code) + " " + escape(publication.text);
    found = true;
  }
  if (!found) {
    log_warn("a publication came back that was not known to be under way",
             {{"group", group_},
              {"exchange", publication.exchange},
              {"key", publication.routing_key},
              {"message_id", publication.message_id}});
  }
}

void Publisher::on_confirmed(ChannelNumber number, std::uint64_t tag, bool multiple, bool ack) {
  if (number == kJournal) {
    journal_->on_confirmed(tag, multiple, ack);
    return;
  }
  ++answers_;
  Lane* lane = lane_of(number);
  if (lane == nullptr || tag < lane->first_tag ||
      tag >= lane->first_tag + lane->unconfirmed.size()) {
    return;
  }
  const auto settle = [&](std::unique_ptr<Outbound>& slot) {
    if (slot == nullptr) return;
    auto outbound = std::move(slot);
    --lane->in_flight;
    if (!ack) {
      conclude(std::move(outbound), Fate::nacked, "the broker refused it: is a queue full?");
    } else if (outbound->returned) {
      const std::string reason = outbound->return_reason;
      there_.erase(outbound->need);  // something of it may be gone
      conclude(std::move(outbound), Fate::returned, reason);
    } else {
      conclude(std::move(outbound), Fate::confirmed, {});
    }
  };
  const std::size_t last = tag - lane->first_tag;
  for (std::size_t i = multiple ? 0 : last; i <= last; ++i) settle(lane->unconfirmed[i]);
  while (!lane->unconfirmed.empty() && lane->unconfirmed.front() == nullptr) {
    lane->unconfirmed.pop_front();
    ++lane->first_tag;
    ++lane->moves;
  }
}

void Publisher::on_blocked(std::string_view reason) {
  blocked_ = reason.empty() ? "no reason given" : escape(reason);
  // It reads nothing now, and means to: a full socket is no sign that it is gone.
  connection_->set_patient(true);
  log_warn("the broker blocks publishers",
           {{"group", group_}, {"reason", blocked_}, {"pending", pending_}});
}

void Publisher::on_unblocked() {
  blocked_.clear();
  connection_->set_patient(false);
  log_info("the broker takes messages again", {{"group", group_}, {"pending", pending_}});
}

// Nothing is consumed here.
char* Publisher::on_delivery(const IncomingDelivery&) { return nullptr; }
void Publisher::on_body(ChannelNumber) {}
void Publisher::on_cancelled(ChannelNumber, std::string_view) {}

}  // namespace lope::consumer
