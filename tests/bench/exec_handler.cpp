#include "exec_handler.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "measure.h"

namespace lope::bench {

namespace {

// The smallest, so that what is measured is who starts it, and one that people have.
struct Command {
  std::string shown;
  std::vector<std::string> argv;
};
const Command kCommands[] = {{"sink", {LOPE_BIN_DIR "/sink"}},
                             {"dd", {"/bin/dd", "of=/dev/null", "status=none"}}};

struct Row {
  std::string name;
  Contender contender;
  Load load;
  std::optional<std::size_t> base;  // the row that it is held against
  std::vector<double> rates;
};

Row lope_row(const std::string& name, const std::string& options, int threads, int messages) {
  Row row{.name = name, .contender = {.name = "Lope"}, .load = {}, .base = {}, .rates = {}};
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
  std::vector<Row> rows;
  for (const Command& command : kCommands) {
    Row theirs{.name = "amqp-consume, " + command.shown,
               .contender = {.name = "amqp-consume",
                             .program = {LOPE_SOURCE_DIR "/tests/bench/clients/amqp_consume.sh"},
                             .more = command.argv},
               .load = {},
               .base = rows.size(),
               .rates = {}};
    theirs.load.messages = scaled(3000);
    const std::size_t base = rows.size();
    rows.push_back(std::move(theirs));
    std::string list;
    for (const std::string& word : command.argv) list += (list.empty() ? "" : ", ") + word;
    for (const int threads : {1, 2, 4}) {
      rows.push_back(lope_row("exec, " + command.shown + ", threads: " + std::to_string(threads),
                              "{ command: [" + list + "] }", threads, scaled(3000)));
      rows.back().base = base;
    }
  }
  rows.push_back(lope_row("exec, a co-process in C, window: 500",
                          "{ mode: coprocess, window: 500, command: [" LOPE_BIN_DIR "/coprocess] }",
                          1, scaled(100'000)));
  rows.back().load.prefetch = 500;
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
      "\n**handlers: exec**, 100 B, classic; a command for each message: the smallest there is, "
      "and "
      "dd\n\n"
      "| | messages/s | of amqp-consume |\n| --- | ---: | ---: |\n");
  nlohmann::json result = nlohmann::json::array();
  for (const Row& row : rows) {
    // Round by round: the machine's own speed drifts.
    std::vector<double> ratios;
    for (std::size_t i = 0; row.base && i < row.rates.size(); ++i) {
      ratios.push_back(row.rates[i] / rows[*row.base].rates[i]);
    }
    std::printf("| %s | %s | %s |\n", row.name.c_str(),
                spread_text("%.0f (%.0f–%.0f)", row.rates).c_str(),
                row.base ? spread_text("%.2f (%.2f–%.2f)", ratios).c_str() : "–");
    nlohmann::json json = {{"name", row.name}, {"messages_per_second", row.rates}};
    if (row.base) json["of_amqp_consume"] = ratios;
    result.push_back(std::move(json));
  }
  std::fflush(stdout);
  return result;
}

}  // namespace lope::bench
