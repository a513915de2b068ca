// Makes of a delivery what its handler is to see, decoded and in UTF-8, or says why no handler may
// see it. What came stays as it is for the consumer, which has its own copy.
#pragma once

#include <optional>
#include <string>

#include "common/charset.h"
#include "common/schema.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "worker/messages.h"

namespace lope::worker {

struct Refused {
  Refusal why;
  std::string reason;
};

// Is there anything to be done with what comes?
bool prepares(const ContentSettings& settings);

// Of one thread.
class Content {
 public:
  // Both outlive it. `schema` may be nullptr.
  Content(const ContentSettings& settings, const Schema* schema)
      : settings_(settings), schema_(schema) {}

  // Changes the message of `record`, and what it lies in.
  std::optional<Refused> prepare(MessageRecord& record);

 private:
  std::optional<Refused> decode(MessageRecord& record);
  std::optional<Refused> convert(MessageRecord& record);
  std::optional<Refused> validate(const MessageRecord& record) const;
  std::size_t limit() const { return static_cast<std::size_t>(settings_.max_decoded_bytes); }

  const ContentSettings& settings_;
  const Schema* const schema_;
  Utf8Converter converter_;
  ByteBuffer converted_;
};

}  // namespace lope::worker
