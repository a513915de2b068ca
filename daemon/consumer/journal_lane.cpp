#include "consumer/journal_lane.h"

#include <algorithm>
#include <iterator>

#include "common/log.h"
#include "common/text.h"
#include "common/uuid.h"

namespace lope::consumer {

namespace {

// After the broker has refused one.
constexpr std::chrono::seconds kAfterNack{1};
constexpr int kMostClosed = 3;

void add_to(std::atomic<std::uint64_t>& counter, std::uint64_t count) {
  counter.fetch_add(count, std::memory_order_relaxed);
}

}  // namespace

void JournalLane::add(std::string body, std::uint32_t events, TimePoint now) {
  Batch batch;
  // What it has reserved is not counted.
  if (body.capacity() > body.size() + body.size() / 8) {
    batch.body = std::string(body);
  } else {
    batch.body = std::move(body);
  }
  batch.events = events;
  batch.made = now;
  if (bytes_ + batch.body.size() > kMostBytes) {
    drop(batch, trouble_.empty() ? "the broker takes them too slowly" : trouble_);
    return;
  }
  batch.message_id = uuid();
  bytes_ += batch.body.size();
  waiting_.push_back(std::move(batch));
}

void JournalLane::tend(TimePoint now) {
  if (settings_.confirmed) return;
  while (!waiting_.empty() && waiting_.front().made + kKept <= now) {
    drop(waiting_.front(), trouble_.empty() ? "the broker takes none" : trouble_);
    bytes_ -= waiting_.front().body.size();
    waiting_.pop_front();
  }
}

void JournalLane::give_up(std::string_view reason) {
  take_back_unconfirmed();
  for (const Batch& batch : waiting_) drop(batch, reason);
  waiting_.clear();
  bytes_ = 0;
}

void JournalLane::drop(const Batch& batch, std::string_view reason) {
  add_to(board_.journal_dropped, batch.events);
  if (const auto count = repeated_.count(std::string(reason), Clock::now()); count > 0) {
    log_warn("journal events dropped", {{"group", group_},
                                        {"reason", reason},
                                        {"events", batch.events},
                                        {"in_all", board_.journal_dropped.load()}});
  }
}

// ---- The channel

void JournalLane::enter(State state) {
  state_ = state;
  asked_ = false;
  if (state == State::looking && settings_.exchange.empty()) {
    enter(State::confirming);
  } else if (state == State::confirming && !settings_.confirmed) {
    state_ = State::open;
    trouble_.clear();
  }
}

void JournalLane::send(Connection& connection, ChannelNumber number, std::size_t limit) {
  if (waiting_.empty()) return;
  if (not_before_ != TimePoint{}) {
    if (Clock::now() < not_before_) return;
    not_before_ = {};
  }
  if (state_ == State::down) enter(State::opening);
  if (state_ != State::open) {
    if (asked_ || !connection.writable()) return;
    asked_ = true;
    Request request = ChannelOpen{};
    if (state_ == State::looking) {
      ExchangeDeclare look;
      look.exchange.name = settings_.exchange;
      look.passive = true;
      request = std::move(look);
    } else if (state_ == State::confirming) {
      request = ConfirmSelect{};
    }
    (void)connection.send(number, request);  // a failure shows at the next write
    return;
  }
  while (!waiting_.empty() && connection.unwritten() < limit) {
    Batch& batch = waiting_.front();
    Publication publication;
    publication.exchange = settings_.exchange;
    publication.routing_key = settings_.routing_key;
    publication.mandatory = settings_.confirmed;
    publication.content_type = "application/x-ndjson";
    publication.type = "lope.journal.1";
    publication.message_id = batch.message_id;
    publication.body = batch.body;
    if (auto put = connection.publish(number, publication); !put) {
      drop(batch, put.error());
      bytes_ -= batch.body.size();
      waiting_.pop_front();
      continue;
    }
    if (!std::exchange(batch.sent, true)) add_to(board_.journal_sent, batch.events);
    if (settings_.confirmed) {
      batch.tag = next_tag_++;
      unconfirmed_.push_back(std::move(batch));
    } else {
      bytes_ -= batch.body.size();
    }
    waiting_.pop_front();
  }
}

void JournalLane::on_ok(Reply reply) {
  ++moves_;
  if (state_ == State::opening && reply == Reply::channel_open) {
    enter(State::looking);
  } else if (state_ == State::looking && reply == Reply::exchange_declare) {
    enter(State::confirming);
  } else if (state_ == State::confirming && reply == Reply::confirm_select) {
    state_ = State::open;
    trouble_.clear();
  }
}

void JournalLane::on_closed(const std::string& reason) {
  trouble_ = reason;
  // One that the broker will never take must not hold up the others for ever.
  if (!unconfirmed_.empty() && ++unconfirmed_.front().closed == kMostClosed) {
    drop(unconfirmed_.front(), reason);
    bytes_ -= unconfirmed_.front().body.size();
    unconfirmed_.pop_front();
  }
  reset();
  not_before_ = Clock::now() + kLookAgain;
  if (const auto count = repeated_.count("closed " + reason, Clock::now()); count > 0) {
    log_warn("cannot send the journal",
             {{"group", group_},
              {"exchange", settings_.exchange},
              {"reason", reason},
              {"retry_ms", std::chrono::milliseconds(kLookAgain).count()}});
  }
}

void JournalLane::on_connection_lost() {
  reset();
  trouble_.clear();
  not_before_ = {};
}

void JournalLane::reset() {
  ++moves_;
  state_ = State::down;
  asked_ = false;
  next_tag_ = 1;
  take_back_unconfirmed();
}

// To be sent again, in their order.
void JournalLane::take_back_unconfirmed() {
  for (Batch& batch : unconfirmed_) batch.returned = false;
  waiting_.insert(waiting_.begin(), std::make_move_iterator(unconfirmed_.begin()),
                  std::make_move_iterator(unconfirmed_.end()));
  unconfirmed_.clear();
}

// Comes before its confirm.
void JournalLane::on_returned(std::string_view message_id, const std::string& reason) {
  const auto found = std::ranges::find(unconfirmed_, message_id, &Batch::message_id);
  if (found == unconfirmed_.end()) return;
  found->returned = true;
  trouble_ = reason;
}

void JournalLane::on_confirmed(std::uint64_t tag, bool multiple, bool ack) {
  const auto end = std::ranges::upper_bound(unconfirmed_, tag, {}, &Batch::tag);
  auto begin = unconfirmed_.begin();
  if (!multiple) {
    if (end == begin || std::prev(end)->tag != tag) return;
    begin = std::prev(end);
  }
  if (begin == unconfirmed_.begin()) ++moves_;
  std::deque<Batch> refused;
  for (auto each = begin; each != end; ++each) {
    if (!ack) {
      refused.push_back(std::move(*each));
      continue;
    }
    bytes_ -= each->body.size();
    if (each->returned) {
      drop(*each, trouble_);
    } else {
      add_to(board_.journal_confirmed, each->events);
      trouble_.clear();
    }
  }
  unconfirmed_.erase(begin, end);
  if (refused.empty()) return;
  trouble_ = "the broker refused them: is a queue full?";
  not_before_ = Clock::now() + kAfterNack;
  waiting_.insert(waiting_.begin(), std::make_move_iterator(refused.begin()),
                  std::make_move_iterator(refused.end()));
}

}  // namespace lope::consumer
