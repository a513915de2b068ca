// The host's function table, called as a handler calls it.
#include "worker/host.h"

#include <sys/socket.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"

namespace lope::worker {

namespace {

lope_str str(std::string_view text) { return {text.data(), text.size()}; }
std::string text_of(lope_str text) {
  return text.data == nullptr ? "" : std::string(text.data, text.size);
}

constexpr lope_option kOptions[] = {{"colour", "red", "", LOPE_TEXT, 0, {nullptr, nullptr}},
                                    {"size", nullptr, "", LOPE_INT64, 0, {nullptr, nullptr}},
                                    {"empty", "", "", LOPE_TEXT, 0, {nullptr, nullptr}},
                                    {nullptr, nullptr, nullptr, 0, 0, {nullptr, nullptr}}};

// A worker's surroundings around one host.
struct Fixture {
  Fixture() : board(new_board()), pair(new_pair()), link(pair.first.get(), wake_fd()) {
    settings.group = "orders";
    settings.worker_index = 3;
    settings.options = {{"size", "12"}, {"db.host", "here"}};
    settings.options_json = R"({"size":12,"db":{"host":"here"}})";
    settings.log_level = LogLevel::info;
    table.struct_size = sizeof(lope_plugin);
    table.name = "test";
    table.version = "1";
    table.options = kOptions;
    plugin.table = &table;
    host.emplace(settings, plugin, 5, *board, link, held);
    api = host->table();
    message.message.struct_size = sizeof(lope_message);
    message.message.host_data = &message;
    message.sequence = message.message.id = 77;
  }

  BoardMapping<WorkerBoard> new_board() {
    auto made = BoardMapping<WorkerBoard>::create("test", board_fd);
    REQUIRE(made);
    return std::move(*made);
  }
  FdPair new_pair() {
    auto made = make_stream_pair();
    REQUIRE(made);
    return std::move(*made);
  }
  int wake_fd() {
    auto made = make_eventfd();
    REQUIRE(made);
    wake = std::move(*made);
    return wake.get();
  }

  static std::vector<std::unique_ptr<MessageRecord>> one_record() {
    std::vector<std::unique_ptr<MessageRecord>> made;
    made.push_back(std::make_unique<MessageRecord>());
    return made;
  }

  // As the handler thread does when handle() has returned LOPE_HOLD; a record takes its place.
  const lope_message* hold() {
    records.push_back(std::make_unique<MessageRecord>());
    std::swap(records.front(), records.back());
    const lope_message* kept = &records.back()->message;
    records.back()->lease = inbox_lease();
    held.hold(std::move(records.back()), 0);
    records.pop_back();
    return kept;
  }
  // A frame in the inbox's memory.
  Inbox::Lease inbox_lease() {
    const std::string frame = encode_frame(FrameType::delivery, 77, "");
    REQUIRE(::send(pair.second.get(), frame.data(), frame.size(), 0) > 0);
    std::vector<Inbox::Lease> leases;
    Inbox::Flushes flushes;
    REQUIRE(inbox.next(leases, 0, flushes) == Inbox::Next::deliveries);
    return leases.front();
  }
  // What the consumer would read next.
  std::optional<OutcomeReader::Outcome> outcome() {
    OutcomeReader::Outcome next{};
    if (!outcomes.next(*board, next)) return std::nullopt;
    return next;
  }

  // The next frame that the worker has sent, if there is one.
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

