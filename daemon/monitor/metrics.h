// A daemon's state as metrics, in the text formats of Prometheus and of OpenMetrics. The only place
// that knows prometheus-cpp. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace lope::monitor {

enum class MetricsFormat { prometheus, openmetrics };

// What a client takes, by its Accept header.
MetricsFormat metrics_format(std::string_view accept);
const char* content_type(MetricsFormat format);

std::string metrics_text(const DaemonMetrics& metrics, MetricsFormat format);

}  // namespace lope::monitor
