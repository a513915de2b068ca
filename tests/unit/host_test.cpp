// The host's function table, called as a handler calls it.
#include "worker/host.h"

#include <sys/socket.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "worker/publications.h"

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

lope_publication a_publication(std::string_view body) {
  lope_publication publication{};
  publication.struct_size = sizeof publication;
  publication.body = {body.data(), body.size()};
  return publication;
}

// All are text.
std::map<std::string, std::string> headers_of(const PublicationView& publication) {
  std::map<std::string, std::string> headers;
  std::string_view left = publication.headers;
  while (const auto header = next_header(left)) headers[std::string(header->name)] = header->value;
  return headers;
}

// A worker's surroundings around one host.
struct Fixture {
  Fixture() : board(new_board()), pair(new_pair()), link(pair.first.get(), wake_fd()) {
    settings.group = "orders";
    settings.worker_index = 3;
    settings.options = {{"size", "12"}, {"db.host", "here"}};
    settings.options_json = R"({"size":12,"db":{"host":"here"}})";
    board->log_level.store(static_cast<std::uint32_t>(LogLevel::info));
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

  // What the message of the call has published so far, still unsent.
  std::vector<PublicationView> kept() {
    std::vector<PublicationView> views;
    std::string_view left(message.publications.data(), message.publications.size());
    while (!left.empty()) {
      FrameHead head;
      REQUIRE(left.size() >= sizeof head);
      std::memcpy(&head, left.data(), sizeof head);
      CHECK(head.type == FrameType::publish);
      CHECK(head.sequence == message.sequence);
      REQUIRE(left.size() >= head.size);
      const auto view = decode_publication(left.substr(sizeof head, head.size - sizeof head));
      REQUIRE(view);
      views.push_back(*view);
      left.remove_prefix(head.size);
    }
    CHECK(views.size() == message.publication_count);
    return views;
  }
  lope_status publish(const lope_publication& publication) {
    host->set_current(records);
    return api->publish(api, &message.message, &publication);
  }
  lope_status reply(const lope_publication& publication) {
    host->set_current(records);
    return api->reply(api, &message.message, &publication);
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

TEST_CASE("a publication is completed and kept", "[unit][host][publish]") {
  Fixture fixture;
  fixture.message.view[TextProperty::message_id] = "the cause";
  lope_publication publication = a_publication("a body");
  publication.exchange = str("exchange");
  publication.routing_key = str("key");
  publication.content_type = str("text/plain");
  publication.content_encoding = str("gzip");
  publication.correlation_id = str("correlation");
  publication.reply_to = str("back");
  publication.type = str("kind");
  publication.flags = LOPE_PUB_TRANSIENT;
  publication.expiration_ms = 5000;
  publication.priority = 255;
  const std::uint64_t now = unix_ns() / 1'000'000'000;
  REQUIRE(fixture.publish(publication) == LOPE_OK);
  publication = a_publication("");
  publication.message_id = str("my own");
  REQUIRE(fixture.publish(publication) == LOPE_OK);
  CHECK_FALSE(fixture.sent());

  const auto kept = fixture.kept();
  REQUIRE(kept.size() == 2);
  const PublicationView& first = kept[0];
  CHECK(first.body == "a body");
  CHECK(first[TextProperty::exchange] == "exchange");
  CHECK(first[TextProperty::routing_key] == "key");
  CHECK(first[TextProperty::content_type] == "text/plain");
  CHECK(first[TextProperty::content_encoding] == "gzip");
  CHECK(first[TextProperty::correlation_id] == "correlation");
  CHECK(first[TextProperty::reply_to] == "back");
  CHECK(first[TextProperty::type] == "kind");
  CHECK(first[TextProperty::message_id].size() == 36);
  CHECK(first.flags == kPublicationTransient);
  CHECK(first.expiration_ms == 5000);
  CHECK(first.priority == 255);
  CHECK(first.timestamp >= now);
  CHECK(first.timestamp <= now + 60);
  CHECK(first.due_unix_ms == 0);
  CHECK(headers_of(first) == std::map<std::string, std::string>{{"x-lope-parent-id", "the cause"},
                                                                {"x-lope-trace-id", "the cause"}});
  CHECK(kept[1].body.empty());
  CHECK(kept[1][TextProperty::message_id] == "my own");
}

TEST_CASE("a publication's headers of every kind arrive as they are", "[unit][host][publish]") {
  Fixture fixture;
  lope_header headers[8] = {};
  const auto set = [&headers](int at, const char* name, std::int32_t kind) -> lope_value& {
    headers[at].name = str(name);
    headers[at].value.kind = kind;
    return headers[at].value;
  };
  set(0, "int", LOPE_INT64).as.i = -7;
  set(1, "uint", LOPE_UINT64).as.u = INT64_MAX;
  set(2, "double", LOPE_DOUBLE).as.d = 0.5;
  set(3, "bool", LOPE_BOOL).as.i = 77;
  set(4, "text", LOPE_TEXT).as.s = str("some text");
  set(5, "bytes", LOPE_BYTES).as.s = str(std::string_view("a\0b", 3));
  set(6, "time", LOPE_TIMESTAMP).as.u = 1'700'000'000;
  set(7, "null", LOPE_NULL);
  lope_publication publication = a_publication("");
  publication.headers = headers;
  publication.header_count = 8;
  REQUIRE(fixture.publish(publication) == LOPE_OK);

  // Back through the host, as those of a message.
  const auto kept = fixture.kept();
  CHECK(kept[0].header_count == 8);
  fixture.message.view.headers = kept[0].headers;
  const auto get = [&](const char* name) {
    lope_value value{};
    CHECK(fixture.api->header_get(fixture.api, &fixture.message.message, str(name), &value) ==
          LOPE_OK);
    return value;
  };
  CHECK(get("int").as.i == -7);
  CHECK(get("uint").as.u == INT64_MAX);
  CHECK(get("double").as.d == 0.5);
  CHECK(get("bool").as.i == 1);
  CHECK(text_of(get("text").as.s) == "some text");
  CHECK(get("bytes").kind == LOPE_BYTES);
  CHECK(text_of(get("bytes").as.s) == std::string("a\0b", 3));
  CHECK(get("time").kind == LOPE_TIMESTAMP);
  CHECK(get("time").as.u == 1'700'000'000);
  CHECK(get("null").kind == LOPE_NULL);
}

TEST_CASE("a publication that is not right is refused, and nothing is kept",
          "[unit][host][publish]") {
  struct Row {
    const char* what;
    lope_status status;
    void (*change)(lope_publication&, lope_header&);
  };
  static const std::string k255(255, 'x');
  static const std::string k256(256, 'x');
  static const std::string k127K(kMaxPropertyBytes, 'x');
  using P = lope_publication;
  using H = lope_header;
  const auto row = GENERATE(values<Row>({
      {"as it is", LOPE_OK, [](P&, H&) {}},
      {"too small", LOPE_E_INVALID, [](P& p, H&) { --p.struct_size; }},
      {"no size", LOPE_E_INVALID, [](P& p, H&) { p.struct_size = 0; }},
      {"every flag", LOPE_OK, [](P& p, H&) { p.flags = 3; }},
      {"another flag", LOPE_E_UNSUPPORTED, [](P& p, H&) { p.flags = 4; }},
      {"long exchange", LOPE_OK, [](P& p, H&) { p.exchange = str(k255); }},
      {"exchange", LOPE_E_INVALID, [](P& p, H&) { p.exchange = str(k256); }},
      {"routing key", LOPE_E_INVALID, [](P& p, H&) { p.routing_key = str(k256); }},
      {"content type", LOPE_E_INVALID, [](P& p, H&) { p.content_type = str(k256); }},
      {"content encoding", LOPE_E_INVALID, [](P& p, H&) { p.content_encoding = str(k256); }},
      {"correlation id", LOPE_E_INVALID, [](P& p, H&) { p.correlation_id = str(k256); }},
      {"reply to", LOPE_E_INVALID, [](P& p, H&) { p.reply_to = str(k256); }},
      {"message id", LOPE_E_INVALID, [](P& p, H&) { p.message_id = str(k256); }},
      {"type", LOPE_E_INVALID, [](P& p, H&) { p.type = str(k256); }},
      {"no text", LOPE_E_INVALID, [](P& p, H&) { p.type = {nullptr, 1}; }},
      {"no body", LOPE_E_INVALID, [](P& p, H&) { p.body = {nullptr, 1}; }},
      {"priority", LOPE_E_INVALID, [](P& p, H&) { p.priority = 256; }},
      {"no headers", LOPE_E_INVALID, [](P& p, H&) { p.headers = nullptr; }},
      {"long name", LOPE_OK, [](P&, H& h) { h.name = str(k255); }},
      {"longer name", LOPE_E_INVALID, [](P&, H& h) { h.name = str(k256); }},
      {"empty name", LOPE_E_INVALID, [](P&, H& h) { h.name = {}; }},
      {"CC", LOPE_E_INVALID, [](P&, H& h) { h.name = str("CC"); }},
      {"BCC", LOPE_E_INVALID, [](P&, H& h) { h.name = str("BCC"); }},
      {"cc", LOPE_OK, [](P&, H& h) { h.name = str("cc"); }},
      {"no value", LOPE_E_INVALID, [](P&, H& h) { h.value.as.s = {nullptr, 1}; }},
      {"kind 0", LOPE_E_INVALID, [](P&, H& h) { h.value.kind = 0; }},
      {"a number that the broker does not know", LOPE_E_INVALID,
       [](P&, H& h) {
         h.value.kind = LOPE_UINT64;
         h.value.as.u = std::uint64_t{INT64_MAX} + 1;
       }},
      {"other kind", LOPE_E_INVALID, [](P&, H& h) { h.value.kind = LOPE_OTHER; }},
      {"kind 10", LOPE_E_INVALID, [](P&, H& h) { h.value.kind = 10; }},
      {"kind 257", LOPE_E_INVALID, [](P&, H& h) { h.value.kind = 257; }},
      {"largest body", LOPE_OK, [](P& p, H&) { p.body = {k127K.data(), 1000}; }},
      {"body", LOPE_E_TOO_LARGE, [](P& p, H&) { p.body = {k127K.data(), 1001}; }},
      {"large header", LOPE_OK,
       [](P&, H& h) { h.value.as.s = {k127K.data(), kMaxPropertyBytes - 500}; }},
      {"header", LOPE_E_TOO_LARGE, [](P&, H& h) { h.value.as.s = str(k127K); }},
      {"endless header", LOPE_E_TOO_LARGE, [](P&, H& h) { h.value.as.s = {"x", SIZE_MAX}; }},
      {"header and properties", LOPE_E_TOO_LARGE,
       [](P& p, H& h) {
         h.value.as.s = {k127K.data(), kMaxPropertyBytes - 500};
         p.exchange = p.routing_key = p.type = str(k255);
       }},
  }));
  Fixture fixture;
  INFO(row.what);
  fixture.settings.max_message_bytes = 1000;
  fixture.message.view[TextProperty::reply_to] = "back";
  lope_header header{str("name"), {}};
  header.value.kind = LOPE_TEXT;
  header.value.as.s = str("value");
  lope_publication publication = a_publication("body");
  publication.headers = &header;
  publication.header_count = 1;
  row.change(publication, header);
  CHECK(fixture.publish(publication) == row.status);
  CHECK(fixture.kept().size() == (row.status == LOPE_OK ? 1 : 0));
  CHECK(fixture.api->publish(fixture.api, &fixture.message.message, nullptr) == LOPE_E_INVALID);
  CHECK(fixture.api->publish(fixture.api, nullptr, &publication) == LOPE_E_WRONG_THREAD);
  // A reply is held to the same, and names no destination.
  const bool has_place = publication.exchange.size > 0 || publication.routing_key.size > 0;
  if (!has_place) CHECK(fixture.reply(publication) == row.status);
}

TEST_CASE("what a newer handler asks for is refused, not left out", "[unit][host][publish]") {
  struct Newer {
    lope_publication known;
    std::uint64_t later;
  };
  Fixture fixture;
  Newer newer{a_publication("body"), 0};
  newer.known.struct_size = sizeof newer;
  CHECK(fixture.publish(newer.known) == LOPE_OK);
  newer.later = 1;
  CHECK(fixture.publish(newer.known) == LOPE_E_UNSUPPORTED);
  CHECK(fixture.kept().size() == 1);
}

TEST_CASE("bookkeeping is not passed on, whatever it holds", "[unit][host][publish]") {
  Fixture fixture;
  std::vector<lope_header> headers;
  for (const char* name : {"x-death", "x-first-death-queue", "x-last-death-reason",
                           "x-delivery-count", "x-lope-trace-id", "x-lope-later", "x-mine"}) {
    lope_header header{str(name), {}};
    header.value.kind = LOPE_OTHER;  // as an array of the broker's is shown
    headers.push_back(header);
  }
  headers.back().value.kind = LOPE_TEXT;
  headers.back().value.as.s = str("kept");
  lope_publication publication = a_publication("");
  publication.headers = headers.data();
  publication.header_count = headers.size();
  REQUIRE(fixture.publish(publication) == LOPE_OK);
  CHECK(headers_of(fixture.kept()[0]) == std::map<std::string, std::string>{{"x-mine", "kept"}});
}

TEST_CASE("a publication says where it comes from", "[unit][host][publish]") {
  using Map = std::map<std::string, std::string>;
  struct Row {
    const char* message_id;
    Map of_cause, of_handler, sent;
  };
  const auto row = GENERATE(values<Row>({
      {"", {}, {}, {}},
      {"id", {}, {}, {{"x-lope-parent-id", "id"}, {"x-lope-trace-id", "id"}}},
      {"id",
       {{"x-lope-trace-id", "first"}, {"x-lope-parent-id", "before"}},
       {},
       {{"x-lope-parent-id", "id"}, {"x-lope-trace-id", "first"}}},
      {"", {{"x-lope-trace-id", "first"}}, {}, {{"x-lope-trace-id", "first"}}},
      {"",
       {{"x-lope-id", "given"}},
       {},
       {{"x-lope-parent-id", "given"}, {"x-lope-trace-id", "given"}}},
      {"",
       {{"traceparent", "00-a"}, {"tracestate", "b"}, {"else", "c"}},
       {},
       {{"traceparent", "00-a"}, {"tracestate", "b"}}},
      {"",
       {{"traceparent", "00-a"}, {"tracestate", "b"}},
       {{"traceparent", "00-mine"}},
       {{"traceparent", "00-mine"}, {"tracestate", "b"}}},
      {"", {{"traceparent", std::string(2000, 'x')}}, {}, {}},
  }));
  Fixture fixture;
  fixture.message.view[TextProperty::message_id] = row.message_id;
  HeaderWriter writer(fixture.headers);
  for (const auto& [name, value] : row.of_cause) writer.add_text(name, HeaderKind::text, value);
  fixture.message.view.headers = {fixture.headers.data(), fixture.headers.size()};
  std::vector<lope_header> headers;
  for (const auto& [name, value] : row.of_handler) {
    lope_header& header = headers.emplace_back();
    header.name = str(name);
    header.value.kind = LOPE_TEXT;
    header.value.as.s = str(value);
  }
  lope_publication publication = a_publication("");
  publication.headers = headers.data();
  publication.header_count = headers.size();
  REQUIRE(fixture.publish(publication) == LOPE_OK);
  CHECK(headers_of(fixture.kept()[0]) == row.sent);
}

TEST_CASE("a publication is due at once or at the later of two times", "[unit][host][publish]") {
  struct Row {
    std::uint64_t delay_ms;
    std::int64_t due_from_now;  // 0: none
    std::int64_t expected_from_now;
  };
  constexpr std::int64_t kHour = 3'600'000;
  const auto row = GENERATE_COPY(values<Row>({{0, 0, 0},
                                              {0, -kHour, 0},
                                              {0, kHour, kHour},
                                              {2 * kHour, 0, 2 * kHour},
                                              {2 * kHour, kHour, 2 * kHour},
                                              {kHour, 2 * kHour, 2 * kHour},
                                              {kHour, -kHour, kHour}}));
  Fixture fixture;
  const auto now = static_cast<std::int64_t>(unix_ns() / 1'000'000);
  const auto at = [now](std::int64_t from_now) {
    return static_cast<std::uint64_t>(now + from_now);
  };
  lope_publication publication = a_publication("");
  publication.delay_ms = row.delay_ms;
  publication.due_unix_ms = row.due_from_now == 0 ? 0 : at(row.due_from_now);
  REQUIRE(fixture.publish(publication) == LOPE_OK);
  const std::uint64_t due = fixture.kept()[0].due_unix_ms;
  if (row.expected_from_now == 0) {
    CHECK(due == 0);
  } else {
    CHECK(due >= at(row.expected_from_now));
    CHECK(due <= at(row.expected_from_now + 60'000));
  }
}

TEST_CASE("an endless delay does not wrap around", "[unit][host][publish]") {
  Fixture fixture;
  lope_publication publication = a_publication("");
  publication.delay_ms = UINT64_MAX;
  REQUIRE(fixture.publish(publication) == LOPE_OK);
  CHECK(fixture.kept()[0].due_unix_ms == UINT64_MAX);
}

TEST_CASE("one message publishes no more than there is room for", "[unit][host][publish]") {
  Fixture fixture;
  const std::string body(50 << 20, 'x');
  const lope_publication publication = a_publication(body);
  SECTION("in bytes") {
    CHECK(fixture.publish(publication) == LOPE_OK);
    CHECK(fixture.publish(publication) == LOPE_OK);
    CHECK(fixture.publish(publication) == LOPE_E_TOO_LARGE);
    CHECK(fixture.publish(a_publication("small")) == LOPE_OK);
    CHECK(fixture.kept().size() == 3);
  }
  SECTION("but one as large as the broker takes") {
    const std::string largest(kMaxPublishedBytes, 'x');
    CHECK(fixture.publish(a_publication(largest)) == LOPE_OK);
    CHECK(fixture.publish(a_publication("small")) == LOPE_E_TOO_LARGE);
  }
  SECTION("in number") {
    fixture.message.publication_count = kMaxPublications;
    CHECK(fixture.publish(a_publication("small")) == LOPE_E_TOO_LARGE);
    CHECK(fixture.message.publications.size() == 0);
    fixture.message.publication_count = 0;
  }
}

TEST_CASE("a reply goes to who asked", "[unit][host][publish]") {
  Fixture fixture;
  fixture.message.view[TextProperty::reply_to] = "amq.rabbitmq.reply-to.xyz";
  fixture.message.view[TextProperty::correlation_id] = "question 5";
  lope_publication publication = a_publication("answer");
  REQUIRE(fixture.reply(publication) == LOPE_OK);
  publication.correlation_id = str("my own");
  publication.flags = LOPE_PUB_TRANSIENT;
  REQUIRE(fixture.reply(publication) == LOPE_OK);
  const auto kept = fixture.kept();
  REQUIRE(kept.size() == 2);
  CHECK(kept[0].body == "answer");
  CHECK(kept[0][TextProperty::exchange].empty());
  CHECK(kept[0][TextProperty::routing_key] == "amq.rabbitmq.reply-to.xyz");
  CHECK(kept[0][TextProperty::correlation_id] == "question 5");
  CHECK(kept[0].flags == kPublicationMayBeUnroutable);
  CHECK(kept[1][TextProperty::correlation_id] == "my own");
  CHECK(kept[1].flags == (kPublicationMayBeUnroutable | kPublicationTransient));
}

TEST_CASE("a reply that has nowhere to go, or names a place, is refused", "[unit][host][publish]") {
  Fixture fixture;
  lope_publication publication = a_publication("answer");
  CHECK(fixture.reply(publication) == LOPE_E_INVALID);  // nobody asked
  fixture.message.view[TextProperty::reply_to] = "back";
  publication.exchange = str("somewhere");
  CHECK(fixture.reply(publication) == LOPE_E_INVALID);
  publication.exchange = {};
  publication.routing_key = str("somewhere");
  CHECK(fixture.reply(publication) == LOPE_E_INVALID);
  CHECK(fixture.kept().empty());
}

TEST_CASE("publications are sent with an ack, and dropped with any other outcome",
          "[unit][host][publish]") {
  const lope_outcome outcome =
      GENERATE(as<lope_outcome>(), LOPE_ACK, LOPE_RETRY, LOPE_REJECT, LOPE_NO_OUTCOME, 77);
  Fixture fixture;
  REQUIRE(fixture.publish(a_publication("one")) == LOPE_OK);
  REQUIRE(fixture.publish(a_publication("two")) == LOPE_OK);
  const std::uint32_t flags = send_before_outcome(fixture.message, outcome, fixture.link);
  CHECK(flags == (outcome == LOPE_ACK ? 2u << kPublicationsShift : 0));
  if (outcome == LOPE_ACK) {
    for (const char* body : {"one", "two"}) {
      const auto frame = fixture.sent();
      REQUIRE(frame);
      CHECK(frame->first.type == FrameType::publish);
      CHECK(frame->first.sequence == 77);
      const auto view = decode_publication(frame->second);
      REQUIRE(view);
      CHECK(view->body == body);
    }
  }
  CHECK_FALSE(fixture.sent());
  CHECK(fixture.kept().empty());
  CHECK(send_before_outcome(fixture.message, LOPE_ACK, fixture.link) == 0);
}

TEST_CASE("the memory of publications is kept for the next, unless it is large",
          "[unit][host][publish]") {
  Fixture fixture;
  REQUIRE(fixture.publish(a_publication("small")) == LOPE_OK);
  fixture.message.drop_publications();
  CHECK(fixture.message.publications.capacity() > 0);
  const std::string body(65536, 'x');
  REQUIRE(fixture.publish(a_publication(body)) == LOPE_OK);
  fixture.message.drop_publications();
  CHECK(fixture.message.publications.capacity() == 0);
}

TEST_CASE("a delay of one retry travels with the explanation, or without one", "[unit][host]") {
  struct Row {
    std::uint64_t ms, sent_ms;
    const char* why;
  };
  const auto row = GENERATE(values<Row>(
      {{0, 0, ""}, {1500, 1500, "later"}, {UINT64_MAX, 366ull * 86'400'000, "in a year"}}));
  Fixture fixture;
  const lope_host* api = fixture.api;
  const lope_message* about = &fixture.message.message;
  CHECK(api->retry_after(api, about, row.ms) == LOPE_E_WRONG_THREAD);
  fixture.host->set_current(fixture.records);
  CHECK(api->retry_after(api, about, 5) == LOPE_OK);
  CHECK(api->retry_after(api, about, row.ms) == LOPE_OK);  // the last counts
  CHECK(api->explain(api, about, str(row.why)) == LOPE_OK);
  CHECK_FALSE(fixture.sent());
  CHECK(send_before_outcome(fixture.message, LOPE_RETRY, fixture.link) == kExplained);
  const auto frame = fixture.sent();
  REQUIRE(frame);
  CHECK(frame->first.type == FrameType::explain);
  ExplainHead head{};
  REQUIRE(frame->second.size() >= sizeof head);
  std::memcpy(&head, frame->second.data(), sizeof head);
  CHECK(head.retry_after_ms == row.sent_ms);
  CHECK(frame->second.substr(sizeof head) == row.why);
}

TEST_CASE("an explanation without a delay leaves it to the policy", "[unit][host]") {
  Fixture fixture;
  fixture.message.explanation = "why";
  CHECK(send_before_outcome(fixture.message, LOPE_ACK, fixture.link) == 0);
  CHECK_FALSE(fixture.sent());
  CHECK(send_before_outcome(fixture.message, LOPE_REJECT, fixture.link) == kExplained);
  const auto frame = fixture.sent();
  REQUIRE(frame);
  ExplainHead head{};
  std::memcpy(&head, frame->second.data(), sizeof head);
  CHECK(head.retry_after_ms == kByPolicy);
}

TEST_CASE("a call is kept alive on its thread's slot", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  const lope_message* about = &fixture.message.message;
  CHECK(api->keep_alive(api, about) == LOPE_E_WRONG_THREAD);
  CHECK(api->keep_alive(api, nullptr) == LOPE_E_WRONG_THREAD);
  CHECK(fixture.board->slots[5].alive_ns == 0);
  fixture.host->set_current(fixture.records);
  const std::uint64_t before = monotonic_ns();
  CHECK(api->keep_alive(api, about) == LOPE_OK);
  CHECK(fixture.board->slots[5].alive_ns >= before);
  CHECK_FALSE(fixture.sent());
}

TEST_CASE("a held message is kept alive over the link, and not too often", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  const lope_message* kept = fixture.hold();
  std::thread([&] {
    for (int i = 0; i < 100; ++i) CHECK(api->keep_alive(api, kept) == LOPE_OK);
  }).join();
  const auto frame = fixture.sent();
  REQUIRE(frame);
  CHECK(frame->first.type == FrameType::keep_alive);
  CHECK(frame->first.sequence == 77);
  CHECK(frame->second.empty());
  int more = 0;
  while (fixture.sent()) ++more;
  CHECK(more < 99);
  CHECK(fixture.board->slots[5].alive_ns == 0);  // no call runs

  fixture.board->slots[5].started_ns = 1;  // flush()
  CHECK(api->keep_alive(api, kept) == LOPE_OK);
  CHECK(fixture.board->slots[5].alive_ns > 0);
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
  CHECK(api->publish(api, kept, nullptr) == LOPE_E_WRONG_THREAD);

  CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_E_STALE);
  const auto logged = fixture.sent();
  REQUIRE(logged);
  CHECK(logged->first.type == FrameType::log);
  CHECK(logged->second.find("settle() of message 77, which is settled already") !=
        std::string::npos);
  CHECK_FALSE(fixture.outcome());
}

TEST_CASE("what is published for a held message is sent when it is acked",
          "[unit][host][publish]") {
  const lope_outcome outcome = GENERATE(as<lope_outcome>(), LOPE_ACK, LOPE_RETRY);
  Fixture fixture;
  const lope_host* api = fixture.api;
  REQUIRE(fixture.publish(a_publication("in its call")) == LOPE_OK);
  const lope_message* kept = fixture.hold();
  std::thread([&] {
    const lope_publication publication = a_publication("while it is held");
    CHECK(api->publish(api, kept, &publication) == LOPE_OK);
    CHECK_FALSE(fixture.sent());
    CHECK(api->settle(api, 77, outcome) == LOPE_OK);
  }).join();
  REQUIRE(fixture.outcome());
  const auto settled = fixture.outcome();
  REQUIRE(settled);
  const bool acked = outcome == LOPE_ACK;
  CHECK(settled->flags == (kSettled | (acked ? 2u << kPublicationsShift : 0)));
  for (int i = 0; i < (acked ? 2 : 0); ++i) {
    const auto frame = fixture.sent();
    REQUIRE(frame);
    CHECK(frame->first.type == FrameType::publish);
  }
  CHECK_FALSE(fixture.sent());
}

TEST_CASE("what its call published for a message that is settled early is sent",
          "[unit][host][publish]") {
  Fixture fixture;
  fixture.board->slots[2].last = fixture.board->slots[2].sequence = 77;
  REQUIRE(fixture.publish(a_publication("in its call")) == LOPE_OK);
  CHECK(fixture.api->settle(fixture.api, 77, LOPE_ACK) == LOPE_OK);
  CHECK_FALSE(fixture.sent());
  fixture.hold();
  REQUIRE(fixture.outcome());
  const auto settled = fixture.outcome();
  REQUIRE(settled);
  CHECK(settled->flags == (kSettled | 1u << kPublicationsShift));
  const auto frame = fixture.sent();
  REQUIRE(frame);
  CHECK(frame->first.type == FrameType::publish);
}

TEST_CASE("what another thread does before its call has said that it keeps the message counts",
          "[unit][host][publish]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  fixture.board->slots[2].last = fixture.board->slots[2].sequence = 77;
  REQUIRE(fixture.publish(a_publication("in its call")) == LOPE_OK);
  const lope_message* message = &fixture.message.message;
  const auto outcome = GENERATE(as<lope_outcome>{}, LOPE_ACK, LOPE_RETRY);
  CAPTURE(outcome);
  const bool settled_early = GENERATE(true, false);
  std::thread([&] {
    const lope_publication publication = a_publication("by another thread");
    CHECK(api->publish(api, message, &publication) == LOPE_OK);
    CHECK(api->explain(api, message, str("so it is")) == LOPE_OK);
    CHECK(api->retry_after(api, message, 1234) == LOPE_OK);
    if (!settled_early) return;
    CHECK(api->settle(api, 77, outcome) == LOPE_OK);
    CHECK(api->settle(api, 77, outcome) == LOPE_E_STALE);
    CHECK(api->publish(api, message, &publication) == LOPE_E_WRONG_THREAD);
  }).join();
  fixture.hold();
  if (!settled_early) CHECK(api->settle(api, 77, outcome) == LOPE_OK);
  REQUIRE(fixture.outcome());
  const auto settled = fixture.outcome();
  REQUIRE(settled);
  const bool acked = outcome == LOPE_ACK;
  CHECK(settled->flags == (kSettled | (acked ? 2u << kPublicationsShift : kExplained)));
  std::vector<FrameType> frames;
  while (const auto frame = fixture.sent()) {
    if (frame->first.type != FrameType::log) frames.push_back(frame->first.type);
  }
  CHECK(frames == (acked ? std::vector<FrameType>(2, FrameType::publish)
                         : std::vector<FrameType>{FrameType::explain}));
}

TEST_CASE("what another thread does in the time of a call counts with whatever it returns",
          "[unit][host][publish]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  fixture.board->slots[2].last = fixture.board->slots[2].sequence = 77;
  const lope_message* message = &fixture.message.message;
  REQUIRE(fixture.publish(a_publication("in its call")) == LOPE_OK);
  const bool settles = GENERATE(true, false);
  std::thread([&] {
    lope_value value;
    CHECK(api->header_get(api, message, str("none"), &value) == LOPE_E_NOT_FOUND);
    const lope_publication publication = a_publication("by another thread");
    CHECK(api->publish(api, message, &publication) == LOPE_OK);
    CHECK(api->explain(api, message, str("so it is")) == LOPE_OK);
    CHECK(api->retry_after(api, message, 1234) == LOPE_OK);
    if (settles) CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_OK);
  }).join();
  fixture.held.take_effects(fixture.message);
  // Who settles has gone by an outcome that is not the handler's: that is dropped, with a warning.
  CHECK(fixture.message.publication_count == (settles ? 1 : 2));
  CHECK(fixture.message.explanation == (settles ? "" : "so it is"));
  CHECK(fixture.message.retry_after_ms == (settles ? kByPolicy : 1234));
  fixture.board->slots[2].sequence = fixture.board->slots[2].last = 0;
  fixture.held.call_ended(77, 77);
  CHECK(fixture.sent().has_value() == settles);
  CHECK_FALSE(fixture.sent());
}

TEST_CASE("another thread keeps a running call alive", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  WorkerBoard::Slot& slot = fixture.board->slots[2];
  slot.last = slot.sequence = 77;
  slot.alive_ns = 1;
  std::thread([&] { CHECK(api->keep_alive(api, &fixture.message.message) == LOPE_OK); }).join();
  CHECK(slot.alive_ns > 1);
  CHECK_FALSE(fixture.sent());  // the consumer sees it in the slot
}

TEST_CASE("a held message that is taken away is reported once", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  REQUIRE(fixture.publish(a_publication("in its call")) == LOPE_OK);
  const lope_message* kept = fixture.hold();
  fixture.host->set_current({});
  REQUIRE(fixture.outcome());
  SECTION("while it is held") {
    fixture.held.revoke(77);
    fixture.held.revoke(77);
    const auto revoked = fixture.outcome();
    REQUIRE(revoked);
    CHECK(revoked->sequence == 77);
    CHECK(revoked->outcome == LOPE_NO_OUTCOME);
    CHECK(revoked->flags == (kSettled | kRevoked));
    CHECK(kept->id == 77);  // still to be read
    CHECK(api->keep_alive(api, kept) == LOPE_E_STALE);
    CHECK(fixture.held.count(0) == 1);
    CHECK(api->settle(api, 77, LOPE_ACK) == LOPE_E_STALE);
    CHECK(fixture.held.count(0) == 0);
    const auto logged = fixture.sent();
    REQUIRE(logged);
    CHECK(logged->first.type == FrameType::log);
    CHECK_FALSE(fixture.sent());
  }
  SECTION("not once it is settled") {
    CHECK(api->settle(api, 77, LOPE_RETRY) == LOPE_OK);
    REQUIRE(fixture.outcome());
    fixture.held.revoke(77);
  }
  SECTION("not once it was handed back") {
    fixture.held.hand_back(0);
    REQUIRE(fixture.outcome());
    fixture.held.revoke(77);
  }
  SECTION("not if it was never held") { fixture.held.revoke(78); }
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

TEST_CASE("metrics are registered in create(), and recorded on any thread", "[unit][host]") {
  Fixture fixture;
  const lope_host* api = fixture.api;
  std::uint32_t id = 0;
  CHECK(api->metric_register(api, LOPE_COUNTER, str("a"), str("b"), &id) == LOPE_E_WRONG_THREAD);
  fixture.host->set_creating(true);
  CHECK(api->metric_register(api, LOPE_COUNTER, str("a"), str("b"), nullptr) == LOPE_E_INVALID);
  CHECK(api->metric_register(api, LOPE_COUNTER, str("A!"), str("b"), &id) == LOPE_E_INVALID);
  CHECK(api->metric_register(api, 77, str("a"), str("b"), &id) == LOPE_E_INVALID);
  CHECK(api->metric_register(api, LOPE_COUNTER, str("a"), {nullptr, 0}, &id) == LOPE_OK);
  lope_status elsewhere = LOPE_OK;
  std::thread([&] {
    std::uint32_t other = 0;
    elsewhere = api->metric_register(api, LOPE_COUNTER, str("c"), str("d"), &other);
  }).join();
  CHECK(elsewhere == LOPE_E_WRONG_THREAD);
  std::uint32_t last = 0;
  for (int i = 1; i < 64; ++i) {
    const std::string name = "m" + std::to_string(i);
    CHECK(api->metric_register(api, LOPE_GAUGE, str(name), str(""), &last) == LOPE_OK);
  }
  CHECK(api->metric_register(api, LOPE_GAUGE, str("m64"), str(""), &last) == LOPE_E_TOO_LARGE);
  fixture.host->set_creating(false);
  std::thread([&] { elsewhere = api->metric_record(api, id, 41); }).join();
  CHECK(elsewhere == LOPE_OK);
  CHECK(api->metric_record(api, id, 1) == LOPE_OK);
  CHECK(fixture.board->metrics.all[id - 1].value == 42);
  CHECK(api->metric_record(api, id, -1) == LOPE_E_INVALID);
  CHECK(api->metric_record(api, 65, 1) == LOPE_E_NOT_FOUND);
}

TEST_CASE("what this version does not carry out says so", "[unit][host]") {
  Fixture fixture;
  fixture.host->set_current(fixture.records);
  const lope_host* api = fixture.api;
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
    if (got.payload.substr(sizeof(ExplainHead)) != std::string(got.head.sequence % kLines, thread))
      FAIL("a damaged frame");
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
