// The loop around one handler instance, with this test as its consumer.
#include "worker/handler_thread.h"

#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/content_encoding.h"
#include "common/fd.h"

namespace lope::worker {

namespace {

// What the handler saw of its slot.
struct Seen {
  const WorkerBoard* board = nullptr;
  const lope_host* host = nullptr;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> started_and_alive;

  void look() {
    const WorkerBoard::Slot& slot = board->slots[0];
    started_and_alive.emplace_back(slot.started_ns, slot.alive_ns);
  }
};
Seen seen;

lope_status create(const lope_host* host, lope_handler**) noexcept {
  seen.host = host;
  return LOPE_OK;
}

// Publishes its body, and does as it says.
lope_outcome handle(lope_handler*, const lope_message* message) noexcept {
  seen.look();
  lope_publication publication{};
  publication.struct_size = sizeof publication;
  publication.body = message->body;
  if (seen.host->publish(seen.host, message, &publication) != LOPE_OK) return 77;
  const std::string_view body(static_cast<const char*>(message->body.data), message->body.size);
  if (body == "hold") return LOPE_HOLD;
  if (body == "retry") {
    seen.host->retry_after(seen.host, message, 1234);
    return LOPE_RETRY;
  }
  return LOPE_ACK;
}

lope_status flush(lope_handler*, std::uint32_t) noexcept {
  seen.look();
  return LOPE_OK;
}

struct Worker {
  Worker() {
    auto sockets = make_stream_pair();
    REQUIRE(sockets);
    pair = std::move(*sockets);
    auto event = make_eventfd();
    REQUIRE(event);
    wake = std::move(*event);
    auto memory = BoardMapping<WorkerBoard>::create("test", board_fd);
    REQUIRE(memory);
    board = std::move(*memory);
    table.struct_size = sizeof table;
    table.create = create;
    table.handle = handle;
    table.flush = flush;
    seen = {&*board, nullptr, {}};
  }

  void give(std::uint64_t sequence, std::string_view body, std::string_view encoding = {},
            std::uint16_t batch = 0) {
    ByteBuffer frame;
    DeliveryView view;
    view[TextProperty::content_encoding] = encoding;
    char* to = encode_delivery(view, body.size(), frame);
    body.copy(to, body.size());
    set_sequence(frame, sequence, batch);
    frames.append(frame.data(), frame.size());
  }
  // All that was given, to the end of the link.
  void run() {
    REQUIRE(::send(pair.second.get(), frames.data(), frames.size(), 0) ==
            static_cast<ssize_t>(frames.size()));
    REQUIRE(::shutdown(pair.second.get(), SHUT_WR) == 0);
    LinkWriter link(pair.first.get(), wake.get());
    Inbox inbox(pair.first.get(), false);
    HeldMessages held(*board, link, inbox, 1);
    const Plugin plugin{&table, "test"};
    HandlerThread thread(settings, plugin, 0, *board, link, inbox, held);
    REQUIRE(thread.create().status == LOPE_OK);
    thread.run();
  }
  std::optional<OutcomeReader::Outcome> outcome() {
    OutcomeReader::Outcome next{};
    if (!outcomes.next(*board, next)) return std::nullopt;
    return next;
  }
  std::optional<std::pair<FrameHead, std::string>> sent() {
    REQUIRE(set_nonblocking(pair.second.get(), true));
    while (true) {
      const auto frame = reader.next();
      REQUIRE(frame);
      if (frame->has_value()) return std::pair{(**frame).head, std::string((**frame).payload)};
      const auto read = reader.read(pair.second.get());
      REQUIRE(read);
      if (*read != FrameReader::Status::data) return std::nullopt;
    }
  }

