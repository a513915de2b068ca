#include "consumer/dedup_owner.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <sstream>

namespace lope::consumer {

namespace {

const std::string kNoBoot = "-";

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string process_namespace() {
  struct stat status {};
  return ::stat("/proc/self/ns/pid", &status) == 0 ? std::to_string(status.st_ino) : "0";
}

// When it was started, in ticks since the machine was; empty when it is only a zombie. Nothing:
// there is none, or it is hidden.
std::optional<std::string> start_of(const std::string& pid) {
  const std::string text = content_of("/proc/" + pid + "/stat");
  // The name before it may hold anything, so the fields are counted from its last ')'.
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") return std::string();
  constexpr int kBetween = 19;  // fields 4 to 22
  for (int i = 0; i < kBetween; ++i) fields >> field;
  return fields ? field : std::string();
}

}  // namespace

std::string boot_id() {
  std::string id = content_of("/proc/sys/kernel/random/boot_id");
  // Where a service sees processes only of /proc (ProcSubset=pid) systemd tells it, without
  // hyphens.
  if (const char* told = std::getenv("LOPE_BOOT_ID"); id.empty() && told != nullptr) id = told;
  std::erase_if(id, [](unsigned char c) { return std::isxdigit(c) == 0; });
  return id;
}

std::string own_name() {
  const std::string pid = std::to_string(::getpid());
  const std::string boot = boot_id();
  return (boot.empty() ? kNoBoot : boot) + " " + process_namespace() + " " + pid + " " +
         start_of(pid).value_or("");
}

OwnerLife life_of(std::string_view owner) {
  std::istringstream fields{std::string(owner)};
  std::string boot, space, pid, start;
  if (!(fields >> boot >> space >> pid >> start)) return OwnerLife::unknown;
  if (pid.find_first_not_of("0123456789") != std::string::npos) return OwnerLife::unknown;
  const std::string own_boot = boot_id();
  if (boot == kNoBoot || own_boot.empty()) return OwnerLife::unknown;
  if (boot != own_boot) return OwnerLife::other_boot;
  if (space != process_namespace()) return OwnerLife::unknown;
  if (const auto found = start_of(pid)) {
    return *found == start ? OwnerLife::alive : OwnerLife::dead;
  }
  // Where others are hidden (hidepid, ProtectProc=) only that there is none can be told.
  const long number = std::strtol(pid.c_str(), nullptr, 10);
  if (number <= 0 || number > std::numeric_limits<pid_t>::max()) return OwnerLife::unknown;
  const bool none = ::kill(static_cast<pid_t>(number), 0) != 0 && errno == ESRCH;
  return none ? OwnerLife::dead : OwnerLife::unknown;
}

}  // namespace lope::consumer
