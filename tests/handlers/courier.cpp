// Does with each message as its body says, and keeps a ledger: for each call a line before, and for
// each that returns one after it.
//   start ID ATTEMPT CRASHES LATE_MS NOW_MS REDELIVERED      LATE_MS: since x-lope-due, or -
//   end ID ATTEMPT OUTCOME
// The body is words:
//   retry N MS       RETRY up to attempt N, after MS each (-: by the group's policy); then ack
//   reject           REJECT
//   publish KEY N    publishes N messages to that queue, ids ID.0, ID.1, …; then what follows
//   to EXCHANGE      the publish that follows goes there
//   later MS         the publish that follows is delayed so long
//   body TEXT        the publish that follows has this body, and not "ack"
//   copy             the publish that follows has the message's headers
//   deaf             is not ended by SIGABRT from now on
//   sleep MS         sleeps; alive MS N: N times so long, with keep_alive() between
//   until FILE       until that file is there, with keep_alive() all the while
//   segv abort exit0 overflow oom
//                    ends its process so; oom: by using up its memory where nothing can be caught
//   dies N           SIGSEGV up to attempt N
//   greedy           takes memory until there is none, and lets go of it: needs a limit
//   reply TEXT       replies
//   nothing else to do, or ack: ACK
#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <lope/handler.hpp>
#include <memory>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("file", "where to append"),
    lope::defaulted("memory", "0", "RLIMIT_AS in MiB; 0: none", LOPE_UINT64), lope::kEndOfOptions};

void sleep_for(std::uint64_t ms) {
  timespec left{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000) * 1'000'000};
  while (::clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}

int overflow(int depth) {
  volatile char frame[4096];
  frame[depth % 4096] = static_cast<char>(depth);
  return depth == 0 ? 0 : overflow(depth + 1) + frame[0];
}

// Until std::bad_alloc, which cannot leave. In large pieces: with less than one left, what other
// threads need is still there.
void use_up_memory() noexcept {
  for (;;) *new volatile char[std::size_t{64} << 20] = 1;
}

class Courier final : public lope::Handler {
 public:
  explicit Courier(lope::Host host)
      : host_(host),
        fd_(::open(host.option_as<std::string>("file").c_str(),
                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
    if (const auto memory = host.option_as<std::uint64_t>("memory"); memory > 0) {
      const rlimit limit{memory << 20, memory << 20};
      ::setrlimit(RLIMIT_AS, &limit);
    }
  }
  ~Courier() override { ::close(fd_); }

  lope::Outcome handle(const lope::Message& message) override {
    const auto due = message.header_int("x-lope-due");
    const auto now = static_cast<std::int64_t>(host_.raw()->unix_ns(host_.raw()) / 1'000'000);
    append("start " + about(message) + " " + std::to_string(message.crashes()) + " " +
           (due ? std::to_string(now - *due) : "-") + " " + std::to_string(now) +
           (message.redelivered() ? " 1" : " 0"));
    const lope::Outcome outcome = obey(message);
    append("end " + about(message) + " " +
           (outcome == lope::Outcome::ack     ? "ack"
            : outcome == lope::Outcome::retry ? "retry"
                                              : "reject"));
    return outcome;
  }

  void handle_batch(lope::Batch& batch) override {
    for (std::size_t i = 0; i < batch.size(); ++i) batch.set(i, handle(batch[i]));
  }

 private:
  static std::string about(const lope::Message& message) {
    return std::string(message.message_id()) + " " + std::to_string(message.attempt());
  }

  void append(std::string line) const {
    line += '\n';
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
      throw std::system_error(errno, std::generic_category(), "write");
  }

  lope::Outcome obey(const lope::Message& message) const {
    std::istringstream words{std::string(message.body_text())};
    lope::Publication publication;
    publication.body = "ack";
    std::string word;
    while (words >> word) {
      if (word == "ack") return lope::Outcome::ack;
      if (word == "reject") return lope::Outcome::reject;
      if (word == "retry") {
        std::uint32_t times = 0;
        std::string after;
        words >> times >> after;
        if (message.attempt() > times) continue;
        if (after != "-") message.retry_after(std::chrono::milliseconds(std::stoll(after)));
        return lope::Outcome::retry;
      }
      if (word == "to") words >> publication.exchange;
      if (word == "copy") publication.copy_headers(message);
      if (word == "body") words >> publication.body;
      if (word == "later") {
        std::int64_t ms = 0;
        words >> ms;
        publication.delay = std::chrono::milliseconds(ms);
      }
      if (word == "publish") {
        int count = 0;
        words >> publication.routing_key >> count;
        for (int i = 0; i < count; ++i) {
          publication.message_id = std::string(message.message_id()) + "." + std::to_string(i);
          message.publish(publication);
        }
      }
      if (word == "sleep") {
        std::uint64_t ms = 0;
        words >> ms;
        sleep_for(ms);
      }
      if (word == "deaf") std::signal(SIGABRT, SIG_IGN);
      if (word == "alive") {
        std::uint64_t ms = 0;
        int times = 0;
        words >> ms >> times;
        for (int i = 0; i < times; ++i) {
          sleep_for(ms);
          message.keep_alive();
        }
      }
      if (word == "until") {
        std::string file;
        words >> file;
        while (::access(file.c_str(), F_OK) != 0) {
          sleep_for(5);
          message.keep_alive();
        }
      }
      if (word == "reply") {
        lope::Publication answer;
        words >> answer.body;
        message.reply(answer);
      }
      if (word == "segv") std::raise(SIGSEGV);
      if (word == "dies") {
        std::uint32_t times = 0;
        words >> times;
        if (message.attempt() <= times) std::raise(SIGSEGV);
      }
      if (word == "abort") std::abort();
      if (word == "exit0") std::exit(0);
      if (word == "overflow") return static_cast<lope::Outcome>(overflow(1));
      if (word == "oom") use_up_memory();
      if (word == "greedy") {
        std::vector<std::unique_ptr<char[]>> taken;
        for (;;) taken.push_back(std::unique_ptr<char[]>(new char[std::size_t{16} << 20]));
      }
    }
    return lope::Outcome::ack;
  }

  lope::Host host_;
  const int fd_;
};

}  // namespace

LOPE_HANDLER_WITH(Courier, "courier", "1.0.0", "does as told, and keeps a ledger", kOptions)