  WorkerSettings settings;
  lope_plugin table{};
  FdPair pair;
  UniqueFd wake, board_fd;
  BoardMapping<WorkerBoard> board;
  std::string frames;
  FrameReader reader;
  OutcomeReader outcomes;
};

}  // namespace

TEST_CASE("a thread says in its slot which it is", "[unit][handler_thread]") {
  Worker worker;
  CHECK(worker.board->slots[0].tid == 0);
  pid_t tid = 0;
  std::thread([&] {
    worker.run();
    tid = ::gettid();
  }).join();
  CHECK(tid != ::gettid());
  CHECK(worker.board->slots[0].tid == tid);
}

TEST_CASE("an ack brings its publications along, another outcome its delay",
          "[unit][handler_thread]") {
  Worker worker;
  worker.give(1, "first");
  worker.give(2, "retry");
  worker.give(3, "third");
  worker.run();

  const auto first = worker.outcome();
  REQUIRE(first);
  CHECK(first->outcome == LOPE_ACK);
  CHECK(first->flags == 1u << kPublicationsShift);
  const auto second = worker.outcome();
  REQUIRE(second);
  CHECK(second->outcome == LOPE_RETRY);
  CHECK(second->flags == kExplained);
  const auto third = worker.outcome();
  REQUIRE(third);
  CHECK(third->flags == 1u << kPublicationsShift);

  for (const auto& [sequence, type] :
       {std::pair{1u, FrameType::publish}, {2u, FrameType::explain}, {3u, FrameType::publish}}) {
    const auto frame = worker.sent();
    REQUIRE(frame);
    CHECK(frame->first.sequence == sequence);
    CHECK(frame->first.type == type);
  }
  CHECK_FALSE(worker.sent());
}

TEST_CASE("what no handler may see is told of, and the others of its batch are handled",
          "[unit][handler_thread]") {
  Worker worker;
  worker.settings.content.decode = true;
  worker.settings.content.max_decoded_bytes = 1000;
  ByteBuffer good, large;
  compress_body("gzip", "hello", good);
  compress_body("gzip", std::string(1001, 'x'), large);
  worker.give(1, "damaged", "gzip", 4);
  worker.give(2, {good.data(), good.size()}, "gzip");
  worker.give(3, {large.data(), large.size()}, "gzip");
  worker.give(4, "plain");
  worker.give(5, "damaged", "gzip");  // alone: no call at all
  worker.run();

  struct Expected {
    std::uint64_t sequence;
    std::int32_t outcome;
    std::uint32_t flags;
  };
  const auto refusal = [](Refusal why) { return static_cast<std::int32_t>(why); };
  const Expected expected[] = {{1, refusal(Refusal::encoding), kRefused | kExplained},
                               {3, refusal(Refusal::too_large), kRefused | kExplained},
                               {2, LOPE_ACK, 1u << kPublicationsShift},
                               {4, LOPE_ACK, 1u << kPublicationsShift},
                               {5, refusal(Refusal::encoding), kRefused | kExplained}};
  for (const Expected& each : expected) {
    const auto outcome = worker.outcome();
    REQUIRE(outcome);
    CHECK(outcome->sequence == each.sequence);
    CHECK(outcome->outcome == each.outcome);
    CHECK(outcome->flags == each.flags);
  }
  CHECK_FALSE(worker.outcome());
  CHECK(seen.started_and_alive.size() == 2);
  std::vector<std::string> published, explained;
  while (const auto frame = worker.sent()) {
    if (frame->first.type == FrameType::publish) {
      published.emplace_back(decode_publication(frame->second)->body);
    } else {
      explained.push_back(frame->second.substr(sizeof(ExplainHead)));
    }
  }
  CHECK(published == std::vector<std::string>{"hello", "plain"});
  CHECK(explained == std::vector<std::string>{"expected gzip data, found incorrect header check",
                                              "it unpacks to more than 1000 bytes",
                                              "expected gzip data, found incorrect header check"});
}

TEST_CASE("what is published is compressed where that makes it smaller", "[unit][handler_thread]") {
  Worker worker;
  worker.settings.content.compress = "zstd";
  worker.settings.content.compress_min_bytes = 100;
  const std::string bodies[] = {std::string(100, 'x'), std::string(99, 'x')};
  worker.give(1, bodies[0]);
  worker.give(2, bodies[1]);
  worker.run();
  const auto first = worker.sent();
  REQUIRE(first);
  const auto small = decode_publication(first->second);
  REQUIRE(small);
  CHECK((*small)[TextProperty::content_encoding] == "zstd");
  ByteBuffer plain;
  CHECK_FALSE(decode_body(small->body, {Encoding::zstd}, 1000, plain));
  CHECK(std::string_view(plain.data(), plain.size()) == bodies[0]);
  const auto second = worker.sent();
  REQUIRE(second);
  CHECK((*decode_publication(second->second))[TextProperty::content_encoding] == "");
  CHECK(decode_publication(second->second)->body == bodies[1]);
}

TEST_CASE("a held message that its consumer takes away is reported", "[unit][handler_thread]") {
  Worker worker;
  worker.give(1, "hold");
  worker.frames += encode_frame(FrameType::revoke, 1, "");
  worker.run();
  const auto held = worker.outcome();
  REQUIRE(held);
  CHECK(held->flags == kHeld);
  const auto revoked = worker.outcome();
  REQUIRE(revoked);
  CHECK(revoked->sequence == 1);
  CHECK(revoked->flags == (kSettled | kRevoked));
  CHECK_FALSE(worker.outcome());
  CHECK_FALSE(worker.sent());
}

TEST_CASE("a call and a flush are alive from their beginning", "[unit][handler_thread]") {
  Worker worker;
  const std::uint64_t before = monotonic_ns();
  worker.give(1, "first");
  worker.frames +=
      encode_frame(FrameType::flush, static_cast<std::uint64_t>(FlushReason::window_full), "");
  worker.run();
  REQUIRE(seen.started_and_alive.size() == 2);
  for (const auto& [started, alive] : seen.started_and_alive) {
    CHECK(started >= before);
    CHECK(alive == started);
  }
  CHECK(worker.board->slots[0].started_ns == 0);
}

}  // namespace lope::worker
