#include "support/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <ostream>
#include <stdexcept>
#include <system_error>

#include "support/temp_dir.h"

namespace lope::test {
namespace {

[[noreturn]] void fail(const std::string& call) {
  throw std::runtime_error(call + ": " + std::generic_category().message(errno));
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> environment(const ProcessOptions& options) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const auto changed = [&](const auto& variable) {
      return text.starts_with(variable.first) &&
             text.substr(variable.first.size()).starts_with('=');
    };
    if (std::none_of(options.env.begin(), options.env.end(), changed)) result.emplace_back(text);
  }
  for (const auto& [name, value] : options.env) {
    if (value) result.push_back(name + '=' + *value);
  }
  return result;
}

UniqueFd input_of(const std::string& content) {
  if (content.empty()) {
    UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) fail("open /dev/null");
    return fd;
  }
  auto fd = make_memfd("standard input", content);
  if (!fd) throw std::runtime_error(fd.error());
  if (::lseek(fd->get(), 0, SEEK_SET) < 0) fail("lseek");
  return std::move(*fd);
}

std::string file_text(const std::string& path, char separator) {
  std::string text = read_file(path);
  std::replace(text.begin(), text.end(), '\0', separator);
  while (!text.empty() && (text.back() == separator || text.back() == '\n')) text.pop_back();
  return text;
}

// Field `index` (from 1) of /proc/PID/stat behind the name: 1 state, 2 parent, 3 group.
std::string_view stat_field(std::string_view stat, int index) {
  stat.remove_prefix(std::min(stat.size(), stat.rfind(')') + 2));
  for (; index > 1; --index) stat.remove_prefix(std::min(stat.size(), stat.find(' ') + 1));
  return stat.substr(0, stat.find(' '));
}

pid_t to_pid(std::string_view text) {
  pid_t pid = 0;
  std::from_chars(text.data(), text.data() + text.size(), pid);
  return pid;
}

std::optional<ProcessInfo> process_info(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid);
  const std::string stat = read_file(folder + "/stat");
  if (stat.empty()) return std::nullopt;
  const std::string_view state = stat_field(stat, 1);
  if (state == "Z" || state == "X") return std::nullopt;
  return ProcessInfo{pid, to_pid(stat_field(stat, 2)), to_pid(stat_field(stat, 3)),
                     file_text(folder + "/comm", ' '), file_text(folder + "/cmdline", ' ')};
}

template <typename Keep>
std::vector<ProcessInfo> processes_where(Keep keep) {
  std::vector<ProcessInfo> result;
  for (ProcessInfo& info : all_processes()) {
    if (keep(info)) result.push_back(std::move(info));
  }
  return result;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const ExitStatus& status) {
  return out << (status.exited ? "exit " : "signal ")
             << (status.exited ? status.code : status.signal);
}

Process::Process(std::vector<std::string> argv, ProcessOptions options)
    : own_group_(options.new_group) {
  std::vector<std::string> env = environment(options);
  const std::vector<char*> argv_pointers = pointers(argv);
  const std::vector<char*> env_pointers = pointers(env);
  const UniqueFd input = input_of(options.standard_input);
  auto output = make_pipe();
  auto failure = make_pipe();
  auto stop = make_eventfd();
  if (!output || !failure || !stop) throw std::runtime_error("cannot make pipes");

  pid_ = ::fork();
  if (pid_ < 0) fail("fork");
  if (pid_ == 0) {
    if (own_group_) ::setpgid(0, 0);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
    ::dup2(input.get(), STDIN_FILENO);
    ::dup2(output->second.get(), STDOUT_FILENO);
    ::dup2(output->second.get(), STDERR_FILENO);
    if (options.directory.empty() || ::chdir(options.directory.c_str()) == 0) {
      ::execvpe(argv_pointers[0], argv_pointers.data(), env_pointers.data());
    }
    const int error = errno;
    if (::write(failure->second.get(), &error, sizeof error) < 0) ::_exit(126);
    ::_exit(127);
  }
  if (own_group_) ::setpgid(pid_, pid_);  // on both sides: neither may run ahead of it
  failure->second.reset();
  output->second.reset();
  int error = 0;
  if (::read(failure->first.get(), &error, sizeof error) == sizeof error) {
    ::waitpid(pid_, nullptr, 0);
    errno = error;
    fail("cannot run '" + argv[0] + "'");
  }
  output_ = std::move(output->first);
  stop_reader_ = std::move(*stop);
  reader_ = std::thread([this] { read_output(output_.get()); });
}

