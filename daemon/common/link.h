// The bytes between a consumer and one of its workers, over a stream socketpair: frames of a
// fixed head and a payload. Both ends are of one build (the scoreboard carries the build id), so
// structs travel as they lie in memory. What the worker says is checked all the same: a handler
// may have scribbled over it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"

namespace lope {

// A growable byte buffer that does not zero what it hands out.
class ByteBuffer {
 public:
  char* data() { return data_.get(); }
  const char* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  // Content is lost when the capacity has to grow.
  void assign_size(std::size_t size);
  // Content is kept.
  void reserve(std::size_t capacity);
  void append(std::string_view bytes);
  void clear() { size_ = 0; }
  // Gives the memory back.
  void release();
  // Empties it, and gives large memory back.
  void drop_large();
  std::span<const char> bytes() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(char* data) const;
  };
  std::unique_ptr<char, Free> data_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

enum class FrameType : std::uint16_t {
  // consumer to worker
  delivery = 1,
  flush = 2,    // `sequence` is a FlushReason
  segment = 3,  // `sequence` is its id; payload: SegmentHead; its descriptor comes along
  forget = 4,   // `sequence` is the id of a segment that no delivery will name again
  revoke = 5,   // held delivery `sequence` is not this worker's any more
  // worker to consumer
  ready = 16,       // payload: name \0 version \0 path \0, and 1 for handle_batch(), 2 for flush()
  failed = 17,      // payload: FailedHead, text
  log = 18,         // payload: LogHead, text
  explain = 19,     // about `sequence`, before its outcome; payload: ExplainHead, text
  publish = 20,     // for `sequence`, before its outcome; see append_publication()
  keep_alive = 21,  // about held delivery `sequence`
};

// Why handlers are asked to flush; the numbers are those of the ABI (asserted in worker/host.cpp).
enum class FlushReason : std::uint32_t { interval = 1, window_full = 2, drain = 3 };

struct FrameHead {
  std::uint32_t size;  // of the whole frame
  FrameType type;
  std::uint16_t batch;     // deliveries of the batch that begins here; 0: alone, or within a batch
  std::uint64_t sequence;  // of the delivery; 0 where none is meant
};
static_assert(sizeof(FrameHead) == 16);

struct SegmentHead {
  std::uint64_t size;
};
struct FailedHead {
  std::uint32_t refused;  // 1: do not start this handler again; 0: try again
};
struct LogHead {
  std::uint32_t level;  // a LogLevel
};

struct ExplainHead {
  std::uint64_t retry_after_ms;  // kByPolicy: when the group's policy says
};
inline constexpr std::uint64_t kByPolicy = UINT64_MAX;

// The largest frame a worker may send, and the largest that is a publication.
inline constexpr std::size_t kMaxWorkerFrame = 1 << 20;
inline constexpr std::size_t kMaxPublicationFrame = (512 << 20) + kMaxWorkerFrame;

// The text properties of a message, in the order they travel.
enum class TextProperty : std::uint8_t {
  queue,
  exchange,
  routing_key,
  consumer_tag,
  content_type,
  content_encoding,
  correlation_id,
  reply_to,
  message_id,
  parent_id,
  type,
  app_id,
  user_id,
  expiration,
};
inline constexpr std::size_t kTextProperties = 14;

inline constexpr std::uint32_t kDeliveryRedelivered = 1u << 0;
inline constexpr std::uint32_t kDeliveryPersistent = 1u << 1;

// A delivery as it travels; views into memory of whoever made it.
struct DeliveryView {
  std::uint32_t flags = 0;  // kDelivery…
  std::uint32_t attempt = 1;
  std::uint32_t crashes = 0;
  std::uint32_t priority = 0;
  std::uint64_t delivery_tag = 0;
  std::uint64_t received_unix_ns = 0;
  std::uint64_t timestamp = 0;
  std::array<std::string_view, kTextProperties> text;
  std::uint32_t header_count = 0;
  std::string_view headers;  // made by HeaderWriter
  std::string_view body;
  // Not 0: the body is in this segment of shared memory, and not in the frame.
  std::uint64_t segment = 0;
  std::size_t segment_body_size = 0;

