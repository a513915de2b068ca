#include "supervisor/group_change.h"

#include <algorithm>

namespace lope::supervisor {

const char* to_string(GroupChange change) {
  switch (change) {
    case GroupChange::none: return "unchanged";
    case GroupChange::settings: return "its consumer goes on with other settings";
    case GroupChange::workers: return "new workers";
    case GroupChange::consumer: return "a new consumer";
  }
  return "";
}

GroupChange change_between(const ConsumerSettings& before, const ConsumerSettings& after) {
  ConsumerSettings same = before;
  GroupSettings& group = same.group;
  same.generation = after.generation;
  same.paused = after.paused;
  if (after.relay) {  // it records no spans
    same.telemetry = after.telemetry;
  } else {  // what only the relay goes by
    same.delays.relay = after.delays.relay;
    same.delays.retry = after.delays.retry;
    same.delays.give_up = after.delays.give_up;
  }
  if (same == after) return GroupChange::none;

  same.shutdown_timeout = after.shutdown_timeout;
  same.log.level = after.log.level;
  group.workers = after.group.workers;
  group.workers_max = after.group.workers_max;
  group.batch_wait = after.group.batch_wait;
  group.max_body_bytes = after.group.max_body_bytes;
  group.start_timeout = after.group.start_timeout;
  group.timeout = after.group.timeout;
  group.retry = after.group.retry;
  group.crashes = after.group.crashes;
  group.breaker = after.group.breaker;
  group.rate = after.group.rate;
  group.content.accept = after.group.content.accept;
  // Where nothing is said it is max_body; and without these nobody goes by it.
  if (!after.group.content.decode && !after.group.content.to_utf8) {
    group.content.max_decoded_bytes = after.group.content.max_decoded_bytes;
  }
  // Of another kind of key, or in another store, is another consumer's.
  group.dedup.window = after.group.dedup.window;
  group.dedup.on_store_failure = after.group.dedup.on_store_failure;
  group.dedup.min_interval = after.group.dedup.min_interval;
  group.dedup.too_soon = after.group.dedup.too_soon;
  const bool measured = group.recycle.memory_bytes > 0;
  if (measured == (after.group.recycle.memory_bytes > 0)) group.recycle = after.group.recycle;
  // With batches a worker calls another function of its handler.
  if ((group.batch_size > 1) == (after.group.batch_size > 1)) {
    group.batch_size = after.group.batch_size;
  }
  if (same == after) return GroupChange::settings;

  same.handlers_dir = after.handlers_dir;
  group.handler = after.group.handler;
  group.handler_hash = after.group.handler_hash;
  group.handler_copy = after.group.handler_copy;
  group.handler_missing = after.group.handler_missing;
  group.options_json = after.group.options_json;
  group.options = after.group.options;
  group.threads = after.group.threads;
  group.flush_interval = after.group.flush_interval;
  group.recycle = after.group.recycle;
  group.content = after.group.content;
  return same == after ? GroupChange::workers : GroupChange::consumer;
}

bool one_at_a_time(const GroupSettings& before, const GroupSettings& after) {
  const auto serves_one = [](const QueueSettings& queue) {
    if (queue.stream) return true;  // both would read all of it
    if (!queue.declare) return false;
    const AmqpValue* const single = find(queue.declaration.arguments, "x-single-active-consumer");
    if (queue.declaration.exclusive) return true;
    // One that goes with its last consumer must not lose it; a second one only waits there.
    return !queue.declaration.auto_delete && single != nullptr && *single == AmqpValue{true};
  };
  const bool ordered =
      before.order.by != OrderSettings::By::none || after.order.by != OrderSettings::By::none;
  return std::ranges::any_of(before.queues, [&](const QueueSettings& old) {
    return std::ranges::any_of(after.queues, [&](const QueueSettings& queue) {
      return queue.name == old.name && (ordered || serves_one(queue) || serves_one(old));
    });
  });
}

}  // namespace lope::supervisor
