#include "python_handler.h"

#include <string>
#include <utility>

namespace lope::bench {

std::vector<Load> python_loads() {
  std::vector<Load> loads;
  for (const auto& [name, function] :
       {std::pair{"an empty function", "empty"}, std::pair{"a callback for pika", "pika"},
        std::pair{"a callback for kombu", "kombu"}}) {
    Load load;
    load.name = std::string("handlers: python, ") + name;
    load.handler = "python";
    load.options =
        std::string("{ file: " LOPE_SOURCE_DIR "/tests/bench/clients/empty.py, function: ") +
        function + " }";
    loads.push_back(load);
  }
  return loads;
}

}  // namespace lope::bench
