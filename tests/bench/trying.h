// How long `lope try` and `lope test` take from their start to their end.
#pragma once

#include <vector>

namespace lope::bench {

struct TryingSample {
  std::vector<double> nothing_ms;  // a program that does nothing, started in the same way
  std::vector<double> try_ms;      // `lope try` with the handler null and one message
  std::vector<double> test_ms;     // `lope test` with one case of the same
};

// Turn about, so many times. Each list ascending.
TryingSample measure_trying(int times);

}  // namespace lope::bench
