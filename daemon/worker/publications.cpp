#include "worker/publications.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "common/clock.h"
#include "common/content_encoding.h"
#include "common/uuid.h"

namespace lope::worker {

namespace {

static_assert(kPublicationTransient == LOPE_PUB_TRANSIENT);
static_assert(kPublicationMayBeUnroutable == LOPE_PUB_MAY_BE_UNROUTABLE);

// The smallest there is.
constexpr std::size_t kPublication10 =
    offsetof(lope_publication, priority) + sizeof(lope_publication::priority);
constexpr std::uint32_t kKnownFlags = LOPE_PUB_TRANSIENT | LOPE_PUB_MAY_BE_UNROUTABLE;
constexpr std::size_t kMaxShortText = 255;  // AMQP's short strings
constexpr std::uint32_t kMaxPriority = 255;
// Longer ones of the cause are no trace, and not passed on.
constexpr std::size_t kMaxTrace = 1024;

constexpr std::string_view kParentId = "x-lope-parent-id";
constexpr std::string_view kTraceId = "x-lope-trace-id";
constexpr std::string_view kId = "x-lope-id";  // of a cause that came without an id
// Of W3C's trace context; a handler may set its own.
constexpr std::string_view kTraceParent = "traceparent";
constexpr std::string_view kTraceState = "tracestate";

struct Text {
  lope_str lope_publication::*member;
  TextProperty property;
};
constexpr Text kTexts[] = {
    {&lope_publication::exchange, TextProperty::exchange},
    {&lope_publication::routing_key, TextProperty::routing_key},
    {&lope_publication::content_type, TextProperty::content_type},
    {&lope_publication::content_encoding, TextProperty::content_encoding},
    {&lope_publication::correlation_id, TextProperty::correlation_id},
    {&lope_publication::reply_to, TextProperty::reply_to},
    {&lope_publication::message_id, TextProperty::message_id},
    {&lope_publication::type, TextProperty::type},
};

// Bytes that are said to be there, and are.
bool is_there(const void* data, std::size_t size) { return data != nullptr || size == 0; }

std::string_view view(lope_str text) { return {text.data, text.size}; }

// The members that this host knows; those that are absent are zero.
lope_status read(const lope_publication* from, lope_publication& publication) {
  if (from == nullptr || from->struct_size < kPublication10) return LOPE_E_INVALID;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
  const std::size_t known = std::min<std::size_t>(from->struct_size, sizeof publication);
  if (std::any_of(bytes + known, bytes + from->struct_size,
                  [](unsigned char byte) { return byte != 0; })) {
    return LOPE_E_UNSUPPORTED;
  }
  std::memcpy(&publication, from, known);
  return LOPE_OK;
}

std::uint64_t due_unix_ms(const lope_publication& publication, std::uint64_t now_ms) {
  const std::uint64_t delay = std::min(publication.delay_ms, UINT64_MAX - now_ms);
  const std::uint64_t due = std::max(publication.due_unix_ms, delay > 0 ? now_ms + delay : 0);
  return due > now_ms ? due : 0;
}

lope_status read_properties(const lope_publication& publication, std::int64_t max_body,
                            PublicationView& view) {
  if ((publication.flags & ~kKnownFlags) != 0) return LOPE_E_UNSUPPORTED;
  for (const auto& [member, property] : kTexts) {
    const lope_str text = publication.*member;
    if (text.size > kMaxShortText || !is_there(text.data, text.size)) return LOPE_E_INVALID;
    view[property] = {text.data, text.size};
  }
  const lope_bytes body = publication.body;
  if (publication.priority > kMaxPriority || !is_there(body.data, body.size)) return LOPE_E_INVALID;
  if (std::cmp_greater(body.size, max_body)) return LOPE_E_TOO_LARGE;
  view.body = {static_cast<const char*>(body.data), body.size};
  view.flags = publication.flags;
  view.priority = publication.priority;
  view.expiration_ms = publication.expiration_ms;
  const std::uint64_t now_ms = unix_ms();
  view.timestamp = now_ms / 1000;
  view.due_unix_ms = due_unix_ms(publication, now_ms);
  if (view.due_unix_ms > now_ms) view.delay_ms = view.due_unix_ms - now_ms;
  return LOPE_OK;
}

// The broker's bookkeeping about the cause, and our own: a handler that passes on all headers of
// its cause does not mean these.
bool is_bookkeeping(std::string_view name) {
  return name.starts_with("x-lope-") || name.starts_with("x-first-death-") ||
         name.starts_with("x-last-death-") || name == "x-death" || name == "x-delivery-count";
}

// RabbitMQ would deliver to the queues that these name as well, and a confirm says nothing of them.
bool is_distribution(std::string_view name) { return name == "CC" || name == "BCC"; }

// False: nothing that can be sent.
bool read_value(const lope_value& value, HeaderView& header) {
  switch (value.kind) {
    case LOPE_INT64: header.bits = static_cast<std::uint64_t>(value.as.i); break;
    case LOPE_BOOL: header.bits = value.as.i != 0 ? 1 : 0; break;
    case LOPE_UINT64:
      if (value.as.u > INT64_MAX) return false;  // the broker knows no such number
      header.bits = value.as.u;
      break;
    case LOPE_TIMESTAMP: header.bits = value.as.u; break;
    case LOPE_DOUBLE: header.bits = std::bit_cast<std::uint64_t>(value.as.d); break;
    case LOPE_TEXT:
    case LOPE_BYTES:
      if (!is_there(value.as.s.data, value.as.s.size)) return false;
      header.value = view(value.as.s);
      break;
    case LOPE_NULL: break;
    default: return false;
  }
  header.kind = static_cast<HeaderKind>(value.kind);
  return true;
}

bool is_text(HeaderKind kind) { return kind == HeaderKind::text || kind == HeaderKind::bytes; }

// The headers of one publication, in a buffer of their own.
class Headers {
 public:
  Headers() { buffer_.reserve(512); }

