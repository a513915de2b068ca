#include "worker/content.h"

#include <utility>

#include "common/content_encoding.h"
#include "common/content_type.h"

namespace lope::worker {

namespace {

std::string_view view(lope_str text) { return {text.data, text.size}; }

std::string_view body_of(const MessageRecord& record) {
  return {static_cast<const char*>(record.message.body.data), record.message.body.size};
}

void use_own_body(MessageRecord& record) {
  record.message.body = {record.own_body.data(), record.own_body.size()};
}

}  // namespace

bool prepares(const ContentSettings& settings) {
  return settings.decode || settings.to_utf8 || !settings.schema.empty();
}

std::optional<Refused> Content::prepare(MessageRecord& record) {
  if (settings_.decode) {
    if (auto refused = decode(record)) return refused;
  }
  if (settings_.to_utf8) {
    if (auto refused = convert(record)) return refused;
  }
  return schema_ != nullptr ? validate(record) : std::nullopt;
}

std::optional<Refused> Content::decode(MessageRecord& record) {
  lope_message& message = record.message;
  if (message.content_encoding.size == 0) return std::nullopt;
  const auto encodings = parse_encodings(view(message.content_encoding));
  if (!encodings) return Refused{Refusal::encoding, encodings.error()};
  if (encodings->empty()) return std::nullopt;
  if (auto failure = decode_body(body_of(record), *encodings, limit(), record.own_body)) {
    return Refused{failure->too_large ? Refusal::too_large : Refusal::encoding,
                   std::move(failure->reason)};
  }
  use_own_body(record);
  message.content_encoding = {};
  return std::nullopt;
}

std::optional<Refused> Content::convert(MessageRecord& record) {
  lope_message& message = record.message;
  const std::string_view type = view(message.content_type);
  const auto charset = charset_of(type);
  if (!charset || is_utf8_charset(charset->name)) return std::nullopt;
  if (auto failure = converter_.convert(charset->name, body_of(record), limit(), converted_)) {
    return Refused{failure->too_large ? Refusal::too_large : Refusal::charset,
                   std::move(failure->reason)};
  }
  std::swap(record.own_body, converted_);
  converted_.drop_large();
  use_own_body(record);
  record.own_content_type = type.substr(0, charset->begin);
  record.own_content_type += "utf-8";
  record.own_content_type += type.substr(charset->end);
  message.content_type = {record.own_content_type.data(), record.own_content_type.size()};
  return std::nullopt;
}

std::optional<Refused> Content::validate(const MessageRecord& record) const {
  auto wrong = schema_->mismatch(body_of(record));
  if (!wrong) return std::nullopt;
  return Refused{Refusal::schema, std::move(*wrong)};
}

}  // namespace lope::worker
