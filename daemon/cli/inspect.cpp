// `lope inspect`, and the inspection that `lope check` shares with it.
#include "cli/inspect.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <string_view>

#include "cli/commands.h"
#include "cli/programs.h"
#include "common/clock.h"
#include "common/exit_code.h"
#include "common/plugin_file.h"
#include "common/spawn.h"
#include "common/text.h"

namespace lope::cli {

namespace {

// A description is a few KiB; a handler that writes to the descriptor may send anything.
constexpr std::size_t kMaxDescription = 1 << 20;

// The descriptor on which the child writes; see worker/inspect.h.
constexpr int kDescriptionFd = 3;

struct Answer {
  std::string text;
  bool in_time = false;
  ChildEnd end;
};

// Reads what is there. False when nothing more can come.
bool read_some(int fd, std::string& text) {
  char buffer[16 * 1024];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > kMaxDescription) return false;
  }
}

// Until the child has died, or the time is up and it is killed. The pipe's end alone says nothing:
// what the handler started may hold it open.
Result<Answer> await(const Child& child, const UniqueFd& pipe) {
  Answer answer;
  const TimePoint deadline = Clock::now() + kInspectLimit;
  bool open = true;
  while (!answer.in_time) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0 || answer.text.size() > kMaxDescription) break;
    pollfd polled[2] = {{child.pidfd.get(), POLLIN, 0}, {open ? pipe.get() : -1, POLLIN, 0}};
    const int ready = ::poll(polled, 2, static_cast<int>(left));
    if (ready < 0 && errno != EINTR) return Error{errno_text("poll", errno)};
    if (ready <= 0) continue;
    answer.in_time = polled[0].revents != 0;
    if (open && (answer.in_time || polled[1].revents != 0))
      open = read_some(pipe.get(), answer.text);
  }
  if (!answer.in_time) ::kill(child.pid, SIGKILL);
  const auto end = reap(child);
  if (!end) return Error{end.error()};
  answer.end = *end;
  return answer;
}

// `arguments`: of lope-worker; `input`: what it finds on its descriptor 0.
Result<Answer> ask_child(int worker_program_fd, const std::vector<std::string>& arguments,
                         const UniqueFd& input, const std::vector<std::string>& env) {
  auto pipe = make_pipe();
  if (!pipe) return Error{pipe.error()};
  if (auto set = set_nonblocking(pipe->first.get(), true); !set) return Error{set.error()};
  SpawnOptions options;
  options.program_fd = worker_program_fd;
  options.argv = {"lope-worker"};
  options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
  options.env = env;
  options.fds = {{input.get(), STDIN_FILENO},
                 {STDERR_FILENO, STDOUT_FILENO},
                 {STDERR_FILENO, STDERR_FILENO},
                 {pipe->second.get(), kDescriptionFd}};
  const auto child = spawn(options);
  if (!child) return Error{child.error()};
  pipe->second.reset();
  return await(*child, pipe->first);
}

void print_option(const PluginDescription::Option& option) {
  std::string text = "  " + escape(option.name) + " (" + escape(option.kind) + ", ";
  if (option.required) {
    text += "required";
  } else if (option.secret) {
    text += "default not shown";
  } else {
    text += "default '" + escape(option.default_value) + "'";
  }
  if (option.secret) text += ", secret";
  text += ")";
  if (!option.help.empty()) text += ": " + escape(option.help);
  std::puts(text.c_str());
}

void print_description(const PluginDescription& plugin) {
  std::printf("%s %s\n", escape(plugin.name).c_str(), escape(plugin.version).c_str());
  if (!plugin.description.empty()) std::printf("%s\n", escape(plugin.description).c_str());
  std::printf("file: %s\n", escape(plugin.path, 4096).c_str());
  std::printf("ABI: %d.%d\n", plugin.abi_major, plugin.abi_minor);
  if (plugin.has_batch) std::puts("takes batches");
  if (plugin.has_flush) std::puts("flushes what it holds");
  if (plugin.takes_any_option) {
    std::puts("options: any");
  } else if (plugin.options.empty()) {
    std::puts("options: none");
  } else {
    std::puts("options:");
    std::ranges::for_each(plugin.options, print_option);
  }
}

}  // namespace

Result<UniqueFd> open_worker_program() {
  const auto path = program_path("lope-worker");
  if (!path) return Error{path.error()};
  return open_program(*path);
}

Result<PluginDescription> inspect_plugin(int worker_program_fd, const std::string& handlers_dir,
                                         const std::string& name,
                                         const std::vector<std::string>& env) {
  const auto file = handlers_dir.empty() ? check_plugin(name) : find_plugin(handlers_dir, name);
  if (!file) return Error{file.error()};
  const std::string subject = "handler '" + escape(file->path, 4096) + "': ";
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return Error{subject + errno_text("open /dev/null", errno)};
  const auto answer = ask_child(worker_program_fd, {"--inspect", handlers_dir, name}, null, env);
  if (!answer) return Error{subject + "cannot be inspected: " + answer.error()};
  // A whole answer counts, however the process ended after it.
  if (answer->text.ends_with('\n') && answer->text.size() <= kMaxDescription) {
    return plugin_description_from_json(answer->text);
  }
  if (answer->text.size() > kMaxDescription) {
    return Error{subject + "expected a description, found more than 1 MiB of other output"};
  }
  if (!answer->in_time) {
    return Error{subject + "expected a file that loads within " +
                 std::to_string(kInspectLimit.count()) + " s, found it still loading: killed"};
  }
  return Error{subject + "expected a file that loads, found " + answer->end.to_string() +
               " while loading it"};
}

Result<std::vector<std::string>> check_schema(int worker_program_fd, const std::string& schema,
                                              const std::vector<std::string>& env) {
  const auto input = make_memfd("lope-schema", schema);
  if (!input) return Error{input.error()};
  const auto answer = ask_child(worker_program_fd, {"--schema"}, *input, env);
  if (!answer) return Error{"cannot be judged: " + answer.error()};
  if (!answer->in_time) {
    return Error{"expected to be read within " + std::to_string(kInspectLimit.count()) +
                 " s, found that it was not"};
  }
  std::vector<std::string> lines;
  std::istringstream text(answer->text);
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  if (answer->end.to_string() == "exit 0") return lines;
  if (answer->end.to_string() != "exit " + std::to_string(kExitRefused) || lines.empty()) {
    return Error{"expected a schema that can be judged, found " + answer->end.to_string() +
                 " of who tried it"};
  }
  return Error{lines.front()};
}

int inspect_command(const std::string& path, bool json) {
  const auto program = open_worker_program();
  if (!program) {
    std::fprintf(stderr, "lope: %s\n", program.error().c_str());
    return kExitFailed;
  }
  const auto description = inspect_plugin(program->get(), "", path, environment_without({}));
  if (!description) {
    std::fprintf(stderr, "lope: %s\n", description.error().c_str());
    if (json) std::puts(error_json(description.error()).c_str());
    return kExitRefused;
  }
  if (json) {
    std::puts(to_json(*description, 2).c_str());
  } else {
    print_description(*description);
  }
  return kExitOk;
}

}  // namespace lope::cli
