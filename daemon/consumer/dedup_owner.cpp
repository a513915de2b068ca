#include "consumer/dedup_owner.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <sstream>

namespace lope::consumer {

namespace {

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string process_namespace() {
  struct stat status {};
  return ::stat("/proc/self/ns/pid", &status) == 0 ? std::to_string(status.st_ino) : "0";
}

// When it was started, in ticks since the machine was; empty when there is none, or only a zombie.
std::string start_of(const std::string& pid) {
  const std::string text = content_of("/proc/" + pid + "/stat");
  // The name before it may hold anything, so the fields are counted from its last ')'.
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  fields >> field;
  if (field == "Z" || field == "X") return {};
  constexpr int kBetween = 19;  // fields 4 to 22
  for (int i = 0; i < kBetween; ++i) fields >> field;
  return fields ? field : std::string();
}

}  // namespace

std::string boot_id() {
  std::string id = content_of("/proc/sys/kernel/random/boot_id");
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

std::string own_name() {
  const std::string pid = std::to_string(::getpid());
  return boot_id() + " " + process_namespace() + " " + pid + " " + start_of(pid);
}

OwnerLife life_of(std::string_view owner) {
  std::istringstream fields{std::string(owner)};
  std::string boot, space, pid, start;
  if (!(fields >> boot >> space >> pid >> start)) return OwnerLife::unknown;
  if (pid.find_first_not_of("0123456789") != std::string::npos) return OwnerLife::unknown;
  if (boot != boot_id()) return OwnerLife::other_boot;
  if (space != process_namespace()) return OwnerLife::unknown;
  return start_of(pid) == start ? OwnerLife::alive : OwnerLife::dead;
}

}  // namespace lope::consumer
