#include "worker/inbox.h"

#include <sys/socket.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/link.h"

namespace lope::worker {

namespace {

FdPair stream_pair() {
  auto pair = make_stream_pair();
  REQUIRE(pair);
  return std::move(*pair);
}

// Where a delivery frame names its segment.
const std::size_t kNoSegment = [] {
  DeliveryView view;
  view.segment = 0x1122334455667788;
  ByteBuffer frame;
  encode_delivery(view, 0, frame);
  const std::string_view bytes(frame.data(), frame.size());
  const std::string_view id(reinterpret_cast<const char*>(&view.segment), sizeof view.segment);
  return bytes.find(id);
}();

// A frame whose payload can be told from any other's.
std::string frame_of(std::uint64_t sequence, std::size_t payload_size) {
  std::string payload(payload_size, '\0');
  for (std::size_t i = 0; i < payload_size; ++i) {
    payload[i] = static_cast<char>(sequence * 31 + i * 7 + i / 251);
  }
  std::string frame = encode_frame(FrameType::delivery, sequence, payload);
  // It is no real delivery: none of its bytes is to be taken for the id of a segment.
  if (frame.size() >= kNoSegment + 8) std::memset(frame.data() + kNoSegment, 0, 8);
  return frame;
}

std::string text_of(const Inbox::Lease& lease) { return {lease.frame.data(), lease.frame.size()}; }

std::uint64_t sequence_of(const Inbox::Lease& lease) {
  FrameHead head;
  std::memcpy(&head, lease.frame.data(), sizeof head);
  return head.sequence;
}

// The next frame, for a thread that nobody asks to flush; false: the end.
bool next(Inbox& inbox, Inbox::Lease& lease) {
  std::vector<Inbox::Lease> leases;
  Inbox::Flushes flushes;
  if (inbox.next(leases, 0, flushes) != Inbox::Next::deliveries || leases.size() != 1) return false;
  lease = leases.front();
  return true;
}

std::string flush_frame(std::uint64_t reason) { return encode_frame(FrameType::flush, reason, ""); }

// Frames of which the first says that all of them are a batch.
std::string batch_of(std::uint64_t first, std::size_t count, std::size_t payload_size) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += frame_of(first + i, payload_size);
  const auto size = static_cast<std::uint16_t>(count);
  std::memcpy(bytes.data() + offsetof(FrameHead, batch), &size, sizeof size);
  return bytes;
}

// Writes `bytes` in slices and closes the socket, from a thread of its own: the link may fill up.
class Writer {
 public:
  Writer(UniqueFd fd, std::string bytes, std::size_t slice)
      : thread_([fd = std::move(fd), bytes = std::move(bytes), slice] {
          for (std::size_t from = 0; from < bytes.size();) {
            const std::size_t size = std::min(slice, bytes.size() - from);
            const ssize_t n = ::send(fd.get(), bytes.data() + from, size, MSG_NOSIGNAL);
            if (n < 0 && errno != EINTR) return;
            if (n > 0) from += static_cast<std::size_t>(n);
          }
        }) {}
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { thread_.join(); }

 private:
  std::thread thread_;
};

}  // namespace

TEST_CASE("frames come whole, however they were sliced", "[unit][inbox]") {
  const std::size_t slice = GENERATE(as<std::size_t>(), 1, 7, 15, 16, 17, 1000, 65536, 10'000'000);
  const bool shared = GENERATE(false, true);
  std::vector<std::string> frames;
  std::string bytes;
  for (std::uint64_t i = 1; i <= 200; ++i) {
    frames.push_back(frame_of(i, (i * i) % 700));
    bytes += frames.back();
  }
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), shared);
  const Writer writer(std::move(link.second), bytes, slice);
  Inbox::Lease lease;
  for (const std::string& expected : frames) {
    REQUIRE(next(inbox, lease));
    CHECK(text_of(lease) == expected);
    inbox.release(lease);
    CHECK(lease.chunk == nullptr);
  }
  CHECK_FALSE(next(inbox, lease));
}

