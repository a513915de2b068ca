#include "common/worker_settings.h"

namespace lope {

WorkerSettings worker_settings(const GroupSettings& group, const std::string& handlers_dir,
                               std::int64_t max_message_bytes, int index) {
  WorkerSettings worker;
  worker.group = group.name;
  worker.worker_index = index;
  worker.threads = group.threads;
  worker.handlers_dir = handlers_dir;
  worker.handler = group.handler;
  worker.handler_copy = group.handler_copy;
  worker.options_json = group.options_json;
  worker.options = group.options;
  worker.batch = group.batch_size > 1;
  worker.flush_interval = group.flush_interval;
  worker.measures_memory = group.recycle.memory_bytes > 0;
  worker.max_message_bytes = max_message_bytes;
  worker.content = group.content;
  return worker;
}

}  // namespace lope
