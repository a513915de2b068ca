// `lope top`: what a running daemon does, live, on one screen.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/daemon_client.h"
#include "cli/status_text.h"
#include "common/clock.h"
#include "common/exit_code.h"

namespace lope::cli {

namespace {

constexpr std::chrono::seconds kInterval{1};
constexpr char kInterrupt = 3;  // Ctrl-C, which comes as a key
constexpr std::string_view kReverse = "\033[7m";
constexpr std::string_view kPlain = "\033[0m";

termios before{};  // how the terminal was

void restore_terminal() {
  ::tcsetattr(STDIN_FILENO, TCSANOW, &before);
  // Back from the other screen, with a cursor.
  constexpr std::string_view kBack = "\033[?1049l\033[?25h";
  [[maybe_unused]] const ssize_t n = ::write(STDOUT_FILENO, kBack.data(), kBack.size());
}

void on_end(int signal) {
  restore_terminal();
  ::_exit(128 + signal);
}

// Keys one by one, unseen, on a screen of its own; as it was at the end.
class Screen {
 public:
  Screen() {
    ::tcgetattr(STDIN_FILENO, &before);
    for (const int signal : {SIGTERM, SIGHUP, SIGQUIT}) ::signal(signal, on_end);
    ::signal(SIGWINCH, [](int) {});  // so that it ends a wait
    termios raw = before;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    std::fputs("\033[?1049h\033[?25l", stdout);
  }
  ~Screen() {
    std::fflush(stdout);
    restore_terminal();
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
};

struct Order {
  char key;
  const char* name;
  bool (*before)(const GroupStatus&, const GroupStatus&);
};
constexpr Order kOrders[] = {
    {'f', "as in the file", nullptr},
    {'g', "group", [](const GroupStatus& a, const GroupStatus& b) { return a.name < b.name; }},
    {'i', "in/s", [](const GroupStatus& a, const GroupStatus& b) { return a.rate_in > b.rate_in; }},
    {'o', "out/s",
     [](const GroupStatus& a, const GroupStatus& b) { return a.rate_out > b.rate_out; }},
    {'r', "running",
     [](const GroupStatus& a, const GroupStatus& b) { return a.running > b.running; }},
    {'w', "waiting",
     [](const GroupStatus& a, const GroupStatus& b) { return a.waiting > b.waiting; }},
    {'t', "retried",
     [](const GroupStatus& a, const GroupStatus& b) { return a.retried > b.retried; }},
    {'d', "dead",
     [](const GroupStatus& a, const GroupStatus& b) {
       return a.dead_lettered + a.rejected > b.dead_lettered + b.rejected;
     }},
    {'c', "crashes",
     [](const GroupStatus& a, const GroupStatus& b) { return a.crashes > b.crashes; }},
};

class Top {
 public:
  explicit Top(const std::string& socket) : socket_(socket) {}

  int run() {
    const Screen screen;
    TimePoint due = Clock::now();
    while (true) {
      if (Clock::now() >= due) {
        if (!frozen_) ask();
        due = Clock::now() + kInterval;
      }
      draw();
      pollfd keys{STDIN_FILENO, POLLIN, 0};
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now());
      const int ready = ::poll(&keys, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
      if (ready < 0 && errno != EINTR) return kExitFailed;
      if (ready <= 0) continue;
      char bytes[64];
      const ssize_t n = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (n <= 0 || !take_keys({bytes, static_cast<std::size_t>(n)})) return kExitOk;
    }
  }

 private:
  void ask() {
    auto client = DaemonClient::connect(socket_);
    const auto answer =
        client ? client->ask({.command = "status"}) : Result<ControlAnswer>(Error{client.error()});
    auto status = answer ? daemon_status_from_json(answer->status)
                         : Result<DaemonStatus>(Error{answer.error()});
    trouble_ = status ? std::string() : status.error();
    if (!status) return;
    const std::string kept = selected_name();
    status_ = std::move(*status);
    select(kept);
  }

  std::string selected_name() const {
    return selected_ < status_.groups.size() ? status_.groups[selected_].name : std::string();
  }