TEST_CASE("a frame larger than any buffer comes whole, between small ones", "[unit][inbox]") {
  const std::size_t size =
      GENERATE(as<std::size_t>(), 100'000, 131'072, 131'073, 1'000'000, 20'000'000);
  const std::vector<std::string> frames = {frame_of(1, 10), frame_of(2, size), frame_of(3, 10),
                                           frame_of(4, size / 2), frame_of(5, 0)};
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), false);
  const Writer writer(std::move(link.second),
                      std::accumulate(frames.begin(), frames.end(), std::string()), 50'000);
  Inbox::Lease lease;
  for (const std::string& expected : frames) {
    REQUIRE(next(inbox, lease));
    CHECK((text_of(lease) == expected));
    inbox.release(lease);
  }
  CHECK_FALSE(next(inbox, lease));
}

TEST_CASE("the memory of a huge frame is given back with the next small one", "[unit][inbox]") {
  auto link = stream_pair();
  const std::string huge = frame_of(1, 8'000'000);
  const Writer writer(std::move(link.second), huge + frame_of(2, 10), huge.size());
  Inbox inbox(link.first.get(), false);
  const std::size_t small = inbox.capacity();
  Inbox::Lease lease;
  REQUIRE(next(inbox, lease));
  CHECK(inbox.capacity() > 8'000'000);
  inbox.release(lease);
  REQUIRE(next(inbox, lease));
  CHECK(sequence_of(lease) == 2);
  inbox.release(lease);
  CHECK_FALSE(next(inbox, lease));
  CHECK(inbox.capacity() <= 2 * small);
}

TEST_CASE("what is leased stays as it is while others come and go", "[unit][inbox]") {
  // Many chunks' worth: the held frames lie in the first, the middle and the last of them.
  std::vector<std::string> frames;
  std::string bytes;
  for (std::uint64_t i = 1; i <= 3000; ++i) {
    frames.push_back(frame_of(i, i % 50 == 0 ? 30'000 : 300));
    bytes += frames.back();
  }
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), false);
  const Writer writer(std::move(link.second), bytes, 100'000);
  std::vector<std::pair<std::size_t, Inbox::Lease>> held;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Inbox::Lease lease;
    REQUIRE(next(inbox, lease));
    REQUIRE((text_of(lease) == frames[i]));
    if (i % 37 == 0) {
      held.emplace_back(i, lease);
    } else {
      inbox.release(lease);
    }
  }
  for (auto& [index, lease] : held) {
    CHECK((text_of(lease) == frames[index]));
    inbox.release(lease);
  }
}

TEST_CASE("a link that is closed between frames or in one is at its end, for good",
          "[unit][inbox]") {
  const std::string whole = frame_of(1, 100);
  const std::size_t cut = GENERATE(as<std::size_t>(), 0, 1, 15, 16, 115);
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), false);
  const std::string bytes = whole + frame_of(2, 100).substr(0, cut);
  REQUIRE(::send(link.second.get(), bytes.data(), bytes.size(), 0) ==
          static_cast<ssize_t>(bytes.size()));
  link.second.reset();
  Inbox::Lease lease;
  REQUIRE(next(inbox, lease));
  CHECK(text_of(lease) == whole);
  inbox.release(lease);
  CHECK_FALSE(next(inbox, lease));
  CHECK_FALSE(next(inbox, lease));
}

