#include "exec_handler.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "measure.h"

namespace lope::bench {

namespace {

// It reads its input, as amqp-consume wants it, and says nothing.
const std::vector<std::string> kCommand = {"/bin/dd", "of=/dev/null", "status=none"};

struct Row {
  std::string name;
  Contender contender;
  Load load;
  bool is_command;
  std::vector<double> rates;
};

Row lope_row(const std::string& name, const std::string& options, int threads, int messages) {
  Row row{.name = name, .contender = {.name = "Lope"}, .load = {}, .is_command = true, .rates = {}};
  row.load.handler = "exec";
  row.load.options = options;
  row.load.threads = threads;
  row.load.messages = messages;
  return row;
}

std::vector<Row> make_rows(double scale) {
  const auto scaled = [scale](int messages) {
    return std::max(1000, static_cast<int>(messages * scale));
  };
  const std::string command =
      "{ command: [" + kCommand[0] + ", " + kCommand[1] + ", " + kCommand[2] + "] }";
  std::vector<Row> rows;
  Row theirs{.name = "amqp-consume",
             .contender = {.name = "amqp-consume",
                           .program = {LOPE_SOURCE_DIR "/tests/bench/clients/amqp_consume.sh"},
                           .more = kCommand},
             .load = {},
             .is_command = true,
             .rates = {}};
  theirs.load.messages = scaled(3000);
  rows.push_back(std::move(theirs));
  for (const int threads : {1, 2, 4}) {
    rows.push_back(
        lope_row("exec, threads: " + std::to_string(threads), command, threads, scaled(3000)));
  }
  rows.push_back(lope_row("exec, a co-process in C, window: 500",
                          "{ mode: coprocess, window: 500, command: [" LOPE_BIN_DIR "/coprocess] }",
                          1, scaled(100'000)));
  rows.back().load.prefetch = 500;
  rows.back().is_command = false;
  return rows;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::string spread_text(const char* format, const std::vector<double>& values) {
  char text[96];
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  std::snprintf(text, sizeof text, format, median_of(values), *least, *most);
  return text;
}

}  // namespace

nlohmann::json run_exec(test::Broker& broker, int rounds, double scale) {
  std::vector<Row> rows = make_rows(scale);
  for (int round = 0; round < rounds; ++round) {
    for (Row& row : rows) {
      const std::string queue = broker.make_queue("bench", queue_options(row.load));
      row.rates.push_back(measure(broker, queue, row.load, row.contender).rate);
      broker.delete_queue(queue);
    }
  }
  std::printf(
      "\n**handlers: exec**, 100 B, classic; the command is `dd of=/dev/null status=none`\n\n"
      "| | messages/s | of amqp-consume |\n| --- | ---: | ---: |\n");
  nlohmann::json result = nlohmann::json::array();
  for (const Row& row : rows) {
    // Round by round: the machine's own speed drifts.
    std::vector<double> ratios;
    for (std::size_t i = 0; i < row.rates.size(); ++i) {
      ratios.push_back(row.rates[i] / rows.front().rates[i]);
    }
    std::printf("| %s | %s | %s |\n", row.name.c_str(),
                spread_text("%.0f (%.0f–%.0f)", row.rates).c_str(),
                row.is_command ? spread_text("%.2f (%.2f–%.2f)", ratios).c_str() : "–");
    nlohmann::json json = {{"name", row.name}, {"messages_per_second", row.rates}};
    if (row.is_command) json["of_amqp_consume"] = ratios;
    result.push_back(std::move(json));
  }
  std::fflush(stdout);
  return result;
}

}  // namespace lope::bench
