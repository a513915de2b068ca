#include "consumer/orphans.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <sstream>
#include <vector>

#include "common/log.h"

namespace lope::consumer {

namespace {

std::vector<pid_t> children() {
  std::vector<pid_t> pids;
  DIR* tasks = ::opendir("/proc/self/task");
  if (tasks == nullptr) return pids;
  while (const dirent* task = ::readdir(tasks)) {
    if (task->d_name[0] == '.') continue;
    std::ifstream list("/proc/self/task/" + std::string(task->d_name) + "/children");
    pid_t pid = 0;
    while (list >> pid) pids.push_back(pid);
  }
  ::closedir(tasks);
  return pids;
}

// The worker id in a process's environment; empty when it has none, or its memory is gone.
std::string worker_id_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();  // without a word when the process ends meanwhile
  const std::string environment = '\0' + content.str();
  const std::string key = '\0' + std::string(kWorkerIdVariable) + "=";
  const std::size_t at = environment.find(key);
  if (at == std::string::npos) return {};
  return environment.c_str() + at + key.size();  // as far as the next '\0'
}

}  // namespace

std::string new_worker_id() {
  static std::uint64_t count = 0;
  return std::to_string(::getpid()) + "." + std::to_string(++count);
}

std::size_t sweep_orphans(std::span<const LiveWorker> live, WithoutId others) {
  static std::vector<pid_t> killed;  // and, so far, not reaped
  std::vector<pid_t> still_killed;
  bool reaped = true;
  while (reaped) {  // what one that we reap has left became ours after the list was made
    reaped = false;
    still_killed.clear();
    for (const pid_t pid : children()) {
      const auto is_worker = [pid](const LiveWorker& worker) { return worker.pid == pid; };
      if (std::any_of(live.begin(), live.end(), is_worker)) continue;
      if (::waitpid(pid, nullptr, WNOHANG) == pid) {
        reaped = true;
        continue;
      }
      if (std::find(killed.begin(), killed.end(), pid) == killed.end()) {
        const std::string id = worker_id_of(pid);
        const auto is_its_worker = [&id](const LiveWorker& worker) { return worker.id == id; };
        if (id.empty() && others == WithoutId::spared) continue;
        if (std::any_of(live.begin(), live.end(), is_its_worker)) continue;
        log_info("killed what a worker left behind", {{"left_pid", pid}, {"worker_id", id}});
        ::kill(pid, SIGKILL);  // SIGCHLD brings us back here to reap it
        killed.push_back(pid);
      }
      still_killed.push_back(pid);
    }
  }
  killed = std::move(still_killed);
  return killed.size();
}

}  // namespace lope::consumer