  void with_headers() {
    HeaderWriter writer(headers);
    writer.add_scalar("int", HeaderKind::int64, static_cast<std::uint64_t>(-7));
    writer.add_scalar("uint", HeaderKind::uint64, ~0ull);
    double half = 0.5;
    std::uint64_t bits = 0;
    std::memcpy(&bits, &half, sizeof bits);
    writer.add_scalar("double", HeaderKind::real, bits);
    writer.add_scalar("bool", HeaderKind::boolean, 1);
    writer.add_text("text", HeaderKind::text, "some text");
    writer.add_text("bytes", HeaderKind::bytes, std::string_view("a\0b", 3));
    writer.add_scalar("time", HeaderKind::timestamp, 1'700'000'000);
    writer.add_scalar("null", HeaderKind::null, 0);
    writer.add_scalar("other", HeaderKind::other, 0);
    writer.add_text("text", HeaderKind::text, "a second of that name");
    message.view.headers = {headers.data(), headers.size()};
    message.message.header_count = writer.count();
  }

  WorkerSettings settings;
  lope_plugin table{};
  Plugin plugin;
  UniqueFd board_fd;
  BoardMapping<WorkerBoard> board;
  FdPair pair;
  UniqueFd wake;
  LinkWriter link;
  Inbox inbox{pair.first.get(), false};
  HeldMessages held{*board, link, inbox, 8};
  std::optional<Host> host;
  const lope_host* api = nullptr;
  std::vector<std::unique_ptr<MessageRecord>> records = one_record();
  MessageRecord& message = *records.front();
  ByteBuffer headers;
  FrameReader reader;
  OutcomeReader outcomes;
};

}  // namespace

TEST_CASE("the table says who the instance is", "[unit][host]") {
  const Fixture fixture;
  CHECK(fixture.api->struct_size == sizeof(lope_host));
  CHECK(fixture.api->abi_minor == LOPE_ABI_MINOR);
  CHECK(text_of(fixture.api->group) == "orders");
  CHECK(fixture.api->worker_index == 3);
  CHECK(fixture.api->thread_index == 5);
}

TEST_CASE("an option is what is configured, or else its default", "[unit][host]") {
  struct Row {
    const char* key;
    lope_status status;
    const char* value;
  };
  const auto row = GENERATE(values<Row>({{"size", LOPE_OK, "12"},
                                         {"db.host", LOPE_OK, "here"},
                                         {"colour", LOPE_OK, "red"},
                                         {"empty", LOPE_OK, ""},
                                         {"db", LOPE_E_NOT_FOUND, ""},
                                         {"col", LOPE_E_NOT_FOUND, ""},
                                         {"", LOPE_E_NOT_FOUND, ""}}));
  const Fixture fixture;
  INFO(row.key);
  lope_str value = str("left over");
  CHECK(fixture.api->option(fixture.api, str(row.key), &value) == row.status);
  CHECK(text_of(value) == row.value);
  CHECK(fixture.api->option(fixture.api, str(row.key), nullptr) == LOPE_E_INVALID);
}

TEST_CASE("a configured value goes before the default", "[unit][host]") {
  Fixture fixture;
  fixture.settings.options.emplace_back("colour", "blue");
  lope_str value{};
  REQUIRE(fixture.api->option(fixture.api, str("colour"), &value) == LOPE_OK);
  CHECK(text_of(value) == "blue");
}

TEST_CASE("a required option that is not there has no default", "[unit][host]") {
  Fixture fixture;
  fixture.settings.options.clear();
  lope_str value{};
  CHECK(fixture.api->option(fixture.api, str("size"), &value) == LOPE_E_NOT_FOUND);
  fixture.table.options = nullptr;
  CHECK(fixture.api->option(fixture.api, str("colour"), &value) == LOPE_E_NOT_FOUND);
}

TEST_CASE("all options are there as JSON", "[unit][host]") {
  const Fixture fixture;
  CHECK(text_of(fixture.api->options_json(fixture.api)) == R"({"size":12,"db":{"host":"here"}})");
}

TEST_CASE("clocks are the system's", "[unit][host]") {
  const Fixture fixture;
  const std::uint64_t before = monotonic_ns();
  const std::uint64_t told = fixture.api->monotonic_ns(fixture.api);
  CHECK(before <= told);
  CHECK(told <= monotonic_ns());
  const std::uint64_t unix_before = unix_ns();
  CHECK(unix_before <= fixture.api->unix_ns(fixture.api));
}

TEST_CASE("stopping is what the board says", "[unit][host]") {
  const Fixture fixture;
  CHECK(fixture.api->stopping(fixture.api) == 0);
  fixture.board->stopping = 1;
  CHECK(fixture.api->stopping(fixture.api) != 0);
}

TEST_CASE("a log line goes over the link when its level is on", "[unit][host]") {
  struct Row {
    int level;
    bool sent;
    LogLevel as;
  };
  const auto row = GENERATE(values<Row>({{LOPE_LOG_DEBUG, false, LogLevel::debug},
                                         {LOPE_LOG_INFO, true, LogLevel::info},
                                         {LOPE_LOG_WARN, true, LogLevel::warn},
                                         {LOPE_LOG_ERROR, true, LogLevel::error},
                                         {99, true, LogLevel::error},
                                         {-5, false, LogLevel::debug}}));
  Fixture fixture;
  INFO(row.level);
  CHECK((fixture.api->log_enabled(fixture.api, row.level) != 0) == row.sent);
  fixture.api->log(fixture.api, row.level, str("a line"));
  const auto frame = fixture.sent();
  REQUIRE(frame.has_value() == row.sent);
  if (!frame) return;
  CHECK(frame->first.type == FrameType::log);
  LogHead head{};
  REQUIRE(frame->second.size() >= sizeof head);
  std::memcpy(&head, frame->second.data(), sizeof head);
  CHECK(head.level == static_cast<std::uint32_t>(row.as));
  CHECK(frame->second.substr(sizeof head) == "a line");
}

TEST_CASE("an endless log line is cut", "[unit][host]") {
  Fixture fixture;
  const std::string text(100'000, 'x');
  std::thread handler_thread(
      [&] { fixture.api->log(fixture.api, LOPE_LOG_ERROR, str(text)); });  // [any-thread]
  handler_thread.join();
  const auto frame = fixture.sent();
  REQUIRE(frame);
  CHECK(frame->second.size() < 20'000);
  CHECK(frame->second.size() > 10'000);
}

TEST_CASE("a header is found by its name, with its kind", "[unit][host]") {
  Fixture fixture;
  fixture.with_headers();
  fixture.host->set_current(fixture.records);
  const auto get = [&](const char* name) {
    lope_value value{};
    const lope_status status =
        fixture.api->header_get(fixture.api, &fixture.message.message, str(name), &value);
    INFO(name);
    CHECK(status == LOPE_OK);
    return value;
  };
  CHECK(get("int").kind == LOPE_INT64);
  CHECK(get("int").as.i == -7);
  CHECK(get("uint").kind == LOPE_UINT64);
  CHECK(get("uint").as.u == ~0ull);
  CHECK(get("double").kind == LOPE_DOUBLE);
  CHECK(get("double").as.d == 0.5);
  CHECK(get("bool").kind == LOPE_BOOL);
  CHECK(get("bool").as.i == 1);
  CHECK(get("text").kind == LOPE_TEXT);
  CHECK(text_of(get("text").as.s) == "some text");  // the first of two
  CHECK(get("bytes").kind == LOPE_BYTES);
  CHECK(text_of(get("bytes").as.s) == std::string("a\0b", 3));
  CHECK(get("time").kind == LOPE_TIMESTAMP);
  CHECK(get("time").as.u == 1'700'000'000);
  CHECK(get("null").kind == LOPE_NULL);
  CHECK(get("other").kind == LOPE_OTHER);

  lope_value value{};
  value.kind = 77;
  CHECK(fixture.api->header_get(fixture.api, &fixture.message.message, str("none"), &value) ==
        LOPE_E_NOT_FOUND);
  CHECK(value.kind == 0);
  CHECK(fixture.api->header_get(fixture.api, &fixture.message.message, str("int"), nullptr) ==
        LOPE_E_INVALID);
}

TEST_CASE("headers are listed in their order, to the last", "[unit][host]") {
  Fixture fixture;
  fixture.with_headers();
  fixture.host->set_current(fixture.records);
  std::vector<std::string> names;
  lope_header header{};
  while (fixture.api->header_at(fixture.api, &fixture.message.message,
                                static_cast<uint32_t>(names.size()), &header) == LOPE_OK) {
    names.push_back(text_of(header.name));
  }
  CHECK(names == std::vector<std::string>{"int", "uint", "double", "bool", "text", "bytes", "time",
                                          "null", "other", "text"});
  CHECK(names.size() == fixture.message.message.header_count);
  CHECK(fixture.api->header_at(fixture.api, &fixture.message.message, 10, &header) ==
        LOPE_E_NOT_FOUND);
  CHECK(fixture.api->header_at(fixture.api, &fixture.message.message, ~0u, &header) ==
        LOPE_E_NOT_FOUND);
  CHECK(fixture.api->header_at(fixture.api, &fixture.message.message, 0, nullptr) ==
        LOPE_E_INVALID);
}

TEST_CASE("a message is only its own thread's, and only during its call", "[unit][host]") {
  Fixture fixture;
  fixture.with_headers();
  lope_value value{};
  lope_header header{};
  lope_message copy{};
  const auto statuses = [&](const lope_message* about) {
    return std::vector<lope_status>{fixture.api->header_get(fixture.api, about, str("int"), &value),
                                    fixture.api->header_at(fixture.api, about, 0, &header),
                                    fixture.api->explain(fixture.api, about, str("why"))};
  };
  const std::vector<lope_status> all_wrong(3, LOPE_E_WRONG_THREAD);
  const std::vector<lope_status> all_right(3, LOPE_OK);

  CHECK(statuses(&fixture.message.message) == all_wrong);  // no call is running
  fixture.host->set_current(fixture.records);
  CHECK(statuses(&fixture.message.message) == all_right);
  copy = fixture.message.message;
  CHECK(statuses(&copy) == all_wrong);  // not the message of the call
  std::vector<lope_status> elsewhere;
  std::thread([&] { elsewhere = statuses(&fixture.message.message); }).join();
  CHECK(elsewhere == all_wrong);
  fixture.host->set_current({});
  CHECK(statuses(&fixture.message.message) == all_wrong);
}

TEST_CASE("the last explanation counts, and is cut", "[unit][host]") {
  Fixture fixture;
  fixture.host->set_current(fixture.records);
  const lope_message* about = &fixture.message.message;
  CHECK(fixture.api->explain(fixture.api, about, str("first")) == LOPE_OK);
  CHECK(fixture.api->explain(fixture.api, about, str("second")) == LOPE_OK);
  CHECK(fixture.message.explanation == "second");
  const std::string endless(1'000'000, 'x');
  CHECK(fixture.api->explain(fixture.api, about, str(endless)) == LOPE_OK);
  CHECK(fixture.message.explanation.size() == 1024);
  CHECK(fixture.api->explain(fixture.api, about, {nullptr, 0}) == LOPE_OK);
  CHECK(fixture.message.explanation.empty());
  CHECK_FALSE(fixture.sent());  // it goes with the outcome, not before
}

TEST_CASE("without a message an explanation is create()'s, on its thread", "[unit][host]") {
  Fixture fixture;
  CHECK(fixture.api->explain(fixture.api, nullptr, str("no database")) == LOPE_OK);
  CHECK(fixture.host->create_explanation() == "no database");
  lope_status elsewhere = LOPE_OK;
  std::thread([&] { elsewhere = fixture.api->explain(fixture.api, nullptr, str("other")); }).join();
  CHECK(elsewhere == LOPE_E_WRONG_THREAD);
  CHECK(fixture.host->create_explanation() == "no database");
}

TEST_CASE("a held message is settled once, from any thread", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  const lope_message* kept = fixture.hold();
  const auto held = fixture.outcome();
  REQUIRE(held);
  CHECK(held->sequence == 77);
  CHECK(held->flags == kHeld);
  CHECK(api->settle(api, 77, LOPE_HOLD) == LOPE_E_INVALID);
  CHECK(api->settle(api, 77, LOPE_NO_OUTCOME) == LOPE_E_INVALID);
  lope_status first = LOPE_E_FAILED;
  std::thread([&] {
    CHECK(api->explain(api, kept, str("why")) == LOPE_OK);
    first = api->settle(api, 77, LOPE_REJECT);
  }).join();
  CHECK(first == LOPE_OK);
  const auto explained = fixture.sent();
  REQUIRE(explained);
  CHECK(explained->first.type == FrameType::explain);
  CHECK(explained->second.substr(sizeof(ExplainHead)) == "why");
  const auto settled = fixture.outcome();
  REQUIRE(settled);
  CHECK(settled->sequence == 77);
  CHECK(settled->outcome == LOPE_REJECT);
  CHECK(settled->flags == (kSettled | kExplained));

  CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_E_STALE);
  const auto logged = fixture.sent();
  REQUIRE(logged);
  CHECK(logged->first.type == FrameType::log);
  CHECK(logged->second.find("settle() of message 77, which is settled already") !=
        std::string::npos);
  CHECK_FALSE(fixture.outcome());
}

TEST_CASE("settling what was never held is stale", "[unit][host]") {
  Fixture fixture;
  CHECK(fixture.api->settle(fixture.api, 5, LOPE_ACK) == LOPE_E_STALE);
  CHECK(fixture.sent());
  CHECK_FALSE(fixture.outcome());
}

TEST_CASE("another thread may settle before the handler has returned LOPE_HOLD", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  WorkerBoard::Slot& slot = fixture.board->slots[2];
  slot.last = 80;
  slot.sequence = 70;  // a batch, 77 in its middle
  CHECK(api->settle(api, 77, LOPE_RETRY) == LOPE_OK);
  CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_E_STALE);
  CHECK_FALSE(fixture.outcome());
  SECTION("and it does return it") {
    fixture.hold();
    const auto held = fixture.outcome();
    REQUIRE(held);
    CHECK(held->flags == kHeld);
    const auto settled = fixture.outcome();
    REQUIRE(settled);
    CHECK(settled->outcome == LOPE_RETRY);
    CHECK(settled->flags == kSettled);
  }
  SECTION("but it returns another outcome, which counts") {
    slot.sequence = 0;
    fixture.held.call_ended(70, 80);
    CHECK_FALSE(fixture.outcome());
    CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_E_STALE);
  }
}

TEST_CASE("what was handed back at a drain is stale, and readable until then", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  const lope_message* kept = fixture.hold();
  REQUIRE(fixture.outcome());
  CHECK(fixture.held.count(0) == 1);
  fixture.held.hand_back(0);
  const auto flushed = fixture.outcome();
  REQUIRE(flushed);
  CHECK(flushed->flags == kFlushed);
  CHECK(kept->id == 77);
  CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_E_STALE);
  CHECK(fixture.held.count(0) == 0);
  CHECK_FALSE(fixture.outcome());
}

TEST_CASE("what this version does not carry out says so", "[unit][host]") {
  Fixture fixture;
  fixture.host->set_current(fixture.records);
  const lope_host* api = fixture.api;
  std::uint32_t id = 0;
  CHECK(api->metric_register(api, LOPE_COUNTER, str("a"), str("b"), &id) == LOPE_E_UNSUPPORTED);
  CHECK(api->metric_record(api, 1, 1) == LOPE_E_UNSUPPORTED);
  CHECK(api->extension(api, "lope.x/1") == nullptr);
  CHECK(api->extension(api, nullptr) == nullptr);
}

TEST_CASE("behind the table's end there are 32 functions that say unsupported", "[unit][host]") {
  const Fixture fixture;
  using Function = lope_status (*)(const lope_host*, const void*, lope_str, std::uint64_t);
  const auto* behind = reinterpret_cast<const unsigned char*>(fixture.api) + sizeof(lope_host);
  for (int i = 0; i < 32; ++i) {
    Function function = nullptr;
    std::memcpy(&function, behind + static_cast<std::size_t>(i) * sizeof function, sizeof function);
    REQUIRE(function != nullptr);
    CHECK(function(fixture.api, nullptr, str("text"), 42) == LOPE_E_UNSUPPORTED);
  }
}

TEST_CASE("what several threads send does not mix", "[unit][host]") {
  Fixture fixture;
  constexpr int kThreads = 4;
  constexpr int kLines = 300;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kLines; ++i) {
        fixture.link.send_explanation(
            static_cast<std::uint64_t>(t) * kLines + static_cast<std::uint64_t>(i), kByPolicy,
            std::string(static_cast<std::size_t>(i), static_cast<char>('a' + t)));
      }
    });
  }
  int received = 0;
  REQUIRE(set_nonblocking(fixture.pair.second.get(), false));
  while (received < kThreads * kLines) {
    const auto frame = fixture.reader.next();
    REQUIRE(frame);
    if (!frame->has_value()) {
      const auto read = fixture.reader.read(fixture.pair.second.get());
      REQUIRE(read);
      REQUIRE(*read == FrameReader::Status::data);
      continue;
    }
    ++received;
    const FrameReader::Frame& got = **frame;
    const auto thread = static_cast<char>('a' + got.head.sequence / kLines);
    if (got.payload.substr(sizeof(ExplainHead)) !=
        std::string(got.head.sequence % kLines, thread)) FAIL("a damaged frame");
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(received == kThreads * kLines);
}

TEST_CASE("a link that nobody reads any more ends no worker", "[unit][host]") {
  Fixture fixture;
  fixture.pair.second.reset();
  fixture.api->log(fixture.api, LOPE_LOG_ERROR, str("into the void"));  // no SIGPIPE
  fixture.link.wake();
  std::uint64_t count = 0;
  CHECK(::read(fixture.wake.get(), &count, sizeof count) == sizeof count);
  CHECK(count == 1);
}

}  // namespace lope::worker
