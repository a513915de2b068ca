// The handler http against a local server that answers at once.
#pragma once

#include "measure.h"

namespace lope::bench {

// `in_the_air` requests at a time. Throws std::runtime_error when anything is not as it should be.
Sample measure_http(test::Broker& broker, int in_the_air, int messages);

}  // namespace lope::bench