  // LOPE_E_TOO_LARGE: there is no room for it.
  lope_status add(const HeaderView& header) {
    if (header.value.size() > kMaxPropertyBytes) return LOPE_E_TOO_LARGE;
    const std::size_t value_size = is_text(header.kind) ? 4 + header.value.size() : 8;
    const std::size_t size = 1 + header.name.size() + 1 + value_size;
    if (size > kMaxPropertyBytes - size_) return LOPE_E_TOO_LARGE;
    size_ += size;
    if (is_text(header.kind)) {
      writer_.add_text(header.name, header.kind, header.value);
    } else {
      writer_.add_scalar(header.name, header.kind, header.bits);
    }
    return LOPE_OK;
  }
  lope_status add_text(std::string_view name, std::string_view value) {
    return add({name, HeaderKind::text, 0, value});
  }
  bool has(std::string_view name) const {
    std::string_view left = bytes();
    while (const auto header = next_header(left)) {
      if (header->name == name) return true;
    }
    return false;
  }

  std::string_view bytes() const { return {buffer_.data(), buffer_.size()}; }
  std::uint32_t count() const { return writer_.count(); }
  // As AMQP writes them.
  std::size_t size() const { return size_; }

 private:
  ByteBuffer buffer_;
  HeaderWriter writer_{buffer_};
  std::size_t size_ = 0;
};

// Those of the handler.
lope_status read_headers(const lope_publication& publication, Headers& headers) {
  if (publication.header_count > 0 && publication.headers == nullptr) return LOPE_E_INVALID;
  for (std::size_t i = 0; i < publication.header_count; ++i) {
    const lope_header& from = publication.headers[i];
    if (from.name.size == 0 || from.name.size > kMaxShortText || from.name.data == nullptr) {
      return LOPE_E_INVALID;
    }
    HeaderView header;
    header.name = view(from.name);
    if (is_bookkeeping(header.name)) continue;
    if (is_distribution(header.name) || !read_value(from.value, header)) return LOPE_E_INVALID;
    if (const lope_status status = headers.add(header); status != LOPE_OK) return status;
  }
  return LOPE_OK;
}

// Where the publication comes from.
lope_status add_origin(const DeliveryView& cause, Headers& headers) {
  std::string_view parent_id = cause[TextProperty::message_id];
  std::string_view trace_id;
  HeaderView trace_parent, trace_state;
  std::string_view left = cause.headers;
  while (const auto header = next_header(left)) {
    if (!is_text(header->kind) || header->value.size() > kMaxTrace) continue;
    if (header->name == kTraceId) trace_id = header->value;
    if (header->name == kId && parent_id.empty()) parent_id = header->value;
    if (header->name == kTraceParent) trace_parent = *header;
    if (header->name == kTraceState) trace_state = *header;
  }
  if (trace_id.empty()) trace_id = parent_id;
  lope_status status = LOPE_OK;
  if (!parent_id.empty()) status = headers.add_text(kParentId, parent_id);
  if (status == LOPE_OK && !trace_id.empty()) status = headers.add_text(kTraceId, trace_id);
  for (const HeaderView& header : {trace_parent, trace_state}) {
    if (status == LOPE_OK && !header.name.empty() && !headers.has(header.name)) {
      status = headers.add(header);
    }
  }
  return status;
}

// `view` has everything but the headers and what the host makes up.
lope_status keep(const lope_publication& publication, PublicationView& view, MessageRecord& cause) {
  Headers headers;
  lope_status status = read_headers(publication, headers);
  if (status == LOPE_OK) status = add_origin(cause.view, headers);
  if (status != LOPE_OK) return status;
  view.headers = headers.bytes();
  view.header_count = headers.count();
  std::string made_id;
  if (view[TextProperty::message_id].empty()) view[TextProperty::message_id] = made_id = uuid();

  std::size_t size = headers.size();
  for (const std::string_view text : view.text) size += 1 + text.size();
  if (size > kMaxPropertyBytes || cause.publication_count == kMaxPublications) {
    return LOPE_E_TOO_LARGE;
  }
  // The first is bounded by the broker's own limit, which may be higher.
  size += cause.publications.size() + view.body.size();
  if (size > kMaxPublishedBytes && cause.publication_count > 0) return LOPE_E_TOO_LARGE;
  append_publication(view, cause.sequence, cause.publications);
  ++cause.publication_count;
  return LOPE_OK;
}

}  // namespace

const lope_publication* compressed(const lope_publication* publication,
                                   const ContentSettings& settings, Compressed& into) {
  // What cannot be read is refused soon.
  if (read(publication, into.publication) != LOPE_OK) return publication;
  lope_bytes& body = into.publication.body;
  if (into.publication.content_encoding.size > 0 || body.data == nullptr || body.size == 0 ||
      std::cmp_less(body.size, settings.compress_min_bytes)) {
    return publication;
  }
  const std::string_view plain(static_cast<const char*>(body.data), body.size);
  if (!compress_body(settings.compress, plain, into.body)) return publication;
  body = {into.body.data(), into.body.size()};
  into.publication.content_encoding = {settings.compress.data(), settings.compress.size()};
  into.publication.struct_size = sizeof into.publication;
  return &into.publication;
}

lope_status add_publication(const lope_publication* publication, std::int64_t max_body,
                            MessageRecord& cause) {
  lope_publication known{};
  PublicationView view;
  lope_status status = read(publication, known);
  if (status == LOPE_OK) status = read_properties(known, max_body, view);
  return status == LOPE_OK ? keep(known, view, cause) : status;
}

lope_status add_reply(const lope_publication* publication, std::int64_t max_body,
                      MessageRecord& request) {
  lope_publication known{};
  PublicationView view;
  lope_status status = read(publication, known);
  if (status == LOPE_OK) status = read_properties(known, max_body, view);
  if (status != LOPE_OK) return status;
  std::string_view& routing_key = view[TextProperty::routing_key];
  std::string_view& correlation_id = view[TextProperty::correlation_id];
  const std::string_view reply_to = request.view[TextProperty::reply_to];
  if (reply_to.empty() || !view[TextProperty::exchange].empty() || !routing_key.empty()) {
    return LOPE_E_INVALID;
  }
  routing_key = reply_to;
  if (correlation_id.empty()) correlation_id = request.view[TextProperty::correlation_id];
  // Who asked may be gone; and RabbitMQ calls direct reply-to unroutable.
  view.flags |= kPublicationMayBeUnroutable;
  return keep(known, view, request);
}

}  // namespace lope::worker
