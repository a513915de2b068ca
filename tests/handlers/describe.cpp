// Appends to a file what it sees of each message, and acks: a line "ID.NAME=VALUE" for every
// property that is there and for every header, all in one write. A body is its size and its FNV-1a
// checksum; a header's value is its kind's name and itself.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <lope/handler.hpp>
#include <string>
#include <system_error>

namespace {

constexpr lope_option kOptions[] = {lope::required("file", "where to append"), lope::kEndOfOptions};

std::string checksum(std::string_view bytes) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string describe(const lope::Value& value) {
  char number[64];
  switch (value.kind()) {
    case LOPE_INT64: return "int64 " + std::to_string(value.raw().as.i);
    case LOPE_UINT64: return "uint64 " + std::to_string(value.raw().as.u);
    case LOPE_DOUBLE:
      std::snprintf(number, sizeof number, "double %.17g", value.raw().as.d);
      return number;
    case LOPE_BOOL: return value.as_bool() == true ? "bool true" : "bool false";
    case LOPE_TEXT: return "text " + std::string(*value.as_text());
    case LOPE_BYTES: return "bytes " + std::string(*value.as_text());
    case LOPE_TIMESTAMP: return "timestamp " + std::to_string(value.raw().as.u);
    case LOPE_NULL: return "null";
    case LOPE_OTHER: return "other";
    default: return "unknown kind " + std::to_string(value.kind());
  }
}

class Describe final : public lope::Handler {
 public:
  explicit Describe(lope::Host host)
      : fd_(::open(host.option_as<std::string>("file").c_str(),
                   O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "open");
  }
  ~Describe() override { ::close(fd_); }

  lope::Outcome handle(const lope::Message& message) override {
    std::string lines;
    const auto line = [&](std::string_view name, std::string_view value) {
      if (value.empty()) return;
      lines.append(message.message_id()).append(".").append(name).append("=").append(value);
      lines += '\n';
    };
    line("queue", message.queue());
    line("exchange", message.exchange());
    line("routing_key", message.routing_key());
    line("consumer_tag", message.consumer_tag());
    line("content_type", message.content_type());
    line("content_encoding", message.content_encoding());
    line("correlation_id", message.correlation_id());
    line("reply_to", message.reply_to());
    line("type", message.type());
    line("app_id", message.app_id());
    line("user_id", message.user_id());
    line("expiration", message.expiration());
    line("priority", std::to_string(message.priority()));
    if (message.raw()->timestamp != 0) line("timestamp", std::to_string(message.raw()->timestamp));
    line("persistent", message.persistent() ? "true" : "false");
    line("redelivered", message.redelivered() ? "true" : "false");
    line("headers", std::to_string(message.header_count()));
    for (std::size_t i = 0; i < message.header_count(); ++i) {
      const lope::Header header = message.header_at(i);
      line("header." + std::string(header.name), describe(header.value));
    }
    line("size", std::to_string(message.body_text().size()));
    line("checksum", checksum(message.body_text()));
    if (::write(fd_, lines.data(), lines.size()) != static_cast<ssize_t>(lines.size()))
      throw std::system_error(errno, std::generic_category(), "write");
    return lope::Outcome::ack;
  }

 private:
  const int fd_;
};

}  // namespace

LOPE_HANDLER_WITH(Describe, "describe", "1.0.0", "writes down what it sees of messages", kOptions)
