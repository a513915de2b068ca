#include "trying.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

#include "support/process.h"
#include "support/temp_dir.h"

namespace lope::bench {

namespace {

double run_ms(const std::vector<std::string>& command) {
  const auto began = std::chrono::steady_clock::now();
  const test::RunResult result = test::run(command);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  if (result.status != test::exited(0)) {
    throw std::runtime_error(command[0] + " " + command[1] + ": " + result.output);
  }
  return took.count();
}

}  // namespace

TryingSample measure_trying(int times) {
  const std::string lope = LOPE_BIN_DIR "/lope";
  const test::TempDir dir;
  const std::string cases =
      dir.write("cases.yaml", "handler: null\ncases: [ { name: one, message: { body: x } } ]\n");
  TryingSample sample;
  for (int i = 0; i < times; ++i) {
    sample.nothing_ms.push_back(run_ms({"/bin/true", "x"}));
    sample.try_ms.push_back(run_ms({lope, "try", "null", "--body", "x"}));
    sample.test_ms.push_back(run_ms({lope, "test", cases}));
  }
  for (auto* const list : {&sample.nothing_ms, &sample.try_ms, &sample.test_ms}) {
    std::sort(list->begin(), list->end());
  }
  return sample;
}

}  // namespace lope::bench
