// Does in its constructor what option `do` says, several words with commas between them, and acks
// whatever comes:
//   child     leaves a forked child that lives on
//   daemon    leaves a child of a child, in a session of its own, whose parent is gone
//   family    leaves a child that has a child
//   holder    leaves a child made behind the C library's back, which keeps what it inherited
//   program   runs a program that writes its signal masks to FILE.signals, and waits for it
//   print:N   writes N lines to standard output
//   deaf      ends the link with its consumer, and never returns
//   refuse    cannot be used, as long as FILE is there
//   hang      never returns, unless FILE is there already; makes it
// What is left behind appends "WORD PID WORKER DESCRIPTORS MAPPINGS" to option `file`: its pid, its
// worker's, how many of the worker's link descriptors it has, and how many mappings of its board.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <lope/handler.hpp>
#include <string>
#include <string_view>
#include <system_error>

namespace {

constexpr lope_option kOptions[] = {lope::required("do", "words"),
                                    lope::defaulted("file", "", "where to append"),
                                    lope::kEndOfOptions};

[[noreturn]] void stay() {
  for (;;) ::pause();
}

int open_of(int first, int last) {
  int count = 0;
  for (int fd = first; fd <= last; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

int board_mappings() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += line.find("lope-worker-board") != std::string::npos ? 1 : 0;
  }
  return count;
}

class AtStart final : public lope::Handler {
 public:
  explicit AtStart(lope::Host host)
      : file_(host.option_as<std::string>("file")), worker_(::getpid()) {
    const std::string words = host.option_as<std::string>("do");
    for (std::size_t from = 0; from <= words.size();) {
      const std::size_t to = std::min(words.find(',', from), words.size());
      obey(words.substr(from, to - from));
      from = to + 1;
    }
  }

  lope::Outcome handle(const lope::Message&) override { return lope::Outcome::ack; }

 private:
  // In what is left behind.
  void report(std::string_view word) const {
    const int descriptors = open_of(5, 6);
    const std::string line = std::string(word) + ' ' + std::to_string(::getpid()) + ' ' +
                             std::to_string(worker_) + ' ' + std::to_string(descriptors) + ' ' +
                             std::to_string(board_mappings()) + '\n';
    const int fd = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || ::write(fd, line.data(), line.size()) < 0) ::_exit(1);
    ::close(fd);
  }

  pid_t fork() const {
    const pid_t child = ::fork();
    if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
    return child;
  }

  void wait_for(pid_t child) const {
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  void obey(const std::string& word) const {
    if (word == "child") {
      if (fork() == 0) {
        report(word);
        stay();
      }
    } else if (word == "daemon") {
      const pid_t middle = fork();
      if (middle == 0) {
        ::setsid();
        if (fork() > 0) ::_exit(0);
        report(word);
        stay();
      }
      wait_for(middle);
    } else if (word == "family") {
      if (fork() == 0) {
        if (fork() > 0) {
          report("parent");
        } else {
          report(word);
        }
        stay();
      }
    } else if (word == "holder") {
      if (::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
        report(word);
        stay();
      }
    } else if (word == "program") {
      // Not by way of a shell, which may start with an empty mask of its own.
      const std::string path = file_ + ".signals";
      const pid_t child = fork();
      if (child == 0) {
        ::dup2(::open(path.c_str(), O_WRONLY | O_CREAT, 0644), STDOUT_FILENO);
        ::execl("/bin/grep", "grep", "^Sig", "/proc/self/status", static_cast<char*>(nullptr));
        ::_exit(127);
      }
      wait_for(child);
    } else if (word == "deaf") {
      ::shutdown(5, SHUT_RDWR);
      stay();
    } else if (word == "refuse") {
      if (::access(file_.c_str(), F_OK) == 0) throw lope::InvalidConfiguration("told to refuse");
    } else if (word == "hang") {
      const int fd = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
      if (fd < 0 && errno == EEXIST) return;
      if (fd < 0) throw std::system_error(errno, std::generic_category(), "open");
      stay();
    } else if (word.starts_with("print:")) {
      int lines = 0;
      std::from_chars(word.data() + 6, word.data() + word.size(), lines);
      for (int i = 0; i < lines; ++i) std::printf("line %d of %d\n", i, ::getpid());
    } else {
      throw lope::InvalidConfiguration("not a word that this handler knows: " + word);
    }
  }

  const std::string file_;
  const pid_t worker_;
};

}  // namespace

LOPE_HANDLER_WITH(AtStart, "at_start", "1.0.0", "acts when it is made", kOptions)
