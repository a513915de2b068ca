#include "worker/handler_thread.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "common/clock.h"
#include "worker/crash_report.h"

namespace lope::worker {

namespace {

// How often the memory is looked at: in less than that nobody fills much.
constexpr std::uint64_t kMeasureEveryNs = 1'000'000;

std::uint64_t sequence_of(const Inbox::Lease& lease) {
  FrameHead head;
  std::memcpy(&head, lease.frame.data(), sizeof head);
  return head.sequence;
}

}  // namespace

HandlerThread::HandlerThread(const WorkerSettings& settings, const Plugin& plugin,
                             std::uint32_t thread_index, WorkerBoard& board, LinkWriter& link,
                             Inbox& inbox, HeldMessages& held, const Schema* schema)
    : settings_(settings),
      plugin_(plugin),
      thread_index_(thread_index),
      board_(board),
      slot_(board.slots[thread_index]),
      link_(link),
      inbox_(inbox),
      held_(held),
      host_(settings, plugin, thread_index, board, link, held) {
  slot_.tid.store(::gettid(), std::memory_order_relaxed);
  if (prepares(settings.content)) content_.emplace(settings.content, schema);
  if (settings.measures_memory) memory_.emplace();
}

HandlerThread::Created HandlerThread::create() {
  Created created;
  if (plugin_.table->create == nullptr) return created;
  host_.set_creating(true);
  created.status = plugin_.table->create(host_.table(), &instance_);
  host_.set_creating(false);
  created.reason = host_.create_explanation();
  return created;
}

void HandlerThread::run() {
  while (true) {
    switch (inbox_.next(leases_, flush_due_ns_, flushes_)) {
      case Inbox::Next::deliveries: handle(); break;
      case Inbox::Next::revoke: revoke(); break;
      case Inbox::Next::flush: flush(flushes_.reason); break;
      case Inbox::Next::due: flush(LOPE_FLUSH_INTERVAL); break;
      case Inbox::Next::ended: return;
    }
  }
}

void HandlerThread::handle() {
  std::size_t count = leases_.size();
  if (count == 0) return;
  const std::uint64_t first = sequence_of(leases_.front());
  const std::uint64_t last = sequence_of(leases_.back());
  slot_.last.store(last, std::memory_order_release);
  // Sequentially consistent, against the consumer's store to revoked_below and its look at the
  // slots behind it: either it sees these deliveries in the slot, or we see that they were taken
  // back. A batch is given and taken back as a whole.
  slot_.sequence.store(first, std::memory_order_seq_cst);
  bool asleep = false;
  if (first < board_.revoked_below.load(std::memory_order_seq_cst)) {
    for (Inbox::Lease& lease : leases_) {
      asleep |= push_outcome(board_, sequence_of(lease), LOPE_NO_OUTCOME, 0, kNotStarted);
      inbox_.release(lease);
    }
    slot_.sequence.store(0, std::memory_order_release);
    if (std::exchange(wake_owed_, false) || asleep) link_.wake();
    return;
  }
  while (records_.size() < count) records_.push_back(held_.take_spare());
  const std::uint64_t started = monotonic_ns();
  for (std::size_t i = 0; i < count; ++i) {
    MessageRecord& record = *records_[i];
    record.take(leases_[i]);
    record.started_ns = started;
    record.thread = thread_index_;
  }
  call_begins(started);
  if (content_) count = prepare(count);
  if (count > 0) call_handler(count);
  const std::uint64_t ended = monotonic_ns();
  slot_.started_ns.store(0, std::memory_order_relaxed);
  // Before the outcomes: who reads those sees it.
  if (memory_ && ended >= measure_due_ns_) {
    board_.resident_bytes.store(memory_->bytes(), std::memory_order_relaxed);
    measure_due_ns_ = ended + kMeasureEveryNs;
  }

  const std::uint64_t duration = (ended - started) / std::max<std::size_t>(count, 1);
  for (std::size_t i = 0; i < count; ++i) {
    MessageRecord& record = *records_[i];
    const lope_outcome outcome = outcomes_[i];
    if (outcome == LOPE_HOLD) {
      held_.hold(std::exchange(records_[i], held_.take_spare()), duration);
      if (flush_due_ns_ == 0 && plugin_.has_flush()) {
        flush_due_ns_ = flush_due_after(ended);
      }
      continue;
    }
    held_.take_effects(record);
    const std::uint32_t flags = send_before_outcome(record, outcome, link_);
    asleep |= push_outcome(board_, record.sequence, outcome, duration, flags);
    record.own_body.drop_large();
    inbox_.release(record.lease);
  }
  slot_.sequence.store(0, std::memory_order_release);
  held_.call_ended(first, last);
  wake_owed_ |= asleep;
  const bool flush_is_due = flush_due_ns_ != 0 && ended >= flush_due_ns_;
  if (wake_owed_ && (duration >= kTinyCallNs || flush_is_due || !inbox_.has_next())) {
    wake_owed_ = false;
    link_.wake();
  }
  if (flush_is_due) flush(LOPE_FLUSH_INTERVAL);
}

// What no handler may see is told of at once, and out of the call. Returns how many are left, at
// the front.
std::size_t HandlerThread::prepare(std::size_t count) {
  std::size_t fit = 0;
  for (std::size_t i = 0; i < count; ++i) {
    MessageRecord& record = *records_[i];
    const CrashMessage crash_message(record.view[TextProperty::message_id]);
    const auto refused = content_->prepare(record);
    if (!refused) {
      std::swap(records_[fit++], records_[i]);
      continue;
    }
    link_.send_explanation(record.sequence, kByPolicy, refused->reason);
    const auto why = static_cast<lope_outcome>(refused->why);
    const std::uint64_t duration = monotonic_ns() - record.started_ns;
    if (push_outcome(board_, record.sequence, why, duration, kRefused | kExplained)) link_.wake();
    record.own_body.drop_large();
    inbox_.release(record.lease);
  }
  return fit;
}

// Alive first: a consumer that sees the call does not see an older call's sign of life with it.
void HandlerThread::call_begins(std::uint64_t now) {
  slot_.alive_ns.store(now, std::memory_order_relaxed);
  slot_.started_ns.store(now, std::memory_order_release);
}

void HandlerThread::call_handler(std::size_t count) {
  const lope_plugin& table = *plugin_.table;
  outcomes_.assign(count, LOPE_NO_OUTCOME);
  const std::span<const std::unique_ptr<MessageRecord>> current(records_.data(), count);
  if (plugin_.has_batch() && (settings_.batch || table.handle == nullptr)) {
    messages_.clear();
    for (const auto& record : current) messages_.push_back(&record->message);
    const lope_batch batch{sizeof(lope_batch), static_cast<std::uint32_t>(count), messages_.data()};
    host_.set_current(current);
    std::optional<CrashMessage> crash_message;
    if (count == 1) crash_message.emplace(records_.front()->view[TextProperty::message_id]);
    table.handle_batch(instance_, &batch, outcomes_.data());
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      host_.set_current(current.subspan(i, 1));
      const CrashMessage crash_message(records_[i]->view[TextProperty::message_id]);
      outcomes_[i] = table.handle(instance_, &records_[i]->message);
    }
  }
  host_.set_current({});
}

