// tests/support/http_server.py as a process of a test, and what it has recorded.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/ledger.h"
#include "support/process.h"
#include "support/temp_dir.h"

namespace lope::test {

class HttpServer {
 public:
  // `wait`: seconds before each answer; `more`: its other arguments.
  explicit HttpServer(const std::string& wait = "0", std::vector<std::string> more = {})
      : process_(arguments(wait, std::move(more))) {
    const auto line = process_.wait_for_line("port ");
    if (!line) throw std::runtime_error("http_server.py: no port: " + process_.output());
    port_ = line->substr(5);
  }

  Process& process() { return process_; }
  const std::string& port() const { return port_; }
  std::string authority() const { return "127.0.0.1:" + port_; }
  std::string url(const std::string& path = "/") const { return "http://" + authority() + path; }

  struct Request {
    std::string method, path, body;
    int connection = 0;
    nlohmann::json headers;          // by name in small letters
    std::vector<std::string> names;  // of the headers, as they came

    std::string header(const std::string& name) const { return headers.value(name, std::string()); }
  };
  // All that came so far.
  std::vector<Request> requests() const {
    std::vector<Request> requests;
    for (const std::string& line : lines_of_file(record())) {
      const auto json = nlohmann::json::parse(line);
      requests.push_back({json["method"], json["path"], json["body"], json["connection"],
                          json["headers"], json["names"]});
    }
    return requests;
  }
  std::size_t request_count() const { return lines_of_file(record()).size(); }

 private:
  std::string record() const { return files_.file("requests"); }
  std::vector<std::string> arguments(const std::string& wait, std::vector<std::string> more) const {
    std::vector<std::string> all = {"python3", LOPE_SOURCE_DIR "/tests/support/http_server.py",
                                    wait, "--record", record()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  TempDir files_;
  Process process_;
  std::string port_;
};

}  // namespace lope::test