TEST_CASE("several threads get each frame once, and all see the end", "[unit][inbox]") {
  constexpr std::uint64_t kFrames = 20'000;
  constexpr int kThreads = 8;
  std::string bytes;
  for (std::uint64_t i = 1; i <= kFrames; ++i)
    bytes += frame_of(i, i % 1000 == 0 ? 200'000 : i % 100);
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), true);
  std::vector<std::uint64_t> seen;
  std::mutex mutex;
  std::atomic<int> damaged = 0;
  std::atomic<int> ended = 0;
  {
    const Writer writer(std::move(link.second), std::move(bytes), 70'000);
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        std::vector<std::uint64_t> mine;
        Inbox::Lease lease;
        while (next(inbox, lease)) {
          const std::uint64_t sequence = sequence_of(lease);
          if (text_of(lease) !=
              frame_of(sequence, sequence % 1000 == 0 ? 200'000 : sequence % 100)) {
            ++damaged;
          }
          mine.push_back(sequence);
          inbox.release(lease);
        }
        ++ended;
        const std::lock_guard lock(mutex);
        seen.insert(seen.end(), mine.begin(), mine.end());
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  CHECK(damaged == 0);
  CHECK(ended == kThreads);
  std::sort(seen.begin(), seen.end());
  std::vector<std::uint64_t> expected(kFrames);
  std::iota(expected.begin(), expected.end(), 1);
  CHECK((seen == expected));
}

TEST_CASE("a batch comes as a whole, however large and however sliced", "[unit][inbox]") {
  const bool shared = GENERATE(false, true);
  const std::size_t slice = GENERATE(as<std::size_t>(), 11, 1000, 10'000'000);
  const std::size_t size = GENERATE(as<std::size_t>(), 10, 30'000);
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), shared);
  const Writer writer(std::move(link.second),
                      frame_of(1, 5) + batch_of(2, 20, size) + frame_of(22, 5) + batch_of(23, 2, 7),
                      slice);
  std::vector<Inbox::Lease> leases;
  Inbox::Flushes flushes;
  std::uint64_t sequence = 0;
  for (const std::size_t count : {1u, 20u, 1u, 2u}) {
    REQUIRE(inbox.next(leases, 0, flushes) == Inbox::Next::deliveries);
    REQUIRE(leases.size() == count);
    for (Inbox::Lease& lease : leases) {
      CHECK(sequence_of(lease) == ++sequence);
      inbox.release(lease);
    }
  }
  CHECK(inbox.next(leases, 0, flushes) == Inbox::Next::ended);
}

TEST_CASE("a batch whose end never comes is the link's end", "[unit][inbox]") {
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), false);
  const std::string bytes = batch_of(1, 3, 10);
  REQUIRE(::send(link.second.get(), bytes.data(), bytes.size() - 1, 0) > 0);
  link.second.reset();
  std::vector<Inbox::Lease> leases;
  Inbox::Flushes flushes;
  CHECK(inbox.next(leases, 0, flushes) == Inbox::Next::ended);
  CHECK(leases.empty());
}

TEST_CASE("a wait ends when it is due", "[unit][inbox]") {
  const bool shared = GENERATE(false, true);
  const FdPair link = stream_pair();
  Inbox inbox(link.first.get(), shared);
  std::vector<Inbox::Lease> leases;
  Inbox::Flushes flushes;
  const std::uint64_t due = monotonic_ns() + 20'000'000;
  CHECK(inbox.next(leases, due, flushes) == Inbox::Next::due);
  CHECK(monotonic_ns() >= due);
  CHECK(inbox.next(leases, due, flushes) == Inbox::Next::due);
}

TEST_CASE("every thread hears of a request to flush, the idle ones too", "[unit][inbox]") {
  constexpr int kThreads = 6;
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), true);
  std::atomic<int> heard = 0;
  std::atomic<int> ended = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      std::vector<Inbox::Lease> leases;
      Inbox::Flushes flushes;
      for (;;) {
        const auto what = inbox.next(leases, 0, flushes);
        if (what == Inbox::Next::flush && flushes.reason == 3) ++heard;
        for (Inbox::Lease& lease : leases) inbox.release(lease);
        if (what == Inbox::Next::ended) break;
      }
      ++ended;
    });
  }
  const std::string bytes = frame_of(1, 10) + flush_frame(3) + frame_of(2, 10);
  REQUIRE(::send(link.second.get(), bytes.data(), bytes.size(), 0) > 0);
  while (heard < kThreads) std::this_thread::yield();
  link.second.reset();
  for (std::thread& thread : threads) thread.join();
  CHECK(heard == kThreads);
  CHECK(ended == kThreads);
}