void HandlerThread::revoke() {
  Inbox::Lease& lease = leases_.front();
  held_.revoke(sequence_of(lease));
  inbox_.release(lease);
}

std::uint64_t HandlerThread::flush_due_after(std::uint64_t now) const {
  const std::chrono::nanoseconds interval = settings_.flush_interval;
  return now + static_cast<std::uint64_t>(interval.count());
}

void HandlerThread::flush(std::uint32_t reason) {
  if (drained_) return;
  drained_ = reason == LOPE_FLUSH_DRAIN;
  if (plugin_.has_flush()) {
    call_begins(monotonic_ns());
    const lope_status status = plugin_.table->flush(instance_, reason);
    slot_.started_ns.store(0, std::memory_order_relaxed);
    if (status != LOPE_OK) {
      link_.send_log(LogLevel::warn, "flush() failed with status " + std::to_string(status));
    }
  }
  if (drained_) held_.hand_back(thread_index_);
  flush_due_ns_ = 0;
  if (plugin_.has_flush() && held_.count(thread_index_) > 0) {
    flush_due_ns_ = flush_due_after(monotonic_ns());
  }
}

void HandlerThread::destroy() {
  if (plugin_.table->destroy != nullptr) plugin_.table->destroy(instance_);
  instance_ = nullptr;
}

}  // namespace lope::worker
