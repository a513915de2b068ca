#include "worker/messages.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/clock.h"

namespace lope::worker {

namespace {

// How often the consumer is told that one message is kept alive.
constexpr std::uint64_t kKeepAliveInterval = 10'000'000;  // ns

lope_str str(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

void MessageRecord::begin(const DeliveryView& view_, std::uint64_t sequence_) {
  view = view_;
  sequence = sequence_;
  handed_back = false;
  explanation.clear();
  retry_after_ms = kByPolicy;
  kept_alive_ns = 0;
}

void MessageRecord::take(const Inbox::Lease& from) {
  lease = from;
  FrameHead head;
  std::memcpy(&head, lease.frame.data(), sizeof head);
  auto decoded = decode_delivery(lease.frame);
  if (head.type != FrameType::delivery || !decoded) std::abort();
  begin(*decoded, head.sequence);
  if (view.segment != 0) view.body = {lease.body, view.segment_body_size};

  message.struct_size = sizeof message;
  message.flags = 0;
  if ((view.flags & kDeliveryRedelivered) != 0) message.flags |= LOPE_MSG_REDELIVERED;
  if ((view.flags & kDeliveryPersistent) != 0) message.flags |= LOPE_MSG_PERSISTENT;
  message.id = sequence;
  message.delivery_tag = view.delivery_tag;
  message.received_unix_ns = view.received_unix_ns;
  message.timestamp = view.timestamp;
  message.attempt = view.attempt;
  message.crashes = view.crashes;
  message.body = {view.body.data(), view.body.size()};
  message.queue = str(view[TextProperty::queue]);
  message.exchange = str(view[TextProperty::exchange]);
  message.routing_key = str(view[TextProperty::routing_key]);
  message.consumer_tag = str(view[TextProperty::consumer_tag]);
  message.content_type = str(view[TextProperty::content_type]);
  message.content_encoding = str(view[TextProperty::content_encoding]);
  message.correlation_id = str(view[TextProperty::correlation_id]);
  message.reply_to = str(view[TextProperty::reply_to]);
  message.message_id = str(view[TextProperty::message_id]);
  message.parent_id = str(view[TextProperty::parent_id]);
  message.type = str(view[TextProperty::type]);
  message.app_id = str(view[TextProperty::app_id]);
  message.user_id = str(view[TextProperty::user_id]);
  message.expiration = str(view[TextProperty::expiration]);
  message.priority = view.priority;
  message.header_count = view.header_count;
  message.host_data = this;
}

void MessageRecord::drop_publications() {
  publication_count = 0;
  publications.drop_large();
}

void MessageRecord::add_effects(const MessageRecord& from) {
  const auto frames = from.publications.bytes();
  publications.append({frames.data(), frames.size()});
  publication_count += from.publication_count;
  if (!from.explanation.empty()) explanation = from.explanation;
  if (from.retry_after_ms != kByPolicy) retry_after_ms = from.retry_after_ms;
}

bool MessageRecord::has_effects() const {
  return publication_count > 0 || !explanation.empty() || retry_after_ms != kByPolicy;
}

std::uint32_t send_before_outcome(MessageRecord& record, lope_outcome outcome, LinkWriter& link) {
  std::uint32_t flags = 0;
  if (outcome == LOPE_ACK) {
    if (record.publication_count > 0) link.send_frames(record.publications.bytes());
    flags = record.publication_count << kPublicationsShift;
  } else if (!record.explanation.empty() || record.retry_after_ms != kByPolicy) {
    link.send_explanation(record.sequence, record.retry_after_ms, record.explanation);
    flags = kExplained;
  }
  record.drop_publications();
  return flags;
}

HeldMessages::HeldMessages(WorkerBoard& board, LinkWriter& link, Inbox& inbox, int threads)
    : board_(board), link_(link), inbox_(inbox), threads_(static_cast<std::size_t>(threads)) {}

std::unique_ptr<MessageRecord> HeldMessages::take_spare() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return spare_record();
}

std::unique_ptr<MessageRecord> HeldMessages::spare_record() {
  if (spare_.empty()) return std::make_unique<MessageRecord>();
  auto record = std::move(spare_.back());
  spare_.pop_back();
  return record;
}

void HeldMessages::hold(std::unique_ptr<MessageRecord> record, std::uint64_t duration_ns) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t id = record->sequence;
  const bool asleep = push_outcome(board_, id, LOPE_HOLD, duration_ns, kHeld);
  std::optional<lope_outcome> outcome;
  if (const auto early = early_.find(id); early != early_.end()) {
    outcome = early->second.outcome;
    if (early->second.effects) record->add_effects(*early->second.effects);
    forget_early(early);
  }
  if (outcome) {
    report(*record, *outcome);
    put_away(std::move(record));
  } else {
    held_.emplace(id, std::move(record));
  }
  if (asleep) link_.wake();
}

void HeldMessages::take_effects(MessageRecord& record) {
  if (early_count_.load(std::memory_order_relaxed) == 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = early_.find(record.sequence);
  // Who has settled it as well has gone by another outcome.
  if (found == early_.end() || found->second.outcome) return;
  record.add_effects(*found->second.effects);
  forget_early(found);
}

void HeldMessages::call_ended(std::uint64_t first, std::uint64_t last) {
  if (early_count_.load(std::memory_order_relaxed) == 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto entry = early_.begin(); entry != early_.end();) {
    const auto current = entry++;
    const auto& [id, early] = *current;
    if (id < first || id > last) continue;
    if (early.outcome || early.effects->has_effects()) {
      link_.send_log(LogLevel::warn,
                     "another thread settled message " + std::to_string(id) +
                         ", or published for it after its handler was done, but the handler did "
                         "not keep it: the outcome that the handler returned counts, and what was "
                         "done for the message before it");
    }
    forget_early(current);
  }
}

lope_status HeldMessages::settle(std::uint64_t id, lope_outcome outcome) {
  if (outcome != LOPE_ACK && outcome != LOPE_RETRY && outcome != LOPE_REJECT) {
    return LOPE_E_INVALID;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto found = held_.find(id); found != held_.end()) {
    auto record = std::move(found->second);
    held_.erase(found);
    const bool current = !record->handed_back;
    if (current) report(*record, outcome);
    put_away(std::move(record));
    if (current) return LOPE_OK;
  } else if (is_running(id)) {
    Early& entry = early(id);
    if (!entry.outcome) {
      entry.outcome = outcome;
      return LOPE_OK;
    }
  }
  link_.send_log(LogLevel::warn, "settle() of message " + std::to_string(id) +
                                     ", which is settled already, was never kept, or was handed "
                                     "back");
  return LOPE_E_STALE;
}

lope_status HeldMessages::keep_alive(const lope_message* message) {
  const std::uint64_t now = monotonic_ns();
  const std::lock_guard<std::mutex> lock(mutex_);
  MessageRecord* const record = find(*message);
  if (record == nullptr) return LOPE_E_WRONG_THREAD;
  if (record->handed_back) return LOPE_E_STALE;
  if (!held_.contains(message->id)) {  // a call is about it
    auto* const slots = board_.slots.data();
    const auto slot = std::find_if(slots, slots + threads_,
                                   [message](const auto& each) { return each.holds(message->id); });
    if (slot != slots + threads_) slot->alive_ns.store(now, std::memory_order_relaxed);
    return LOPE_OK;
  }
  if (now - record->kept_alive_ns < kKeepAliveInterval) return LOPE_OK;
  record->kept_alive_ns = now;
  link_.send(FrameType::keep_alive, record->sequence, {});
  return LOPE_OK;
}

void HeldMessages::revoke(std::uint64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = held_.find(id);
  if (found == held_.end() || found->second->handed_back) return;
  MessageRecord& record = *found->second;
  record.handed_back = true;
  record.drop_publications();
  const std::uint64_t duration = monotonic_ns() - record.started_ns;
  if (push_outcome(board_, id, LOPE_NO_OUTCOME, duration, kSettled | kRevoked)) link_.wake();
}

MessageRecord* HeldMessages::find(const lope_message& message) {
  if (const auto found = held_.find(message.id); found != held_.end()) {
    return &found->second->message == &message ? found->second.get() : nullptr;
  }
  const auto* const running = static_cast<const MessageRecord*>(message.host_data);
  if (!is_running(message.id) || &running->message != &message) return nullptr;
  Early& entry = early(message.id);
  if (entry.outcome) return nullptr;  // it is over, as far as that thread is concerned
  if (!entry.effects) {
    entry.effects = spare_record();
    entry.effects->begin(running->view, running->sequence);  // nobody writes these meanwhile
  }
  return entry.effects.get();
}

HeldMessages::Early& HeldMessages::early(std::uint64_t id) {
  Early& entry = early_[id];
  early_count_.store(early_.size(), std::memory_order_relaxed);
  return entry;
}

void HeldMessages::forget_early(std::unordered_map<std::uint64_t, Early>::iterator entry) {
  if (entry->second.effects) {
    entry->second.effects->drop_publications();
    spare_.push_back(std::move(entry->second.effects));
  }
  early_.erase(entry);
  early_count_.store(early_.size(), std::memory_order_relaxed);
}

bool HeldMessages::is_running(std::uint64_t id) const {
  const auto* slots = board_.slots.data();
  return std::any_of(slots, slots + threads_,
                     [id](const WorkerBoard::Slot& slot) { return slot.holds(id); });
}

void HeldMessages::report(MessageRecord& record, lope_outcome outcome) {
  const std::uint32_t flags = kSettled | send_before_outcome(record, outcome, link_);
  if (push_outcome(board_, record.sequence, outcome, monotonic_ns() - record.started_ns, flags)) {
    link_.wake();
  }
}

void HeldMessages::put_away(std::unique_ptr<MessageRecord> record) {
  inbox_.release(record->lease);
  record->own_body.drop_large();
  record->drop_publications();
  spare_.push_back(std::move(record));
}

std::size_t HeldMessages::count(std::uint32_t thread) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<std::size_t>(
      std::count_if(held_.begin(), held_.end(),
                    [thread](const auto& entry) { return entry.second->thread == thread; }));
}

void HeldMessages::hand_back(std::uint32_t thread) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [id, record] : held_) {
    if (record->thread == thread) record->handed_back = true;
  }
  if (push_outcome(board_, 0, LOPE_NO_OUTCOME, 0, kFlushed)) link_.wake();
}

}  // namespace lope::worker
