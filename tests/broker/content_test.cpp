// What a group does with content: accept, decode, charset, validate and compress, the whole way.
#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "common/content_encoding.h"
#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/talk.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;

namespace {

constexpr auto kLong = 30s;

std::string packed(std::string_view compression, std::string_view body) {
  ByteBuffer out;
  compress_body(compression, body, out);
  return {out.data(), out.size()};
}

std::string unpacked(const std::string& encoding, const std::string& body) {
  ByteBuffer out;
  const auto failure = decode_body(body, *parse_encodings(encoding), 1 << 20, out);
  return failure ? failure->reason : std::string(out.data(), out.size());
}

// A queue of its own, and a group whose handler is `witness`.
struct Witnessed {
  Witnessed() : queue(broker.make_queue("witness")) { broker.declare_queue(dead); }

  LopeOptions options(const std::string& more, const std::string& handler_options = {}) const {
    return {.broker = broker.url(),
            .groups =
                "  witness:\n    queue: " + queue +
                "\n    handler: witness\n    flush_interval: 100ms\n    options: { file: " + file +
                handler_options + " }\n    dead_letter: { queue: " + dead + " }\n" + more,
            .top = kWithRelay};
  }
  void publish(const std::string& id, const std::string& body, const std::string& encoding = {},
               const std::string& type = {}) {
    broker.publisher().publish({.routing_key = queue,
                                .body = body,
                                .message_id = id,
                                .content_type = type,
                                .content_encoding = encoding});
  }
  std::vector<std::string> lines(const std::string& word) const {
    std::vector<std::string> result;
    for (const std::string& line : lines_of_file(file)) {
      if (line.starts_with(word + " ")) result.push_back(line.substr(word.size() + 1));
    }
    return result;
  }
  // "TYPE ENCODING SIZE BODY" of the message; empty when it is not seen in time.
  std::string seen(const std::string& id) const {
    std::string found;
    eventually(kLong, [&] {
      for (const std::string& line : lines("seen")) {
        if (line.starts_with(id + " ")) found = line.substr(id.size() + 1);
      }
      return !found.empty();
    });
    return found;
  }
  // The dead letters once there are so many, by their ids.
  std::vector<Received> letters(std::size_t count) {
    std::vector<Received> all;
    eventually(kLong, [&] {
      for (Received& each : broker.drain(dead)) all.push_back(std::move(each));
      return all.size() >= count;
    });
    std::sort(all.begin(), all.end(),
              [](const Received& a, const Received& b) { return a.message_id < b.message_id; });
    REQUIRE(all.size() == count);
    return all;
  }

  Broker broker;
  const std::string queue;
  const std::string dead = broker.unique_queue("dead");
  TempDir files;
  const std::string file = files.file("lines");
};

std::string code(const Received& letter) { return letter.header("x-lope-dead-code"); }
std::string reason(const Received& letter) { return letter.header("x-lope-dead-reason"); }

long peak_kb(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(6));
  }
  return -1;
}

}  // namespace

TEST_CASE("what a group does not accept is a dead letter before a worker sees it",
          "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    accept: [application/json, text/*]\n"));
  REQUIRE(lope.wait_ready());
  it.publish("a", "{}", "", "application/json; charset=utf-8");
  it.publish("b", "x", "", "image/png");
  it.publish("c", "x");
  it.publish("d", "x", "", "Text/CSV");
  CHECK(it.seen("a") == "application/json; charset=utf-8 - 2 {}");
  CHECK(it.seen("d") == "Text/CSV - 1 x");
  const auto letters = it.letters(2);
  CHECK(letters[0].message_id == "b");
  CHECK(code(letters[0]) == "content-type");
  CHECK(reason(letters[0]) ==
        "expected content type application/json or text/*, found 'image/png'");
  CHECK(letters[0].number("x-lope-dead-attempts") == 0);
  CHECK(letters[0].content_type == "image/png");
  CHECK(reason(letters[1]) == "expected content type application/json or text/*, found none");
  CHECK(it.lines("seen").size() == 2);
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a body is decoded as its content-encoding says", "[broker][content]") {
  Witnessed it;
  // One that goes in the link, and one in shared memory.
  const std::string size = GENERATE(as<std::string>{}, "small", "large");
  std::string body = "hello ";
  while (size == "large" && body.size() < 300'000) body += std::to_string(body.size() * 7919) + " ";
  const std::string shown = std::to_string(body.size()) + " " + body.substr(0, 60);
  Lope lope(it.options("    decode: true\n    threads: 2\n"));
  REQUIRE(lope.wait_ready());
  const std::vector<std::string> encodings = {"gzip", "bzip2", "xz", "zstd"};
  for (const std::string& each : encodings)
    it.publish(each, packed(each, body), each, "text/plain");
  it.publish("list", packed("zstd", packed("gzip", body)), "gzip, zstd");
  it.publish("identity", body, "identity");
  it.publish("kombu", body, "utf-8");
  it.publish("none", body);
  for (const std::string& each : encodings) CHECK(it.seen(each) == "text/plain - " + shown);
  for (const auto* each : {"list", "none"}) CHECK(it.seen(each) == "- - " + shown);
  CHECK(it.seen("identity") == "- identity " + shown);
  CHECK(it.seen("kombu") == "- utf-8 " + shown);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.dead) == 0);
}

