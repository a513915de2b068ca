// Talks to a daemon under test with `lope status` and its like.
#pragma once

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "common/exit_code.h"
#include "support/lope.h"

namespace lope::test {

using Json = nlohmann::json;

inline ProcessOptions with_socket(const Lope& daemon) {
  ProcessOptions options;
  options.env = {{"LOPE_SOCKET", daemon.control_socket()}};
  return options;
}

// What a command that succeeds prints.
inline std::string told(const Lope& daemon, std::vector<std::string> arguments) {
  const RunResult result = run_lope(std::move(arguments), with_socket(daemon));
  INFO(result.output);
  CHECK(result.status == exited(kExitOk));
  return result.output;
}

// What one that is refused prints.
inline std::string refused(const Lope& daemon, std::vector<std::string> arguments) {
  const RunResult result = run_lope(std::move(arguments), with_socket(daemon));
  INFO(result.output);
  CHECK(result.status == exited(kExitFailed));
  return result.output;
}

inline Json status_of(const Lope& daemon) {
  return Json::parse(told(daemon, {"status", "--json"}));
}

// The group of that name; the first without one.
inline Json group_of(const Lope& daemon, const std::string& name = "") {
  const Json status = status_of(daemon);
  for (const Json& group : status["groups"]) {
    if (name.empty() || group["name"] == name) return group;
  }
  FAIL("no group " << name);
  return {};
}

// Of a group's workers, whatever their state.
inline std::set<pid_t> pids_in(const Json& group) {
  std::set<pid_t> pids;
  for (const Json& worker : group["workers"]) pids.insert(worker["pid"].get<pid_t>());
  return pids;
}

// As many as wanted, all ready, nobody leaving, and none of these.
inline bool has_settled(const Json& group, std::size_t wanted,
                        const std::set<pid_t>& without = {}) {
  if (group["workers"].size() != wanted) return false;
  for (const Json& worker : group["workers"]) {
    if (worker["state"] != "ready" || without.contains(worker["pid"].get<pid_t>())) return false;
  }
  return true;
}

}  // namespace lope::test
