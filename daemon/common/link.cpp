#include "common/link.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "common/text.h"

namespace lope {

namespace {

// Follows FrameHead in a delivery frame; then the texts, the headers, padding to 8, the body.
struct DeliveryHead {
  std::uint32_t flags;
  std::uint32_t attempt;
  std::uint32_t crashes;
  std::uint32_t priority;
  std::uint64_t delivery_tag;
  std::uint64_t received_unix_ns;
  std::uint64_t timestamp;
  std::uint32_t header_count;
  std::uint32_t headers_size;
  std::uint32_t text_sizes[kTextProperties];
  std::uint32_t body_offset;  // from the start of the frame
  std::uint32_t body_size;
  std::uint64_t segment;  // 0: the body is in the frame
};
static_assert(sizeof(DeliveryHead) % 8 == 0);

// Follows FrameHead in a publish frame; then the texts, the headers and the body.
struct PublicationHead {
  std::uint32_t flags;
  std::uint32_t priority;
  std::uint32_t expiration_ms;
  std::uint32_t header_count;
  std::uint64_t timestamp;
  std::uint64_t due_unix_ms;
  std::uint64_t delay_ms;
  std::uint32_t headers_size;
  std::uint32_t text_sizes[kTextProperties];
  std::uint32_t body_size;
};

struct HeaderHead {
  std::uint64_t bits;
  std::uint32_t value_size;
  std::uint16_t name_size;
  HeaderKind kind;
  std::uint8_t reserved;
};
static_assert(sizeof(HeaderHead) == 16);

constexpr std::size_t kReadSize = 64 * 1024;
// The memory of a buffer that is worth keeping for the next use.
constexpr std::size_t kKeptBuffer = 64 * 1024;

char* put(char* to, std::string_view text) {
  if (!text.empty()) std::memcpy(to, text.data(), text.size());
  return to + text.size();
}

}  // namespace

void ByteBuffer::Free::operator()(char* data) const { std::free(data); }

void ByteBuffer::assign_size(std::size_t size) {
  if (size > capacity_) {
    const std::size_t capacity = std::max(size, capacity_ * 2);
    release();
    reserve(capacity);
  }
  size_ = size;
}

void ByteBuffer::reserve(std::size_t capacity) {
  if (capacity <= capacity_) return;
  capacity = std::max(capacity, capacity_ * 2);
  // Large memory is moved by the kernel, and not copied.
  void* const grown = std::realloc(data_.get(), capacity);
  if (grown == nullptr) throw std::bad_alloc();
  (void)data_.release();
  data_.reset(static_cast<char*>(grown));
  capacity_ = capacity;
}

void ByteBuffer::append(std::string_view bytes) {
  reserve(size_ + bytes.size());
  put(data_.get() + size_, bytes);
  size_ += bytes.size();
}

void ByteBuffer::release() {
  data_.reset();
  size_ = capacity_ = 0;
}

void ByteBuffer::drop_large() {
  clear();
  if (capacity_ > kKeptBuffer) release();
}

char* encode_delivery(const DeliveryView& view, std::size_t body_size, ByteBuffer& buffer) {
  DeliveryHead head{};
  head.flags = view.flags;
  head.attempt = view.attempt;
  head.crashes = view.crashes;
  head.priority = view.priority;
  head.delivery_tag = view.delivery_tag;
  head.received_unix_ns = view.received_unix_ns;
  head.timestamp = view.timestamp;
  head.header_count = view.header_count;
  head.headers_size = static_cast<std::uint32_t>(view.headers.size());
  std::size_t offset = sizeof(FrameHead) + sizeof(DeliveryHead);
  for (std::size_t i = 0; i < kTextProperties; ++i) {
    head.text_sizes[i] = static_cast<std::uint32_t>(view.text[i].size());
    offset += view.text[i].size();
  }
  offset += view.headers.size();
  const std::size_t body_offset = (offset + 7) & ~std::size_t{7};
  head.body_offset = static_cast<std::uint32_t>(body_offset);
  head.body_size = static_cast<std::uint32_t>(body_size);
  head.segment = view.segment;
  const std::size_t size = body_offset + (view.segment == 0 ? body_size : 0);
  const FrameHead frame{static_cast<std::uint32_t>(size), FrameType::delivery, 0, 0};

  buffer.assign_size(size);
  char* to = buffer.data();
  std::memcpy(to, &frame, sizeof frame);
  std::memcpy(to + sizeof frame, &head, sizeof head);
  to += sizeof frame + sizeof head;
  for (const std::string_view text : view.text) to = put(to, text);
  to = put(to, view.headers);
  std::memset(to, 0, body_offset - offset);
  return buffer.data() + body_offset;
}

void set_sequence(ByteBuffer& frame, std::uint64_t sequence, std::uint16_t batch) {
  std::memcpy(frame.data() + offsetof(FrameHead, batch), &batch, sizeof batch);
  std::memcpy(frame.data() + offsetof(FrameHead, sequence), &sequence, sizeof sequence);
}

void set_attempt(ByteBuffer& frame, std::uint32_t attempt, std::uint32_t crashes) {
  char* const head = frame.data() + sizeof(FrameHead);
  std::memcpy(head + offsetof(DeliveryHead, attempt), &attempt, sizeof attempt);
  std::memcpy(head + offsetof(DeliveryHead, crashes), &crashes, sizeof crashes);
}

std::uint64_t segment_of(std::span<const char> frame) {
  std::uint64_t segment = 0;
  constexpr std::size_t at = sizeof(FrameHead) + offsetof(DeliveryHead, segment);
  if (frame.size() >= at + sizeof segment) {
    std::memcpy(&segment, frame.data() + at, sizeof segment);
  }
  return segment;
}

Result<DeliveryView> decode_delivery(std::span<const char> frame) {
  DeliveryHead head;
  if (frame.size() < sizeof(FrameHead) + sizeof head) return Error{"link: short delivery frame"};
  std::memcpy(&head, frame.data() + sizeof(FrameHead), sizeof head);
  DeliveryView view;
  view.flags = head.flags;
  view.attempt = head.attempt;
  view.crashes = head.crashes;
  view.priority = head.priority;
  view.delivery_tag = head.delivery_tag;
  view.received_unix_ns = head.received_unix_ns;
  view.timestamp = head.timestamp;
  view.header_count = head.header_count;
  std::size_t offset = sizeof(FrameHead) + sizeof head;
  for (std::size_t i = 0; i < kTextProperties; ++i) {
    if (head.text_sizes[i] > frame.size() - offset) return Error{"link: damaged delivery frame"};
    view.text[i] = {frame.data() + offset, head.text_sizes[i]};
    offset += head.text_sizes[i];
  }
  const std::size_t body_in_frame = head.segment == 0 ? head.body_size : 0;
  if (head.headers_size > frame.size() - offset || head.body_offset > frame.size() ||
      body_in_frame > frame.size() - head.body_offset) {
    return Error{"link: damaged delivery frame"};
  }
  view.headers = {frame.data() + offset, head.headers_size};
  view.segment = head.segment;
  if (head.segment == 0) {
    view.body = {frame.data() + head.body_offset, head.body_size};
  } else {
    view.segment_body_size = head.body_size;
  }
  return view;
}

void append_publication(const PublicationView& view, std::uint64_t sequence, ByteBuffer& buffer) {
  PublicationHead head{};
  head.flags = view.flags;
  head.priority = view.priority;
  head.expiration_ms = view.expiration_ms;
  head.header_count = view.header_count;
  head.timestamp = view.timestamp;
  head.due_unix_ms = view.due_unix_ms;
  head.delay_ms = view.delay_ms;
  head.headers_size = static_cast<std::uint32_t>(view.headers.size());
  head.body_size = static_cast<std::uint32_t>(view.body.size());
  std::size_t size = sizeof(FrameHead) + sizeof head + view.headers.size() + view.body.size();
  for (std::size_t i = 0; i < kTextProperties; ++i) {
    head.text_sizes[i] = static_cast<std::uint32_t>(view.text[i].size());
    size += view.text[i].size();
  }
  const FrameHead frame{static_cast<std::uint32_t>(size), FrameType::publish, 0, sequence};
  buffer.reserve(buffer.size() + size);
  buffer.append({reinterpret_cast<const char*>(&frame), sizeof frame});
  buffer.append({reinterpret_cast<const char*>(&head), sizeof head});
  for (const std::string_view text : view.text) buffer.append(text);
  buffer.append(view.headers);
  buffer.append(view.body);
}

Result<PublicationView> decode_publication(std::string_view payload) {
  const Error damaged{"link: damaged publish frame"};
  PublicationHead head;
  if (payload.size() < sizeof head) return damaged;
  std::memcpy(&head, payload.data(), sizeof head);
  payload.remove_prefix(sizeof head);
  PublicationView view;
  view.flags = head.flags;
  view.priority = head.priority;
  view.expiration_ms = head.expiration_ms;
  view.header_count = head.header_count;
  view.timestamp = head.timestamp;
  view.due_unix_ms = head.due_unix_ms;
  view.delay_ms = head.delay_ms;
  const auto take = [&payload](std::size_t size, std::string_view& into) {
    if (size > payload.size()) return false;
    into = payload.substr(0, size);
    payload.remove_prefix(size);
    return true;
  };
  for (std::size_t i = 0; i < kTextProperties; ++i) {
    if (!take(head.text_sizes[i], view.text[i])) return damaged;
  }
  if (!take(head.headers_size, view.headers) || !take(head.body_size, view.body)) return damaged;
  return view;
}

void HeaderWriter::add_scalar(std::string_view name, HeaderKind kind, std::uint64_t bits) {
  add(name, kind, bits, {});
}

void HeaderWriter::add_text(std::string_view name, HeaderKind kind, std::string_view value) {
  add(name, kind, 0, value);
}

void HeaderWriter::add(std::string_view name, HeaderKind kind, std::uint64_t bits,
                       std::string_view value) {
  const HeaderHead head{bits, static_cast<std::uint32_t>(value.size()),
                        static_cast<std::uint16_t>(name.size()), kind, 0};
  buffer_.append({reinterpret_cast<const char*>(&head), sizeof head});
  buffer_.append(name);
  buffer_.append(value);
  ++count_;
}

std::optional<HeaderView> next_header(std::string_view& headers) {
  HeaderHead head;
  if (headers.size() < sizeof head) return std::nullopt;
  std::memcpy(&head, headers.data(), sizeof head);
  headers.remove_prefix(sizeof head);
  if (head.name_size > headers.size() || head.value_size > headers.size() - head.name_size) {
    return std::nullopt;
  }
  HeaderView view;
  view.kind = head.kind;
  view.bits = head.bits;
  view.name = headers.substr(0, head.name_size);
  view.value = headers.substr(head.name_size, head.value_size);
  headers.remove_prefix(std::size_t{head.name_size} + head.value_size);
  return view;
}

std::string encode_frame(FrameType type, std::uint64_t sequence, std::string_view payload) {
  const FrameHead head{static_cast<std::uint32_t>(sizeof(FrameHead) + payload.size()), type, 0,
                       sequence};
  std::string frame(sizeof head + payload.size(), '\0');
  std::memcpy(frame.data(), &head, sizeof head);
  put(frame.data() + sizeof head, payload);
  return frame;
}

Result<FrameReader::Status> FrameReader::read(int fd) {
  if (consumed_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + consumed_, buffer_.size() - consumed_);
    const std::size_t left = buffer_.size() - consumed_;
    buffer_.assign_size(left);
    consumed_ = 0;
    // The memory of a large publication is not kept for what follows.
    if (left == 0 && buffer_.capacity() > kMaxWorkerFrame) buffer_.release();
  }
  const std::size_t size = buffer_.size();
  buffer_.reserve(size + kReadSize);
  ssize_t n = 0;
  do {
    n = ::recv(fd, buffer_.data() + size, kReadSize, 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Status::would_block;
    if (errno == ECONNRESET) return Status::end;
    return Error{errno_text("link: recv", errno)};
  }
  if (n == 0) return Status::end;
  buffer_.assign_size(size + static_cast<std::size_t>(n));
  return Status::data;
}

Result<std::optional<FrameReader::Frame>> FrameReader::next() {
  const std::size_t available = buffer_.size() - consumed_;
  Frame frame;
  if (available < sizeof frame.head) return std::optional<Frame>();
  std::memcpy(&frame.head, buffer_.data() + consumed_, sizeof frame.head);
  const std::size_t limit =
      frame.head.type == FrameType::publish ? kMaxPublicationFrame : kMaxWorkerFrame;
  if (frame.head.size < sizeof frame.head || frame.head.size > limit) {
    return Error{"link: damaged stream: a frame of " + std::to_string(frame.head.size) + " bytes"};
  }
  if (available < frame.head.size) return std::optional<Frame>();
  frame.payload = {buffer_.data() + consumed_ + sizeof frame.head,
                   frame.head.size - sizeof frame.head};
  consumed_ += frame.head.size;
  return std::optional<Frame>(frame);
}

}  // namespace lope