TEST_CASE("a delivery that is taken away is told to one thread", "[unit][inbox]") {
  const bool shared = GENERATE(false, true);
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), shared);
  const std::string bytes = frame_of(7, 10) + encode_frame(FrameType::revoke, 5, "") +
                            flush_frame(1) + encode_frame(FrameType::revoke, 6, "") +
                            frame_of(8, 10);
  REQUIRE(::send(link.second.get(), bytes.data(), bytes.size(), 0) > 0);
  std::vector<Inbox::Lease> leases;
  Inbox::Flushes flushes;
  const auto take = [&](Inbox::Next what, std::uint64_t sequence) {
    REQUIRE(inbox.next(leases, 0, flushes) == what);
    REQUIRE(leases.size() == 1);
    CHECK(sequence_of(leases.front()) == sequence);
    inbox.release(leases.front());
  };
  take(Inbox::Next::deliveries, 7);
  CHECK_FALSE(inbox.has_next());  // not a delivery
  take(Inbox::Next::revoke, 5);
  REQUIRE(inbox.next(leases, 0, flushes) == Inbox::Next::flush);
  take(Inbox::Next::revoke, 6);
  take(Inbox::Next::deliveries, 8);
}

TEST_CASE("a body in shared memory is found by the delivery that names it", "[unit][inbox]") {
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), false);
  auto memory = make_shared_memory("test", 50'000);
  REQUIRE(memory);
  REQUIRE(::pwrite(memory->get(), "large", 5, 0) == 5);
  // As a consumer sends it: the descriptor with the frame that names it.
  struct {
    FrameHead head{sizeof(FrameHead) + sizeof(SegmentHead), FrameType::segment, 0, 9};
    SegmentHead segment{50'000};
  } frame;
  REQUIRE(send_with_fd(link.second.get(), &frame, sizeof frame, memory->get()) ==
          static_cast<ssize_t>(sizeof frame));
  DeliveryView view;
  view.segment = 9;
  ByteBuffer delivery;
  encode_delivery(view, 5, delivery);
  for (int i = 0; i < 2; ++i) {  // the second time it is known
    REQUIRE(::send(link.second.get(), delivery.data(), delivery.size(), 0) > 0);
    Inbox::Lease lease;
    REQUIRE(next(inbox, lease));
    const auto got = decode_delivery(lease.frame);
    REQUIRE(got);
    CHECK(got->segment == 9);
    CHECK(got->segment_body_size == 5);
    CHECK(std::string(lease.body, 5) == "large");
    inbox.release(lease);
  }
  const std::string forget = encode_frame(FrameType::forget, 9, "") + frame_of(3, 4);
  REQUIRE(::send(link.second.get(), forget.data(), forget.size(), 0) > 0);
  Inbox::Lease lease;
  REQUIRE(next(inbox, lease));
  CHECK(lease.body == nullptr);
  inbox.release(lease);
}

TEST_CASE("an idle thread takes what comes while another holds its frame", "[unit][inbox]") {
  FdPair link = stream_pair();
  Inbox inbox(link.first.get(), true);
  const std::string first = frame_of(1, 50);
  const std::string second = frame_of(2, 50);
  Inbox::Lease held;
  REQUIRE(::send(link.second.get(), first.data(), first.size(), 0) > 0);
  REQUIRE(next(inbox, held));
  std::string other;
  std::thread idle([&] {
    Inbox::Lease lease;
    if (!next(inbox, lease)) return;
    other = text_of(lease);
    inbox.release(lease);
  });
  REQUIRE(::send(link.second.get(), second.data(), second.size(), 0) > 0);
  idle.join();
  CHECK(other == second);
  CHECK(text_of(held) == first);
  inbox.release(held);
}

}  // namespace lope::worker