Process::~Process() {
  if (own_group_) ::kill(-pid_, SIGKILL);
  if (!status_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  const std::uint64_t one = 1;
  if (::write(stop_reader_.get(), &one, sizeof one) < 0) std::abort();
  reader_.join();
}

void Process::read_output(int fd) {
  char buffer[65536];
  pollfd waiting[2] = {{fd, POLLIN, 0}, {stop_reader_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) break;
    if (waiting[1].revents != 0) break;
    if (waiting[0].revents == 0) continue;
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    const std::lock_guard lock(mutex_);
    text_.append(buffer, static_cast<std::size_t>(n));
    arrived_.notify_all();
  }
  const std::lock_guard lock(mutex_);
  finished_ = true;
  arrived_.notify_all();
}

std::optional<std::string> Process::wait_for_line(std::string_view text,
                                                  std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  std::unique_lock lock(mutex_);
  while (true) {
    for (std::size_t at; (at = text_.find('\n', searched_)) != std::string::npos;) {
      std::string line = text_.substr(searched_, at - searched_);
      searched_ = at + 1;
      if (line.find(text) != std::string::npos) return line;
    }
    if (finished_) return std::nullopt;
    if (arrived_.wait_until(lock, end) == std::cv_status::timeout) return std::nullopt;
  }
}

std::string Process::output() const {
  const std::lock_guard lock(mutex_);
  return text_;
}

int Process::count_lines(std::string_view text) const {
  const std::string all = output();
  int count = 0;
  std::size_t from = 0;
  for (std::size_t at; (at = all.find('\n', from)) != std::string::npos; from = at + 1) {
    if (std::string_view(all).substr(from, at - from).find(text) != std::string_view::npos) ++count;
  }
  return count;
}

void Process::signal(int number) const {
  if (!status_) ::kill(pid_, number);
}

void Process::signal_group(int number) const { ::kill(-pid_, number); }

void Process::reap_if_ended() {
  int status = 0;
  if (status_ || ::waitpid(pid_, &status, WNOHANG) != pid_) return;
  status_ = WIFEXITED(status) ? exited(WEXITSTATUS(status)) : killed_by(WTERMSIG(status));
}

std::optional<ExitStatus> Process::wait_exit(std::chrono::milliseconds deadline) {
  eventually(deadline, [&] {
    reap_if_ended();
    return status_.has_value();
  });
  if (status_) {
    // What it wrote last may still be in the pipe.
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, 1s, [&] { return finished_; });
  }
  return status_;
}

RunResult run(std::vector<std::string> argv, ProcessOptions options,
              std::chrono::milliseconds deadline) {
  Process process(std::move(argv), std::move(options));
  RunResult result;
  result.status = process.wait_exit(deadline);
  result.output = process.output();
  return result;
}

std::vector<ProcessInfo> all_processes() {
  std::vector<ProcessInfo> result;
  DIR* folder = ::opendir("/proc");
  if (folder == nullptr) fail("opendir /proc");
  while (const dirent* entry = ::readdir(folder)) {
    const pid_t pid = to_pid(entry->d_name);
    if (pid <= 0) continue;
    if (auto info = process_info(pid)) result.push_back(std::move(*info));
  }
  ::closedir(folder);
  return result;
}

std::vector<ProcessInfo> processes_of_group(pid_t group) {
  return processes_where([&](const ProcessInfo& info) { return info.group == group; });
}

std::vector<ProcessInfo> children_of(pid_t parent) {
  return processes_where([&](const ProcessInfo& info) { return info.parent == parent; });
}

std::vector<ProcessInfo> descendants_of(pid_t ancestor) {
  const std::vector<ProcessInfo> all = all_processes();
  std::vector<ProcessInfo> result;
  std::vector<pid_t> parents = {ancestor};
  while (!parents.empty()) {
    const pid_t parent = parents.back();
    parents.pop_back();
    for (const ProcessInfo& info : all) {
      if (info.parent != parent) continue;
      result.push_back(info);
      parents.push_back(info.pid);
    }
  }
  return result;
}

std::vector<pid_t> descendants_named(pid_t ancestor, std::string_view name) {
  std::vector<pid_t> result;
  for (const ProcessInfo& info : descendants_of(ancestor)) {
    // A program run by descriptor may have a number for its comm.
    std::string_view first = info.command;
    first = first.substr(0, first.find(' '));
    first.remove_prefix(first.rfind('/') + 1);  // npos + 1 is 0
    if (info.name == name || first == name) result.push_back(info.pid);
  }
  std::sort(result.begin(), result.end());
  return result;
}

bool is_alive(pid_t pid) { return process_info(pid).has_value(); }

std::vector<pid_t> zombies_of(pid_t parent) {
  std::vector<pid_t> result;
  DIR* folder = ::opendir("/proc");
  if (folder == nullptr) fail("opendir /proc");
  while (const dirent* entry = ::readdir(folder)) {
    const pid_t pid = to_pid(entry->d_name);
    if (pid <= 0) continue;
    const std::string stat = read_file("/proc/" + std::to_string(pid) + "/stat");
    if (stat.empty() || stat_field(stat, 1) != "Z" || to_pid(stat_field(stat, 2)) != parent)
      continue;
    result.push_back(pid);
  }
  ::closedir(folder);
  return result;
}

double cpu_seconds(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace lope::test
