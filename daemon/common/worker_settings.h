// What a worker of a group gets of its settings.
#pragma once

#include "common/settings.h"

namespace lope {

// `index`: as in "orders/0".
WorkerSettings worker_settings(const GroupSettings& group, const std::string& handlers_dir,
                               std::int64_t max_message_bytes, int index);

}  // namespace lope
