#include "cli/publish.h"

#include <catch2/catch.hpp>
#include <functional>
#include <limits>

namespace lope::cli {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("a header is text unless its name says what it is", "[unit][publish]") {
  struct Case {
    const char* text;
    AmqpEntry expected;
  };
  const Case table[] = {
      {"a=b", {"a", {std::string("b")}}},
      {"a=", {"a", {std::string()}}},
      {"a=b=c", {"a", {std::string("b=c")}}},
      {"n=5", {"n", {std::string("5")}}},
      {"n:int=5", {"n", {std::int64_t{5}}}},
      {"n:int=-9223372036854775808", {"n", {std::numeric_limits<std::int64_t>::min()}}},
      {"d:double=1.5", {"d", {1.5}}},
      {"d:double=2", {"d", {2.0}}},
      {"t:bool=true", {"t", {true}}},
      {"t:bool=false", {"t", {false}}},
      {"a:text=5", {"a", {std::string("5")}}},
      {"a:b:text=5", {"a:b", {std::string("5")}}},
      {"a=x:int=5", {"a", {std::string("x:int=5")}}},
  };
  for (const Case& each : table) {
    CAPTURE(each.text);
    const auto header = parse_header(each.text);
    REQUIRE(header.ok());
    CHECK(*header == each.expected);
  }
}

TEST_CASE("a header that is none is refused with what was expected and found", "[unit][publish]") {
  struct Case {
    std::string text;
    const char* error;
  };
  const Case table[] = {
      {"", "expected NAME=VALUE, found ''"},
      {"a", "expected NAME=VALUE, found 'a'"},
      {"=b", "expected NAME=VALUE, found '=b'"},
      {":int=5", "expected NAME=VALUE, found ':int=5'"},
      {"n:int=5x", "header 'n': expected a whole number of 64 bits, found '5x'"},
      {"n:int=", "header 'n': expected a whole number of 64 bits, found ''"},
      {"n:int=9223372036854775808", "expected a whole number of 64 bits"},
      {"d:double=x", "header 'd': expected a number, found 'x'"},
      {"d:double=inf", "header 'd': expected a number, found 'inf'"},
      {"t:bool=yes", "header 't': expected true or false, found 'yes'"},
      {"a:b=5", "header 'a': expected type text, int, bool or double, found 'b'"},
      {std::string(256, 'n') + "=5", "expected a name of at most 255 bytes, found 256"},
  };
  for (const Case& each : table) {
    CAPTURE(each.text);
    const auto header = parse_header(each.text);
    REQUIRE_FALSE(header.ok());
    CHECK_THAT(header.error(), Contains(each.error));
  }
}

TEST_CASE("what no broker would take is refused before anything is sent", "[unit][publish]") {
  struct Case {
    std::function<void(PublishOptions&)> change;
    std::string error;  // empty: nothing is wrong
  };
  const std::string name(255, 'x');
  const Case table[] = {
      {[](PublishOptions&) {}, ""},
      {[&](PublishOptions& o) { o.routing_key = name; }, ""},
      {[&](PublishOptions& o) { o.routing_key = name + "x"; },
       "queue: expected at most 255 bytes, found 256"},
      {[&](PublishOptions& o) { o.exchange = name + "x"; },
       "exchange: expected at most 255 bytes, found 256"},
      {[&](PublishOptions& o) { o.exchange = "e", o.routing_key = name + "x"; },
       "key: expected at most 255 bytes, found 256"},
      {[&](PublishOptions& o) { o.message_id = name; }, ""},
      {[&](PublishOptions& o) { o.message_id = name, o.count = 2; },
       "message id: expected at most 234 bytes, found 255"},
      {[&](PublishOptions& o) { o.message_id = name, o.lines = true; },
       "message id: expected at most 234 bytes, found 255"},
      {[&](PublishOptions& o) { o.content_type = name + "x"; }, "content type: expected at most"},
      {[&](PublishOptions& o) { o.content_encoding = name + "x"; },
       "content encoding: expected at"},
      {[&](PublishOptions& o) { o.correlation_id = name + "x"; }, "correlation id: expected at"},
      {[&](PublishOptions& o) { o.reply_to = name + "x"; }, "reply-to: expected at most"},
      {[&](PublishOptions& o) { o.type = name + "x"; }, "type: expected at most"},
      {[&](PublishOptions& o) { o.app_id = name + "x"; }, "application id: expected at most"},
      {[&](PublishOptions& o) { o.user_id = name + "x"; }, "user id: expected at most"},
      {[](PublishOptions& o) { o.expiration = "4294967295"; }, ""},
      {[](PublishOptions& o) { o.expiration = "4294967296"; }, "found '4294967296'"},
      {[](PublishOptions& o) { o.expiration = "10s"; },
       "expiration: expected a number of milliseconds up to 4294967295, found '10s'"},
      {[](PublishOptions& o) { o.delay = std::chrono::days(3106); }, ""},
      {[](PublishOptions& o) { o.delay = std::chrono::days(3107); },
       "delay: expected at most 3106d, found more"},
      {[](PublishOptions& o) { o.at_ms = 0; }, ""},
      {[](PublishOptions& o) { o.at_ms = 253'402'300'799'000; }, "delay: expected at most 3106d"},
      {[](PublishOptions& o) { o.delay_prefix = ""; }, "delay prefix: expected 1 to 100 letters"},
      {[](PublishOptions& o) { o.delay_prefix = "a b"; }, "and '-', found 'a b'"},
      {[](PublishOptions& o) { o.headers.emplace_back("h", AmqpValue{std::string(126000, 'x')}); },
       ""},
      {[](PublishOptions& o) { o.headers.emplace_back("h", AmqpValue{std::string(127000, 'x')}); },
       "headers: expected at most 126976 bytes together, found 127009"},
  };
  for (const Case& each : table) {
    PublishOptions options;
    options.routing_key = "q";
    each.change(options);
    CAPTURE(each.error);
    const auto checked = check(options);
    CHECK(checked.ok() == each.error.empty());
    if (!checked) CHECK_THAT(checked.error(), Contains(each.error));
  }
}

}  // namespace
}  // namespace lope::cli