  std::string_view& operator[](TextProperty property) {
    return text[static_cast<std::size_t>(property)];
  }
  std::string_view operator[](TextProperty property) const {
    return text[static_cast<std::size_t>(property)];
  }
};

// Writes a delivery frame but for its body into `buffer` and leaves room for a body of `body_size`
// bytes at its end, unless it names a segment for it. Returns where the body goes then. `view.body`
// is not looked at.
char* encode_delivery(const DeliveryView& view, std::size_t body_size, ByteBuffer& buffer);
// Names the delivery: each hand-over to a worker has its own sequence.
void set_sequence(ByteBuffer& frame, std::uint64_t sequence, std::uint16_t batch = 0);
// Another attempt at the same message.
void set_attempt(ByteBuffer& frame, std::uint32_t attempt, std::uint32_t crashes);
// The segment that a whole frame of type delivery names; 0: none.
std::uint64_t segment_of(std::span<const char> frame);
// `frame` is a whole frame of type delivery. The body of one that names a segment is left empty.
Result<DeliveryView> decode_delivery(std::span<const char> frame);

inline constexpr std::uint32_t kPublicationTransient = 1u << 0;
inline constexpr std::uint32_t kPublicationMayBeUnroutable = 1u << 1;

// What a handler publishes, as it travels; views into memory of whoever made it. Of the text
// properties those that a publisher sets.
struct PublicationView {
  std::uint32_t flags = 0;          // kPublication…
  std::uint32_t priority = 0;       // 0: none
  std::uint32_t expiration_ms = 0;  // 0: none
  std::uint64_t timestamp = 0;      // seconds since 1970
  std::uint64_t due_unix_ms = 0;    // 0: at once
  std::uint64_t delay_ms = 0;       // how much later that was when it was published
  std::array<std::string_view, kTextProperties> text;
  std::uint32_t header_count = 0;
  std::string_view headers;  // made by HeaderWriter
  std::string_view body;

  std::string_view& operator[](TextProperty property) {
    return text[static_cast<std::size_t>(property)];
  }
  std::string_view operator[](TextProperty property) const {
    return text[static_cast<std::size_t>(property)];
  }
};

// Appends a whole frame of type publish to `buffer`.
void append_publication(const PublicationView& view, std::uint64_t sequence, ByteBuffer& buffer);
// `payload` is that of a frame of type publish.
Result<PublicationView> decode_publication(std::string_view payload);

// What a header's value is; the numbers are those of the ABI (asserted in worker/host.cpp).
enum class HeaderKind : std::uint8_t {
  int64 = 1,
  uint64 = 2,
  real = 3,
  boolean = 4,
  text = 5,
  bytes = 6,
  timestamp = 7,
  null = 8,
  other = 9,
};

class HeaderWriter {
 public:
  explicit HeaderWriter(ByteBuffer& buffer) : buffer_(buffer) {}
  void add_scalar(std::string_view name, HeaderKind kind, std::uint64_t bits);
  void add_text(std::string_view name, HeaderKind kind, std::string_view value);
  std::uint32_t count() const { return count_; }

 private:
  void add(std::string_view name, HeaderKind kind, std::uint64_t bits, std::string_view value);
  ByteBuffer& buffer_;
  std::uint32_t count_ = 0;
};

struct HeaderView {
  std::string_view name;
  HeaderKind kind = HeaderKind::null;
  std::uint64_t bits = 0;  // of a scalar
  std::string_view value;  // of text and bytes
};

// Takes the first header off `headers`; nothing when there is none left (or it is damaged).
std::optional<HeaderView> next_header(std::string_view& headers);

// A whole frame with a text payload behind a small head.
std::string encode_frame(FrameType type, std::uint64_t sequence, std::string_view payload);

// Collects what a nonblocking socket brings into whole frames.
class FrameReader {
 public:
  struct Frame {
    FrameHead head;
    std::string_view payload;  // valid until the next call of read() or next()
  };
  enum class Status { data, would_block, end };

  // Reads once. An error is a broken socket.
  Result<Status> read(int fd);
  // The next whole frame, or nothing. An error is a damaged stream.
  Result<std::optional<Frame>> next();

 private:
  ByteBuffer buffer_;
  std::size_t consumed_ = 0;
};

}  // namespace lope
