// What a handler publishes: checked, completed with what the host adds, and kept as frames with the
// message that it is for. Sending them is messages.h.
#pragma once

#include <lope/handler.h>

#include <cstddef>
#include <cstdint>

#include "common/settings.h"
#include "worker/messages.h"

namespace lope::worker {

// What one message may publish, if it publishes more than once.
inline constexpr std::size_t kMaxPublishedBytes = std::size_t{128} << 20;
// All properties and headers of one publication, as AMQP writes them. One frame has to hold them:
// 128 KiB, less a margin for what the consumer adds.
inline constexpr std::size_t kMaxPropertyBytes = 128 * 1024 - 1024;

// What takes the place of a publication that is to be compressed.
struct Compressed {
  lope_publication publication{};
  ByteBuffer body;
};
// `publication`, or `into`: that one with its body compressed, when the settings say so, it has no
// encoding of its own, and that makes it smaller. Throws std::bad_alloc.
const lope_publication* compressed(const lope_publication* publication,
                                   const ContentSettings& settings, Compressed& into);

// As lope_host::publish() and reply(), for the message in `cause`. `max_body` is in bytes. When it
// is refused, `cause` stays as it was. Throws std::bad_alloc.
lope_status add_publication(const lope_publication* publication, std::int64_t max_body,
                            MessageRecord& cause);
lope_status add_reply(const lope_publication* publication, std::int64_t max_body,
                      MessageRecord& request);

}  // namespace lope::worker
