// A message in a JSON file, as people write it and as `lope call --json` and `lope dlq show --json`
// print it.
#pragma once

#include <string>
#include <string_view>

#include "cli/received.h"
#include "common/result.h"

namespace lope::cli {

// {"body": "text", "content_type": …, "headers": {…}, …}: the members of properties_json(), or
// those inside "properties", and one of "body", "body_base64" and "body_json" (any JSON; the
// content type is application/json then, unless there is one). An error says which member is wrong,
// what was expected and what was found.
Result<Received> message_from_json(std::string_view text);

// One of those members, but for bodies and headers, from the command line.
Result<void> set_property(Received& message, const std::string& name, const std::string& value);

Result<std::string> base64_decode(std::string_view text);

// The message's properties and headers as a delivery has them, and room for its body.
// `headers` are kept by the caller as long as the view is used.
DeliveryView delivery_view(const Received& message, ByteBuffer& headers);

}  // namespace lope::cli
