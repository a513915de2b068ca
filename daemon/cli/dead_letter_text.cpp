#include "cli/dead_letter_text.h"

#include <algorithm>
#include <cstdio>

#include "cli/table.h"
#include "common/text.h"
#include "common/wall_time.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

constexpr std::size_t kShownBody = 4096;
constexpr std::size_t kShownReason = 60;
constexpr std::size_t kShownName = 60;

std::string or_dash(std::string text) { return text.empty() ? "-" : text; }

std::string shown(const AmqpValue& value) {
  const auto* text = std::get_if<std::string>(&value.value);
  if (text == nullptr) return to_json(value);
  return text->empty() ? "\"\"" : escape(*text, 4096);
}

std::string history_text(const AmqpArray& history) {
  std::vector<std::vector<std::string>> rows{{"ATTEMPT", "TIME", "WORKER", "REASON"}};
  for (const AmqpValue& each : history) {
    const auto* attempt = std::get_if<AmqpTable>(&each.value);
    if (attempt == nullptr) continue;
    const auto number = number_of(*attempt, "attempt");
    const auto time = number_of(*attempt, "time");
    rows.push_back({number ? std::to_string(*number) : "-", time ? time_text(*time) : "-",
                    or_dash(escape(text_of(*attempt, "worker"))),
                    or_dash(escape(text_of(*attempt, "reason")))});
  }
  return table_text(rows);
}

std::string hex_dump(std::string_view bytes) {
  std::string text;
  for (std::size_t line = 0; line < bytes.size(); line += 16) {
    char buffer[24];
    std::snprintf(buffer, sizeof buffer, "%08zx ", line);
    text += buffer;
    std::string letters;
    for (std::size_t i = line; i < line + 16; ++i) {
      if (i == line + 8) text += " ";
      if (i >= bytes.size()) {
        text += "   ";
        continue;
      }
      const auto byte = static_cast<unsigned char>(bytes[i]);
      std::snprintf(buffer, sizeof buffer, " %02x", static_cast<unsigned>(byte));
      text += buffer;
      letters += byte >= 0x20 && byte < 0x7F ? bytes[i] : '.';
    }
    text += "  |" + letters + "|\n";
  }
  return text;
}

}  // namespace

std::vector<std::string> list_head() {
  return {"#", "MESSAGE ID", "AGE", "CODE", "REASON", "ATTEMPTS", "QUEUE"};
}

std::vector<std::string> list_row(const DeadLetter& letter, std::uint64_t number,
                                  std::int64_t now_ms) {
  return {std::to_string(number),
          or_dash(escape(letter.message_id, kShownName)),
          letter.since_ms ? age_text(now_ms - *letter.since_ms) : "-",
          or_dash(escape(letter.code, kShownName)),
          or_dash(escape(letter.reason, kShownReason)),
          letter.attempts ? std::to_string(*letter.attempts) : "-",
          or_dash(escape(letter.queue, kShownName))};
}

std::string show_text(const Received& message, const DeadLetter& letter, std::uint64_t number,
                      std::int64_t now_ms, bool full) {
  std::vector<std::vector<std::string>> rows;
  const auto add = [&rows](const char* name, const std::string& value) {
    if (!value.empty()) rows.push_back({name, escape(value)});
  };
  add("number", std::to_string(number));
  add("message id", message.message_id);
  if (letter.since_ms) {
    add("dead since",
        time_text(*letter.since_ms) + " (" + age_text(now_ms - *letter.since_ms) + ")");
  }
  add("code", letter.code);
  add("reason", letter.reason);
  if (letter.attempts) add("attempts", std::to_string(*letter.attempts));
  add("queue", letter.queue);
  if (letter.origin) {
    add("came from", letter.origin->exchange.empty()
                         ? "queue '" + letter.origin->routing_key + "'"
                         : "exchange '" + letter.origin->exchange + "' with key '" +
                               letter.origin->routing_key + "'");
  }
  add("content type", message.content_type);
  add("content encoding", message.content_encoding);
  add("correlation id", message.correlation_id);
  add("reply to", message.reply_to);
  add("type", message.type);
  add("app id", message.app_id);
  add("user id", message.user_id);
  add("expiration", message.expiration);
  if (message.priority > 0) add("priority", std::to_string(message.priority));
  if (message.timestamp > 0) {
    add("timestamp", time_text(static_cast<std::int64_t>(message.timestamp) * 1000));
  }
  add("persistent", message.persistent ? "true" : "false");
  add("redelivered", message.redelivered ? "true" : "false");
  std::string text = table_text(rows);

  rows.clear();
  const AmqpArray* history = nullptr;
  for (const auto& [name, value] : message.headers) {
    if (name == consumer::header::kHistory) history = std::get_if<AmqpArray>(&value.value);
    if (name != consumer::header::kHistory || history == nullptr) {
      rows.push_back({"  " + escape(name), shown(value)});
    }
  }
  if (!rows.empty()) text += "\nheaders\n" + table_text(rows);
  if (history != nullptr && !history->empty()) text += "\nhistory\n" + history_text(*history);
  text += "\nbody, " + std::to_string(message.body.size()) +
          (message.body.size() == 1 ? " byte\n" : " bytes\n");
  return text + body_text(message.body, full);
}

std::string body_text(std::string_view body, bool full) {
  const bool is_text = first_invalid_utf8(body) == std::string_view::npos;
  std::string_view shown_part = full ? body : body.substr(0, kShownBody);
  if (is_text) {  // not in the middle of a character
    const std::size_t end = first_invalid_utf8(shown_part);
    if (end != std::string_view::npos) shown_part = shown_part.substr(0, end);
  }
  std::string text = is_text ? harmless(shown_part) : hex_dump(shown_part);
  if (!text.empty() && text.back() != '\n') text += '\n';
  if (shown_part.size() < body.size()) {
    text += "… " + std::to_string(body.size() - shown_part.size()) + " more bytes: --full\n";
  }
  return text;
}

}  // namespace lope::cli
