#include "monitor/monitor.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <utility>

#include "common/exit_code.h"
#include "common/json.h"
#include "common/log.h"
#include "common/spawn.h"
#include "common/text.h"
#include "common/uuid.h"
#include "monitor/page.h"

namespace lope::monitor {

namespace {

constexpr std::chrono::seconds kSignOfLife{3};
constexpr std::string_view kPaths[] = {"/metrics", "/healthz", "/readyz", "/api/status"};

// The page's own script and style, by their nonce, and asking this server: nothing else.
HttpAnswer page_answer(std::string_view page) {
  const std::string nonce = uuid();
  std::string body(page);
  for (std::size_t at = 0; (at = body.find(kPageNonce, at)) != std::string::npos;) {
    body.replace(at, kPageNonce.size(), nonce);
  }
  return {.type = "text/html; charset=utf-8",
          .body = std::move(body),
          .headers = {
              {"Content-Security-Policy",
               "default-src 'none'; script-src 'nonce-" + nonce + "'; style-src 'nonce-" + nonce +
                   "'; connect-src 'self'; img-src data:; base-uri 'none'; form-action "
                   "'none'; frame-ancestors 'none'"},
              {"Referrer-Policy", "no-referrer"}}};
}

HttpAnswer readiness(const DaemonStatus& status) {
  std::string missing;
  if (status.state != "running") missing = "the daemon is " + status.state + "\n";
  for (const GroupStatus& group : status.groups) {
    if (group.state == "consuming") continue;
    missing += "group '" + group.name + "': " + group.state;
    if (!group.reason.empty()) missing += ": " + escape(group.reason);
    missing += '\n';
  }
  if (missing.empty()) return {.body = "ready\n"};
  return {.status = 503, .body = missing};
}

}  // namespace

Result<void> Monitor::set_up() {
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);
  auto reopen = loop_->watch_signal(SIGUSR1, [](int, int) {
    if (auto reopened = reopen_log(); !reopened) {
      log_error("cannot open the log file again", {{"reason", reopened.error()}});
    }
  });
  if (!reopen) return Error{reopen.error()};
  reopen_source_ = std::move(*reopen);
  auto link = DaemonLink::create(*loop_, kLinkFd,
                                 {.on_answer = [this] { on_answer(); },
                                  .on_end =
                                      [this](const std::string& reason) {
                                        log_debug("the link has ended", {{"reason", reason}});
                                        done_ = true;
                                      }});
  if (!link) return Error{link.error()};
  link_ = std::move(*link);
  auto alive = loop_->make_timer([this] {
    link_->say_alive();
    alive_timer_.arm(Clock::now() + kSignOfLife);
  });
  if (!alive) return Error{alive.error()};
  alive_timer_ = std::move(*alive);
  alive_timer_.arm(Clock::now());
  auto server = HttpServer::create(
      *loop_, kListenerFd,
      [this](std::uint64_t id, const HttpRequest& request) { on_request(id, request); });
  if (!server) return Error{server.error()};
  server_ = std::move(*server);
  auto desk = JournalDesk::create(
      *loop_, journal_,
      [this](std::uint64_t id, const HttpAnswer& answer) { server_->answer(id, answer); });
  if (!desk) return Error{desk.error()};
  desk_ = std::move(*desk);
  return {};
}

int Monitor::run() {
  if (auto done = set_up(); !done) {
    log_error("cannot start the monitor", {{"reason", done.error()}});
    return kExitTemporary;
  }
  while (!done_) {
    if (auto ran = loop_->run_once(std::nullopt); !ran) {
      log_error("the event loop failed", {{"reason", ran.error()}});
      return kExitFailed;
    }
  }
  return kExitOk;
}

void Monitor::on_request(std::uint64_t id, const HttpRequest& request) {
  if (request.method != "GET" && request.method != "HEAD") {
    return server_->answer(id, {.status = 405,
                                .body = "expected GET or HEAD: nothing here can be changed\n",
                                .headers = {{"Allow", "GET, HEAD"}}});
  }
  if (request.has_body) {
    return server_->answer(id, {.status = 400, .body = "expected no body, found one\n"});
  }
  if (request.path == "/") return server_->answer(id, page_answer(kPage));
  if (request.path == "/journal") return server_->answer(id, page_answer(kJournalPage));
  if (JournalDesk::knows(request.path)) return desk_->ask(id, request);
  if (std::ranges::find(kPaths, request.path) == std::end(kPaths)) {
    return server_->answer(
        id, {.status = 404,
             .body = "expected /, /journal, /metrics, /healthz, /readyz, /api/status, "
                     "/api/journal/search or /api/journal/trace\n"});
  }
  if (link_->fresh()) return server_->answer(id, answer_for(request));
  waiting_.push_back({id, request});
  link_->want();
}

void Monitor::on_answer() {
  for (auto& text : texts_) text.reset();
  for (const Waiting& each : std::exchange(waiting_, {})) {
    server_->answer(each.id, answer_for(each.request));
  }
}

HttpAnswer Monitor::answer_for(const HttpRequest& request) {
  const auto& latest = link_->latest();
  if (!latest) return {.status = 503, .body = latest.error() + "\n"};
  if (request.path == "/healthz") return {.body = "alive\n"};
  if (request.path == "/readyz") return readiness(latest->status);
  if (request.path == "/api/status") {
    return {.type = "application/json", .body = to_json(latest->status) + "\n"};
  }
  const MetricsFormat format = metrics_format(request.accept);
  return {.type = content_type(format), .body = metrics(format)};
}

const std::string& Monitor::metrics(MetricsFormat format) {
  std::optional<std::string>& text = texts_[static_cast<int>(format)];
  if (!text) text = metrics_text(*link_->latest(), format);
  return *text;
}

int run_monitor() {
  ::prctl(PR_SET_NAME, "lope-monitor");
  // It ends when its link does: what is sent to the whole process group is not for it.
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR2, SIGPIPE}) {
    ::signal(signal, SIG_IGN);
  }
  const auto json = read_all_at(kSettingsFd);
  const auto settings =
      json ? monitor_settings_from_json(*json) : Result<MonitorSettings>(Error{json.error()});
  if (!settings) {
    ::dprintf(STDERR_FILENO, "lope-monitor: settings: %s\n", settings.error().c_str());
    return kExitTemporary;
  }
  ::close(kSettingsFd);
  if (auto opened = open_log(settings->log, "lope-monitor"); !opened) {
    ::dprintf(STDERR_FILENO, "lope-monitor: log: %s\n", opened.error().c_str());
    return kExitTemporary;
  }
  Monitor monitor(settings->journal);
  return monitor.run();
}

}  // namespace lope::monitor
