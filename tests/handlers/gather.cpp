// Takes messages together and keeps them apart: in batches, or held until flush() or another thread
// settles them. What it does with each is its body's word:
//   ack | retry | reject   that outcome, in a batch
//   hold                   kept: acked at the next flush()
//   keep                   kept, and never settled
//   later:MS               kept, and acked from another thread after so long
//   early                  kept, but acked from another thread before that is said
//   twice                  kept, acked, and acked once more
//   stray                  settles a message that never was, and acks
//   segv                   ends its process so
//   until:FILE             acked once that file is there
// Appends to option `file`, one write a line: "batch ID ID…" for a batch, "flush REASON ID ID…",
// and "done ID" for each message before it is acked, " redelivered" behind it if it was.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <lope/handler.hpp>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("file", "where to append"),
    lope::defaulted("word", "", "what to do with every message, whatever its body says"),
    lope::defaulted("hangs", "false", "never end in good order", LOPE_BOOL),
    lope::defaulted("pause_ms", "0", "milliseconds of work for each call", LOPE_UINT64),
    lope::defaulted("flush_until", "", "flush() settles nothing before that file is there"),
    lope::kEndOfOptions};

void wait_ms(long ms) {
  timespec left{ms / 1000, ms % 1000 * 1'000'000};
  while (::clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}

void wait_for_file(const std::string& path) {
  while (::access(path.c_str(), F_OK) != 0) wait_ms(5);
}

class Gather final : public lope::Handler {
 public:
  explicit Gather(lope::Host host)
      : host_(host),
        word_(host.option_as<std::string>("word")),
        flush_until_(host.option_as<std::string>("flush_until")),
        pause_ms_(host.option_as<long>("pause_ms")),
        hangs_(host.option_as<bool>("hangs")),
        fd_(::open(host.option_as<std::string>("file").c_str(),
                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
  }
  ~Gather() override {
    while (hangs_) ::pause();
    for (std::thread& thread : threads_) thread.join();
    ::close(fd_);
  }

  lope::Outcome handle(const lope::Message& message) override { return obey(message); }

  void handle_batch(lope::Batch& batch) override {
    std::string line = "batch";
    for (std::size_t i = 0; i < batch.size(); ++i) {
      line += ' ' + std::string(batch[i].message_id());
    }
    append(line);
    wait_ms(pause_ms_);
    for (std::size_t i = 0; i < batch.size(); ++i) batch.set(i, obey(batch[i]));
  }

  void flush(lope::FlushReason reason) override {
    std::string line = "flush " + std::to_string(static_cast<int>(reason));
    for (const auto& [id, name] : held_) line += ' ' + name;
    append(line);
    if (!flush_until_.empty()) wait_for_file(flush_until_);
    for (const auto& [id, name] : std::exchange(held_, {})) {
      append("done " + name);
      host_.settle(id, lope::Outcome::ack);
    }
  }

 private:
  lope::Outcome obey(const lope::Message& message) {
    const std::string body(word_.empty() ? message.body_text() : word_);
    const std::size_t colon = body.find(':');
    const std::string word = body.substr(0, colon);
    const std::string text = colon == std::string::npos ? "" : body.substr(colon + 1);
    std::string name(message.message_id());
    if (message.redelivered()) name += " redelivered";
    const std::uint64_t id = message.id();

    if (word == "retry") return lope::Outcome::retry;
    if (word == "reject") return lope::Outcome::reject;
    if (word == "keep") return lope::Outcome::hold;
    if (word == "segv") {
      std::signal(SIGSEGV, SIG_DFL);
      std::raise(SIGSEGV);
    }
    if (word == "hold") {
      held_.emplace_back(id, name);
      return lope::Outcome::hold;
    }
    if (word == "later") {
      long ms = 0;
      std::from_chars(text.data(), text.data() + text.size(), ms);
      threads_.emplace_back([this, id, name, ms, message] {
        wait_ms(ms);
        append("done " + name + (message.body_text().empty() ? " empty" : ""));
        host_.settle(id, lope::Outcome::ack);
      });
      return lope::Outcome::hold;
    }
    append("done " + name);
    if (word == "early" || word == "twice") {
      std::thread([this, id, times = word == "twice" ? 2 : 1] {
        for (int i = 0; i < times; ++i) host_.settle(id, lope::Outcome::ack);
      }).join();
      return lope::Outcome::hold;
    }
    if (word == "stray") host_.settle(id + 1, lope::Outcome::ack);
    if (word == "until") wait_for_file(text);
    return lope::Outcome::ack;
  }

  void append(std::string line) const {
    line += '\n';
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      throw std::system_error(errno, std::generic_category(), "write");
    }
  }

  const lope::Host host_;
  const std::string word_;
  const std::string flush_until_;
  const long pause_ms_;
  const bool hangs_;
  const int fd_;
  std::vector<std::pair<std::uint64_t, std::string>> held_;
  std::vector<std::thread> threads_;
};

}  // namespace

LOPE_HANDLER_WITH(Gather, "gather", "1.0.0", "takes messages together and keeps them apart",
                  kOptions)