  void select(const std::string& name) {
    const auto at = std::ranges::find(status_.groups, name, &GroupStatus::name);
    if (at == status_.groups.end()) return;
    selected_ = static_cast<std::size_t>(at - status_.groups.begin());
  }

  // False: it is to end.
  bool take_keys(std::string_view keys) {
    said_.clear();
    while (!keys.empty()) {
      if (keys.starts_with("\033[A")) {
        if (selected_ > 0) --selected_;
        keys.remove_prefix(3);
        continue;
      }
      if (keys.starts_with("\033[B")) {
        if (selected_ + 1 < status_.groups.size()) ++selected_;
        keys.remove_prefix(3);
        continue;
      }
      const char key = keys.front();
      keys.remove_prefix(1);
      if (key == 'q' || key == kInterrupt) return false;
      if (key == ' ') frozen_ = !frozen_;
      if (key == 'p') pause();
      for (const Order& order : kOrders) {
        if (order.key == key) order_ = &order;
      }
    }
    return true;
  }

  // The selected group, or goes on with it.
  void pause() {
    if (selected_ >= status_.groups.size()) return;
    const GroupStatus& group = status_.groups[selected_];
    auto client = DaemonClient::connect(socket_);
    const auto answer = client
                            ? client->ask({.command = group.state == "paused" ? "resume" : "pause",
                                           .group = group.name})
                            : Result<ControlAnswer>(Error{client.error()});
    said_ = answer ? answer->text : answer.error();
    if (!frozen_) ask();
  }

  void draw() {
    const std::string kept = selected_name();
    if (order_->before != nullptr) std::ranges::stable_sort(status_.groups, order_->before);
    select(kept);
    selected_ = std::min(selected_, status_.groups.empty() ? 0 : status_.groups.size() - 1);
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0;
    const std::size_t rows = known ? size.ws_row : 24;
    const std::size_t columns = known ? size.ws_col : 80;

    std::string text = status_text(status_, false);
    if (!trouble_.empty()) text = trouble_ + "\n\n" + text;
    const std::size_t first_group = trouble_.empty() ? 2 : 4;  // its line
    std::string screen = "\033[H";
    for (std::size_t line = 0; line + 1 < rows; ++line) {
      const std::size_t end = text.find('\n');
      const std::string_view whole = std::string_view(text).substr(0, end);
      const bool selected = line == first_group + selected_ && !status_.groups.empty();
      if (selected) screen += kReverse;
      screen += cut(whole, columns);
      if (selected) screen += kPlain;
      screen += "\033[K\r\n";
      text.erase(0, end == std::string::npos ? text.size() : end + 1);
    }
    std::string help = said_;
    if (help.empty()) {
      help = std::string(frozen_ ? "FROZEN, " : "") + "sorted by " + order_->name +
             " (f g i o r w t d c), up, down, p: pause or resume the group, space: freeze, q: quit";
    }
    screen += cut(help, columns);
    screen += "\033[K";
    std::fputs(screen.c_str(), stdout);
    std::fflush(stdout);
  }

  // Not within a character of several bytes.
  static std::string cut(std::string_view text, std::size_t columns) {
    std::size_t seen = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const bool begins = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
      if (begins && seen++ == columns) return std::string(text.substr(0, i));
    }
    return std::string(text);
  }

  const std::string socket_;
  DaemonStatus status_;
  std::string trouble_;  // the daemon does not answer
  std::string said_;     // by the daemon, to the last key
  const Order* order_ = kOrders;
  std::size_t selected_ = 0;
  bool frozen_ = false;
};

}  // namespace

int top_command(const std::string& socket) {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0) {
    std::fputs("lope top: expected a terminal, found none: lope status --watch needs none\n",
               stderr);
    return kExitFailed;
  }
  if (auto client = DaemonClient::connect(socket); !client) {
    std::fprintf(stderr, "lope top: %s\n", client.error().c_str());
    return kExitTemporary;
  }
  return Top(socket).run();
}

}  // namespace lope::cli
