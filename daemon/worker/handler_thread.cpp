#include "worker/handler_thread.h"

#include <cstring>

#include "common/clock.h"

namespace lope::worker {

namespace {

lope_str str(std::string_view text) { return {text.data(), text.size()}; }

void fill(lope_message& message, std::uint64_t sequence, const DeliveryView& view) {
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
}

}  // namespace

HandlerThread::HandlerThread(const WorkerSettings& settings, const Plugin& plugin,
                             std::uint32_t thread_index, WorkerBoard& board, LinkWriter& link,
                             Inbox& inbox)
    : plugin_(plugin),
      board_(board),
      slot_(board.slots[thread_index]),
      link_(link),
      inbox_(inbox),
      host_(settings, plugin, thread_index, board, link) {
  current_.message.host_data = &current_;
}

HandlerThread::Created HandlerThread::create() {
  Created created;
  if (plugin_.table->create == nullptr) return created;
  created.status = plugin_.table->create(host_.table(), &instance_);
  created.reason = host_.create_explanation();
  return created;
}

void HandlerThread::run() {
  Inbox::Lease lease;
  while (inbox_.next(lease)) {
    FrameHead head;
    std::memcpy(&head, lease.frame.data(), sizeof head);
    const auto view = decode_delivery(lease.frame);
    // A frame that does not decode is our own defect, not the handler's.
    if (head.type != FrameType::delivery || !view) std::abort();
    handle(head.sequence, *view);
    inbox_.release(lease);
  }
}

void HandlerThread::handle(std::uint64_t sequence, const DeliveryView& view) {
  // Sequentially consistent, against the consumer's store to revoked_below and its look at the
  // slots behind it: either it sees this delivery in the slot, or we see that it was taken back.
  slot_.sequence.store(sequence, std::memory_order_seq_cst);
  if (sequence < board_.revoked_below.load(std::memory_order_seq_cst)) {
    const bool asleep = push_outcome(board_, sequence, LOPE_NO_OUTCOME, 0, kNotStarted);
    slot_.sequence.store(0, std::memory_order_release);
    if (asleep) link_.wake();
    return;
  }
  current_.view = view;
  current_.sequence = sequence;
  current_.explanation.clear();
  fill(current_.message, sequence, view);

  const std::uint64_t started = monotonic_ns();
  slot_.started_ns.store(started, std::memory_order_relaxed);
  host_.set_current(&current_);
  const lope_outcome outcome = call_handler();
  host_.set_current(nullptr);
  const std::uint64_t duration = monotonic_ns() - started;

  const bool explained = outcome != LOPE_ACK && !current_.explanation.empty();
  if (explained) link_.send_explanation(sequence, current_.explanation);
  const bool asleep = push_outcome(board_, sequence, outcome, duration, explained ? kExplained : 0);
  slot_.sequence.store(0, std::memory_order_release);
  if (asleep) link_.wake();
}

lope_outcome HandlerThread::call_handler() {
  const lope_plugin& table = *plugin_.table;
  if (table.handle != nullptr) return table.handle(instance_, &current_.message);
  // A handler that only knows batches gets batches of one.
  const lope_message* const messages[] = {&current_.message};
  const lope_batch batch{sizeof(lope_batch), 1, messages};
  lope_outcome outcome = LOPE_NO_OUTCOME;
  table.handle_batch(instance_, &batch, &outcome);
  return outcome;
}

void HandlerThread::destroy() {
  if (plugin_.table->destroy != nullptr) plugin_.table->destroy(instance_);
  instance_ = nullptr;
}

}  // namespace lope::worker