TEST_CASE("without decode a body comes as it was sent", "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    charset: utf-8\n"));
  REQUIRE(lope.wait_ready());
  it.publish("a", "not gzip", "gzip");
  CHECK(it.seen("a") == "- gzip 8 not gzip");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what cannot be decoded is a dead letter as it came, and the worker goes on",
          "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    decode: { max_size: 8MiB }\n    prefetch: 1\n"));
  REQUIRE(lope.wait_ready());
  const auto workers = lope.workers();
  REQUIRE(workers.size() == 1);
  it.publish("warm-up", packed("gzip", "hello"), "gzip");
  CHECK(it.seen("warm-up") == "- - 5 hello");
  const long before_kb = peak_kb(workers[0]);

  // 10 GiB in a few KiB: a thousand times the same 10 MiB, packed twice.
  const std::string inner = packed("gzip", std::string(10 << 20, '\0'));
  std::string members;
  for (int i = 0; i < 1024; ++i) members += inner;
  const std::string bomb = packed("gzip", members);
  CHECK(bomb.size() < 256 * 1024);
  const std::string cut = packed("gzip", "hello").substr(0, 10);
  it.publish("a-bomb", bomb, "gzip, gzip");
  it.publish("b-bomb", packed("bzip2", std::string(64 << 20, '\0')), "bzip2");
  it.publish("c-cut", cut, "gzip");
  it.publish("d-other", "{}{}{}{}", "xz");
  it.publish("e-unknown", "x", "br");
  it.publish("f-many", "x", "gzip,gzip,gzip,gzip");
  it.publish("g-good", packed("zstd", "hello"), "zstd");

  CHECK(it.seen("g-good") == "- - 5 hello");
  const auto letters = it.letters(6);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"too-large", "it unpacks to more than 8388608 bytes"},
      {"too-large", "it unpacks to more than 8388608 bytes"},
      {"encoding", "expected gzip data, found its end is missing"},
      {"encoding", "expected lzma data, found another format"},
      {"encoding",
       "expected content-encoding gzip, deflate, bzip2, lzma, xz, zstd or identity, found 'br'"},
      {"encoding", "expected at most 3 content-encodings, found 4"}};
  for (std::size_t i = 0; i < letters.size(); ++i) {
    CAPTURE(letters[i].message_id);
    CHECK(code(letters[i]) == expected[i].first);
    CHECK(reason(letters[i]) == expected[i].second);
    CHECK(letters[i].number("x-lope-dead-attempts") == 0);
  }
  CHECK(letters[0].body == bomb);
  CHECK(letters[0].content_encoding == "gzip, gzip");
  CHECK(letters[2].body == cut);
  CHECK(it.lines("seen").size() == 2);
  CHECK(lope.workers() == workers);
  if (std::string_view(LOPE_SANITIZE).empty()) {
    const long grown_kb = peak_kb(workers[0]) - before_kb;
    INFO("the worker grew by " << grown_kb << " kB");
    CHECK(grown_kb < (8 + 8) * 1024);
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a copy for another attempt, and a dead letter, are what came", "[broker][content]") {
  Witnessed it;
  const std::string word = GENERATE(as<std::string>{}, "retry", "reject");
  Lope lope(
      it.options("    decode: true\n    charset: utf-8\n    retry: { attempts: 2, delay: 0s }\n",
                 ", outcome: " + word));
  REQUIRE(lope.wait_ready());
  const std::string body = packed("gzip", "caf\xe9");
  it.publish("a", body, "gzip", "text/plain; charset=latin1");
  const auto letters = it.letters(1);
  CHECK(letters[0].body == body);
  CHECK(letters[0].content_encoding == "gzip");
  CHECK(letters[0].content_type == "text/plain; charset=latin1");
  CHECK(code(letters[0]) == (word == "retry" ? "attempts" : "rejected"));
  const std::vector<std::string> seen = it.lines("seen");
  CHECK(seen.size() == (word == "retry" ? 2 : 1));
  for (const std::string& line : seen) CHECK(line == "a text/plain; charset=utf-8 - 5 café");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("text of another charset becomes UTF-8, or a dead letter", "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    charset: utf-8\n"));
  REQUIRE(lope.wait_ready());
  it.publish("a", "caf\xe9", "", "text/plain;charset=ISO-8859-1;x=y");
  it.publish("b", "caf\xe9", "", "text/plain");
  it.publish("c", "\x93", "", "text/plain; charset=shift_jis");
  it.publish("d", "x", "", "text/plain; charset=\"none-such\"");
  CHECK(it.seen("a") == "text/plain;charset=utf-8;x=y - 5 café");
  CHECK(it.seen("b") == "text/plain - 4 caf\xe9");
  const auto letters = it.letters(2);
  CHECK(code(letters[0]) == "charset");
  CHECK(reason(letters[0]) == "expected text in 'shift_jis', found other bytes at offset 0");
  CHECK(reason(letters[1]) == "expected a charset that is known, found 'none-such'");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what does not fit the schema is a dead letter, and a changed schema counts at a reload",
          "[broker][content]") {
  Witnessed it;
  const auto schema = [&](const std::string& type) {
    it.files.write("order.json",
                   R"({"required":["price"],"properties":{"price":{"type":")" + type + R"("}}})");
  };
  schema("number");
  const LopeOptions options =
      it.options("    decode: true\n    validate: " + it.files.file("order.json") + "\n");
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  it.publish("a", packed("gzip", R"({"price": 1})"), "gzip");
  it.publish("b", R"({"price": "1"})");
  it.publish("c", R"({"price": )");
  CHECK(it.seen("a") == "- - 12 {\"price\": 1}");
  auto letters = it.letters(2);
  CHECK(code(letters[0]) == "schema");
  CHECK(reason(letters[0]) == "/price: expected number, found string");
  CHECK_THAT(reason(letters[1]), Catch::StartsWith("line 1, column 11: expected JSON, found "));

  schema("string");
  told(lope, {"reload", "--wait"});
  it.publish("d", R"({"price": "1"})");
  it.publish("e", R"({"price": 1})");
  CHECK(it.seen("d") == "- - 14 {\"price\": \"1\"}");
  letters = it.letters(1);
  CHECK(reason(letters[0]) == "/price: expected string, found number");

  // A bad one changes nothing.
  it.files.write("order.json", "{\"type\": 7}");
  CHECK_THAT(refused(lope, {"reload", "--wait"}),
             Contains("order.json': /type: expected null, boolean"));
  it.publish("f", R"({"price": "2"})");
  CHECK(it.seen("f") == "- - 14 {\"price\": \"2\"}");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("one that no handler may see leaves its batch, and the others go on",
          "[broker][content]") {
  Witnessed it;
  for (int i = 0; i < 5; ++i) {
    const std::string body = "body " + std::to_string(i);
    it.publish("m" + std::to_string(i), i == 2 ? "damaged" : packed("gzip", body), "gzip");
  }
  Lope lope(it.options("    decode: true\n    prefetch: 5\n    batch: { size: 5, wait: 20s }\n"));
  REQUIRE(lope.wait_ready());
  const auto letters = it.letters(1);
  CHECK(letters[0].message_id == "m2");
  CHECK(code(letters[0]) == "encoding");
  CHECK(it.seen("m4") == "- - 6 body 4");
  CHECK(it.lines("batch") == std::vector<std::string>{"4"});
  CHECK(it.lines("seen").size() == 4);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a batch that no handler may see any of is no call", "[broker][content]") {
  Witnessed it;
  for (int i = 0; i < 3; ++i) it.publish("m" + std::to_string(i), "damaged", "gzip");
  Lope lope(it.options("    decode: true\n    prefetch: 3\n    batch: { size: 3, wait: 20s }\n"));
  REQUIRE(lope.wait_ready());
  CHECK(it.letters(3)[2].message_id == "m2");
  it.publish("good", packed("gzip", "hello"), "gzip");
  it.publish("good2", packed("gzip", "hello"), "gzip");
  it.publish("good3", packed("gzip", "hello"), "gzip");
  CHECK(it.seen("good3") == "- - 5 hello");
  CHECK(it.lines("batch") == std::vector<std::string>{"3"});
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("the decoded body of a held message is there until it is settled", "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    decode: true\n", ", outcome: hold"));
  REQUIRE(lope.wait_ready());
  std::string large(200'000, 'x');
  for (int i = 0; i < 20; ++i) {
    const std::string body = "body " + std::to_string(i) + (i % 2 == 0 ? large : "");
    it.publish("m" + std::to_string(i), packed("zstd", body), "zstd");
  }
  REQUIRE(eventually(kLong, [&] { return it.lines("held").size() == 20; }));
  for (const std::string& line : it.lines("held")) {
    const std::string number = line.substr(1, line.find(' ') - 1);
    CHECK_THAT(line, Contains(" body " + number));
  }
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("with auto_ack what no handler may see is given up, and said so", "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    decode: true\n    accept: [a/b]\n    auto_ack: true\n"));
  REQUIRE(lope.wait_ready());
  it.publish("a", "damaged", "gzip", "a/b");
  it.publish("b", "x", "", "c/d");
  it.publish("c", packed("gzip", "hello"), "gzip", "a/b");
  CHECK(it.seen("c") == "a/b - 5 hello");
  // It was acked when it went to a worker; what never did is nobody's loss.
  const auto line = lope.wait_for_line("message_id=a", kLong);
  REQUIRE(line);
  CHECK_THAT(*line, Contains("message given up") && Contains("code=encoding"));
  CHECK(it.letters(1)[0].message_id == "b");
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("what a handler publishes is compressed where that makes it smaller",
          "[broker][content]") {
  Witnessed it;
  const std::string encoding = GENERATE(as<std::string>{}, "gzip", "bzip2", "xz", "zstd");
  const std::string next = it.broker.make_queue("next");
  Lope lope(it.options("    compress: { encoding: " + encoding + ", min_size: 100B }\n",
                       ", forward: " + next));
  REQUIRE(lope.wait_ready());
  const std::string body(10'000, 'x');
  it.publish("a", body);
  it.publish("b", std::string(99, 'x'));
  std::vector<Received> forwarded;
  REQUIRE(eventually(kLong, [&] {
    for (Received& each : it.broker.drain(next)) forwarded.push_back(std::move(each));
    return forwarded.size() == 2;
  }));
  std::sort(forwarded.begin(), forwarded.end(),
            [](const Received& a, const Received& b) { return a.message_id < b.message_id; });
  CHECK(forwarded[0].content_encoding == encoding);
  CHECK(forwarded[0].body.size() < 1000);
  CHECK(unpacked(encoding, forwarded[0].body) == body);
  CHECK(forwarded[1].content_encoding == "");
  CHECK(forwarded[1].body == std::string(99, 'x'));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("lope publish compresses", "[broker][content]") {
  Broker broker;
  const std::string queue = broker.make_queue();
  const std::string body(5000, 'x');
  const auto publish = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"publish", "--broker", broker.url(), "--queue", queue});
    return run_lope(more);
  };
  CHECK(publish({"--compress", "zstd", "--count", "2", body}).status == exited(0));
  CHECK(publish({"--compress", "gzip", "short"}).status == exited(0));
  CHECK(publish({"--compress", "br", "x"}).status == exited(2));
  CHECK(publish({"--compress", "gzip", "--content-encoding", "gzip", "x"}).status == exited(2));
  const auto messages = broker.drain(queue);
  REQUIRE(messages.size() == 3);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(messages[i].content_encoding == "zstd");
    CHECK(unpacked("zstd", messages[i].body) == body);
  }
  CHECK(messages[2].content_encoding == "");
  CHECK(messages[2].body == "short");
}

TEST_CASE("refused messages are counted", "[broker][content]") {
  Witnessed it;
  Lope lope(it.options("    decode: true\n    accept: [a/b]\n"));
  REQUIRE(lope.wait_ready());
  it.publish("a", "damaged", "gzip", "a/b");
  it.publish("b", "x", "", "c/d");
  it.letters(2);
  CHECK(eventually(kLong, [&] { return group_of(lope)["refused"] == 2; }));
  CHECK(lope.stop() == exited(0));
}
