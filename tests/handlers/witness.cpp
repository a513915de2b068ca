// Tells what it sees of a message: appends to option `file`, one write a line,
//   "seen ID TYPE ENCODING SIZE BODY"   at the call; "-" for what is empty, 60 bytes of the body
//   "held ID SIZE BODY"                 of a message it has kept until flush()
//   "batch N"                           of a call with several, before its lines
// With option `forward` it publishes the body to that queue, with `outcome` it says that.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <lope/handler.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

constexpr lope_option kOptions[] = {lope::required("file", "where to append"),
                                    lope::defaulted("forward", "", "queue to publish each body to"),
                                    lope::defaulted("outcome", "ack", "ack, retry, reject or hold"),
                                    lope::kEndOfOptions};

std::string or_dash(std::string_view text) { return text.empty() ? "-" : std::string(text); }

class Witness final : public lope::Handler {
 public:
  explicit Witness(lope::Host host)
      : host_(host),
        forward_(host.option_as<std::string>("forward")),
        outcome_(host.option_as<std::string>("outcome")),
        fd_(::open(host.option_as<std::string>("file").c_str(),
                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
  }
  ~Witness() override { ::close(fd_); }

  lope::Outcome handle(const lope::Message& message) override { return look(message); }

  void handle_batch(lope::Batch& batch) override {
    append("batch " + std::to_string(batch.size()));
    for (std::size_t i = 0; i < batch.size(); ++i) batch.set(i, look(batch[i]));
  }

  void flush(lope::FlushReason) override {
    for (const lope::Message& message : std::exchange(held_, {})) {
      append("held " + std::string(message.message_id()) + " " + body_of(message));
      host_.settle(message.id(), lope::Outcome::ack);
    }
  }

 private:
  static std::string body_of(const lope::Message& message) {
    const std::string_view body = message.body_text();
    return std::to_string(body.size()) + " " + std::string(body.substr(0, 60));
  }

  lope::Outcome look(const lope::Message& message) {
    append("seen " + std::string(message.message_id()) + " " + or_dash(message.content_type()) +
           " " + or_dash(message.content_encoding()) + " " + body_of(message));
    if (!forward_.empty()) {
      lope::Publication publication;
      publication.routing_key = forward_;
      publication.message_id = message.message_id();
      publication.body = message.body_text();
      message.publish(publication);
    }
    if (outcome_ == "retry") return lope::Outcome::retry;
    if (outcome_ == "reject") return lope::Outcome::reject;
    if (outcome_ != "hold") return lope::Outcome::ack;
    held_.push_back(message);
    return lope::Outcome::hold;
  }

  void append(std::string line) const {
    line += '\n';
    if (::write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      throw std::system_error(errno, std::generic_category(), "write");
    }
  }

  const lope::Host host_;
  const std::string forward_;
  const std::string outcome_;
  const int fd_;
  std::vector<lope::Message> held_;
};

}  // namespace

LOPE_HANDLER_WITH(Witness, "witness", "1.0.0", "tells what it sees of a message", kOptions)
