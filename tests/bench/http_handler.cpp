#include "http_handler.h"

#include <stdexcept>

#include "support/process.h"

namespace lope::bench {

Sample measure_http(test::Broker& broker, int in_the_air, int messages) {
  test::Process server({LOPE_BIN_DIR "/http_sink"});
  const auto port = server.wait_for_line("port ");
  if (!port) throw std::runtime_error("http_sink: no port: " + server.output());
  Load load;
  load.prefetch = in_the_air;
  load.messages = messages;
  load.handler = "http";
  load.options = "{ url: \"http://127.0.0.1:" + port->substr(5) +
                 "/\", max_in_flight: " + std::to_string(in_the_air) + " }";
  const std::string queue = broker.make_queue("bench", queue_options(load));
  const Sample sample = measure(broker, queue, load, {.name = "http"});
  broker.delete_queue(queue);
  return sample;
}

}  // namespace lope::bench
