// Does what the body says:
//   ack | retry | reject | none | unknown | minus   that outcome (none: 0, unknown: 77, minus: -1)
//   retry:TEXT | reject:TEXT                  the same, thrown with that explanation
//   throw | throw-int                         an exception of the standard kind, or of no kind
//   segv | abort | exit0                      ends its process so
//   fault | overflow                          writes where nothing is, or uses up its stack
//   hang                                      never returns
//   chatter                                   never returns, and writes log lines all the while
//   sleep:MS                                  returns after so long, whatever happens
//   leak:BYTES                                takes so much memory, and keeps it for ever
//   until:FILE                                returns once that file is there
//   stdout:TEXT | stderr:TEXT | log:TEXT      writes a line there
//   fork                                      leaves a child that lives on and keeps what it got
//   bare-fork                                 the same, past the C library: nobody closes anything
//   publish:KEY                               publishes "published" to that queue
//   stopping                                  returns once the host says that it is stopping
// Everything that returns is acked, where no other outcome is named.
#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <lope/handler.hpp>
#include <mutex>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr lope_option kOptions[] = {
    lope::defaulted("started", "", "file to append a message's id to before doing as it says"),
    lope::defaulted("file", "", "file to append a message's id to after doing as it says"),
    lope::kEndOfOptions};

class AppendFile {
 public:
  explicit AppendFile(const std::string& path) {
    if (path.empty()) return;
    fd_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
  }
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  ~AppendFile() {
    if (fd_ >= 0) ::close(fd_);
  }

  void append(std::string line) const {
    if (fd_ < 0) return;
    line += '\n';
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
      throw std::system_error(errno, std::generic_category(), "write");
  }

 private:
  int fd_ = -1;
};

void wait_for(std::chrono::milliseconds time) {
  timespec left{static_cast<time_t>(time.count() / 1000),
                static_cast<long>(time.count() % 1000) * 1'000'000};
  while (::clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}

// Endless for *above == 0, and no tail call.
int deeper(volatile int* above) {
  volatile int here[256] = {*above};
  return *above == 0 ? deeper(here) + here[1] : 0;
}

[[noreturn]] void hang() {
  for (;;) ::pause();
}

class Scripted final : public lope::Handler {
 public:
  explicit Scripted(lope::Host host)
      : host_(host),
        started_(host.option_as<std::string>("started")),
        done_(host.option_as<std::string>("file")) {}

  lope::Outcome handle(const lope::Message& message) override {
    started_.append(std::string(message.message_id()));
    const lope::Outcome outcome = obey(message);
    done_.append(std::string(message.message_id()));
    return outcome;
  }

 private:
  lope::Outcome obey(const lope::Message& message) const {
    const std::string body(message.body_text());
    const std::size_t colon = body.find(':');
    const std::string word = body.substr(0, colon);
    const std::string text = colon == std::string::npos ? "" : body.substr(colon + 1);
    const bool has_text = colon != std::string::npos;

    if (word == "ack") return lope::Outcome::ack;
    if (word == "retry" && has_text) throw lope::Retry(text);
    if (word == "retry") return lope::Outcome::retry;
    if (word == "reject" && has_text) throw lope::Reject(text);
    if (word == "reject") return lope::Outcome::reject;
    if (word == "none") return lope::Outcome{};
    if (word == "unknown") return static_cast<lope::Outcome>(77);
    if (word == "minus") return static_cast<lope::Outcome>(-1);
    if (word == "throw") throw std::runtime_error("thrown as told");
    if (word == "throw-int") throw 77;
    if (word == "segv") {
      // A sanitizer's own handler would make an exit of it.
      std::signal(SIGSEGV, SIG_DFL);
      std::raise(SIGSEGV);
    }
    if (word == "abort") {
      std::signal(SIGABRT, SIG_DFL);
      std::abort();
    }
    if (word == "fault") {
      volatile int* volatile nowhere = nullptr;
      *nowhere = 1;
    }
    if (word == "overflow") {
      volatile int start = 0;
      deeper(&start);
    }
    if (word == "exit0") std::exit(0);
    if (word == "hang") hang();
    if (word == "chatter") {
      // More work for who escapes and writes it than for us.
      const std::string line(2000, '\n');
      for (;;) host_.info(line);
    }
    if (word == "sleep") {
      unsigned ms = 0;
      std::from_chars(text.data(), text.data() + text.size(), ms);
      wait_for(std::chrono::milliseconds(ms));
    } else if (word == "leak") {
      std::size_t bytes = 0;
      std::from_chars(text.data(), text.data() + text.size(), bytes);
      static auto& kept = *new std::vector<std::vector<char>>;
      static std::mutex mutex;
      const std::lock_guard<std::mutex> lock(mutex);
      kept.emplace_back(bytes, 'x');
    } else if (word == "until") {
      while (::access(text.c_str(), F_OK) != 0) wait_for(std::chrono::milliseconds(5));
    } else if (word == "stdout") {
      std::puts(text.c_str());
    } else if (word == "stderr") {
      std::fputs((text + "\n").c_str(), stderr);
    } else if (word == "log") {
      host_.info(text);
    } else if (word == "fork") {
      const pid_t child = ::fork();
      if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
      if (child == 0) hang();
    } else if (word == "bare-fork") {
      const long child = ::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr);
      if (child < 0) throw std::system_error(errno, std::generic_category(), "clone");
      if (child == 0) hang();
    } else if (word == "publish") {
      lope::Publication publication;
      publication.routing_key = text;
      publication.body = "published";
      message.publish(publication);
    } else if (word == "stopping") {
      while (!host_.stopping()) wait_for(std::chrono::milliseconds(5));
    } else {
      throw lope::Reject("not a word that this handler knows: " + word);
    }
    return lope::Outcome::ack;
  }

  const lope::Host host_;
  const AppendFile started_;
  const AppendFile done_;
};

}  // namespace

LOPE_HANDLER_WITH(Scripted, "scripted", "1.0.0", "does what the body says", kOptions)
