#include "worker/worker.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/exit_code.h"
#include "common/json.h"
#include "common/schema.h"
#include "common/spawn.h"
#include "worker/crash_report.h"
#include "worker/handler_thread.h"

namespace lope::worker {

namespace {

WorkerBoard* mapped_board = nullptr;  // for the handler's forked children to unmap

// A group-wide signal is for the supervisor and the consumers; they tell us by closing the link.
// We were started with these blocked: ignoring them also drops those that came meanwhile.
void ignore_group_signals() {
  for (const int signal : kGroupSignals) ::signal(signal, SIG_IGN);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// In a child that the handler forks: it must not hold what is ours, and a program it starts must
// not find signals ignored.
void leave_to_child() {
  ::close(kLinkFd);
  ::close(kWakeFd);
  if (mapped_board != nullptr) ::munmap(mapped_board, sizeof(WorkerBoard));
  for (const int signal : kGroupSignals) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
      ::signal(signal, SIG_DFL);
    }
  }
  drop_crash_report();
}

// Where all instances meet before the worker says ready: they all work, or none does.
class StartGate {
 public:
  explicit StartGate(int expected) : waiting_for_(expected) {}

  // True when every instance was created.
  bool arrive(const HandlerThread::Created& created) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (created.status != LOPE_OK && failure_.status == LOPE_OK) failure_ = created;
    if (--waiting_for_ == 0) all_here_.notify_all();
    all_here_.wait(lock, [this] { return waiting_for_ == 0; });
    return failure_.status == LOPE_OK;
  }
  const HandlerThread::Created& failure() const { return failure_; }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  int waiting_for_;
  HandlerThread::Created failure_;
};

std::string failure_text(const Plugin& plugin, const HandlerThread::Created& failure) {
  std::string text = "handler '" + plugin.path + "': create() failed with status " +
                     std::to_string(failure.status);
  if (failure.status == LOPE_E_INVALID) text += " (configuration is wrong)";
  text += ": ";
  text += failure.reason.empty() ? "no reason given" : failure.reason;
  return text;
}

}  // namespace

int run_worker() {
  ::prctl(PR_SET_NAME, "lope-worker");
  ignore_group_signals();
  ::setvbuf(stdout, nullptr, _IOLBF, 0);

  const auto board = BoardMapping<WorkerBoard>::open(kScoreboardFd);
  if (!board) {
    std::fprintf(stderr, "lope-worker: %s\n", board.error().c_str());
    return kExitFailed;
  }
  LinkWriter link(kLinkFd, kWakeFd);
  const auto enter = [&board](WorkerStage stage) {
    (*board)->stage.store(static_cast<std::uint32_t>(stage), std::memory_order_release);
  };
  const auto refuse = [&link](const std::string& text) {
    link.send_failure(true, text);
    return kExitRefused;
  };

  const auto json = read_all_at(kSettingsFd);
  if (!json) return refuse("settings: " + json.error());
  const auto settings = worker_settings_from_json(*json);
  if (!settings) return refuse("settings: " + settings.error());
  ::close(kSettingsFd);

  mapped_board = &**board;
  install_crash_report(**board);
  const CrashStack crash_stack(0);
  ::pthread_atfork(nullptr, nullptr, leave_to_child);

  // Before the handler: a group that waits for its own has its schema judged too.
  std::optional<Schema> schema;
  if (!settings->content.schema.empty()) {
    enter(WorkerStage::compiling);
    auto compiled = Schema::compile(settings->content.schema);
    if (!compiled) return refuse("'" + settings->content.schema_file + "': " + compiled.error());
    schema = std::move(*compiled);
  }
  enter(WorkerStage::checking);
  bool copied = !settings->handler_copy.empty();
  if (copied && ::access(settings->handler_copy.c_str(), F_OK) != 0) {
    std::fprintf(stderr, "lope-worker: the handler's private copy '%s' is gone: loading the file\n",
                 settings->handler_copy.c_str());
    copied = false;
  }
  auto file = copied ? check_plugin(settings->handler_copy)
                     : find_plugin(settings->handlers_dir, settings->handler);
  if (!file) return refuse(file.error());
  if (copied) {
    // People know it by where it came from.
    file->copy =
        std::exchange(file->path, settings->handlers_dir + "/" + settings->handler + ".so");
  }
  enter(WorkerStage::loading);
  const auto plugin = load_plugin(*file);
  if (!plugin) return refuse(plugin.error());
  if (auto fit = check_options(*plugin, settings->options); !fit) return refuse(fit.error());
  enter(WorkerStage::creating);

  // Never destroyed: a handler's threads may still look at what they were given.
  static auto& inbox = *new Inbox(kLinkFd, settings->threads > 1);
  static auto& held = *new HeldMessages(**board, link, inbox, settings->threads);
  StartGate gate(settings->threads);
  const auto live = [&](std::uint32_t index) {
    HandlerThread thread(*settings, *plugin, index, **board, link, inbox, held,
                         schema ? &*schema : nullptr);
    const HandlerThread::Created created = thread.create();
    if (gate.arrive(created)) {
      if (index == 0) {
        // Stage first: a consumer that has read "ready" may look at the board.
        enter(WorkerStage::ready);
        std::string payload(plugin->table->name);
        payload.append(1, '\0').append(plugin->table->version).append(1, '\0').append(plugin->path);
        payload += '\0';
        payload += static_cast<char>((plugin->has_batch() ? 1 : 0) | (plugin->has_flush() ? 2 : 0));
        link.send(FrameType::ready, 0, payload);
      }
      thread.run();
    }
    if (created.status == LOPE_OK) thread.destroy();
  };
  std::vector<std::thread> threads;
  try {
    for (int i = 1; i < settings->threads; ++i) {
      threads.emplace_back([&live, index = static_cast<std::uint32_t>(i)] {
        const CrashStack own_stack(index);
        live(index);
      });
    }
  } catch (const std::system_error& error) {
    link.send_failure(false, std::string("cannot start a thread: ") + error.what());
    std::_Exit(kExitFailed);  // those that started wait for the others
  }
  live(0);
  enter(WorkerStage::ending);
  for (std::thread& thread : threads) thread.join();

  const HandlerThread::Created& failure = gate.failure();
  if (failure.status != LOPE_OK) {
    const bool refused = failure.status == LOPE_E_INVALID;
    link.send_failure(refused, failure_text(*plugin, failure));
    return refused ? kExitRefused : kExitFailed;
  }
  return kExitOk;
}

}  // namespace lope::worker
