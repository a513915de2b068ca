#include "../../plugins/common/message_template.hpp"

#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../../plugins/common/option_units.hpp"
#include "../../plugins/common/template_map.hpp"

namespace lope::plugins {
namespace {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
lope_str str(std::string_view text) { return {text.data(), text.size()}; }

// As much of a host as templates and options ask.
struct SmallHost {
  SmallHost() {
    table.struct_size = sizeof(table);
    table.host_data = this;
    table.option = [](const lope_host* host, lope_str key,
                      lope_str* value) noexcept -> lope_status {
      const auto found = self(host).options.find(detail::to_view(key));
      if (found == self(host).options.end()) return LOPE_E_NOT_FOUND;
      *value = str(found->second);
      return LOPE_OK;
    };
    table.header_get = [](const lope_host* host, const lope_message*, lope_str name,
                          lope_value* value) noexcept -> lope_status {
      for (const lope_header& each : self(host).headers) {
        if (detail::to_view(each.name) != detail::to_view(name)) continue;
        *value = each.value;
        return LOPE_OK;
      }
      return LOPE_E_NOT_FOUND;
    };
  }
  static const SmallHost& self(const lope_host* host) {
    return *static_cast<const SmallHost*>(host->host_data);
  }

  std::map<std::string, std::string, std::less<>> options;
  std::vector<lope_header> headers;
  lope_host table{};
};

lope_header header(std::string_view name, std::int32_t kind) {
  lope_header made{str(name), {}};
  made.value.kind = kind;
  return made;
}

struct Sample {
  Sample() {
    raw.queue = str("q");
    raw.routing_key = str("a.b");
    raw.type = str("x/y z");
    raw.timestamp = 1234;
    raw.priority = 7;
    lope_header text = header("user", LOPE_TEXT);
    text.value.as.s = str("nora");
    lope_header number = header("count", LOPE_INT64);
    number.value.as.i = -3;
    host.headers = {text, number, header("nothing", LOPE_NULL), header("table", LOPE_OTHER)};
    raw.struct_size = sizeof(raw);
    raw.attempt = 1;
    raw.body = {body.data(), body.size()};
    raw.header_count = static_cast<std::uint32_t>(host.headers.size());
  }
  Message message() const { return Message(&host.table, &raw); }
  std::string expand(std::string_view text) const {
    return MessageTemplate::parse("o", text).expand(message());
  }

  SmallHost host;
  std::string body = "the body";
  lope_message raw{};
};

TEST_CASE("a template takes what a message carries", "[abi][message_template]") {
  const Sample sample;
  const std::pair<const char*, const char*> table[] = {
      {"", ""},
      {"plain", "plain"},
      {"{routing_key}", "a.b"},
      {"<{queue}|{priority}>", "<q|7>"},
      {"{timestamp}.{attempt}.{redelivered}", "1234.1.false"},
      {"{body}", "the body"},
      {"{header.user}{header.count}", "nora-3"},
      {"{header.none|nobody}", "nobody"},
      {"{header.none|}", ""},
      {"{message_id|none}", "none"},
      {"{header.user|nobody}", "nora"},
      {"{header.none|a|b}", "a|b"},
      {"{{queue}} {{{queue}}}", "{queue} {q}"},
      {"{header.nothing|-}{header.table|-}", "--"},
  };
  for (const auto& [text, expected] : table) {
    CAPTURE(text);
    CHECK(sample.expand(text) == expected);
  }
}

TEST_CASE("what a message lacks rejects it, unless something stands in",
          "[abi][message_template]") {
  const Sample sample;
  for (const std::string text : {"{message_id}", "{header.none}", "{header.table}"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(sample.expand(text), Reject);
    CHECK_THROWS_WITH(sample.expand(text),
                      Contains("option 'o'") && Contains(text.substr(1, text.size() - 2)));
  }
}

TEST_CASE("a template that is none is refused with what was expected and found",
          "[abi][message_template]") {
  const std::pair<const char*, const char*> table[] = {
      {"{queue", "a '}' for each '{'"}, {"queue}", "'}}'"},
      {"{colour}", "found 'colour'"},   {"{}", "found ''"},
      {"{header.}", "found 'header.'"}, {"{ queue }", "found ' queue '"},
      {"{Queue}", "'routing_key'"},
  };
  for (const auto& [text, expected] : table) {
    CAPTURE(text);
    CHECK_THROWS_AS(MessageTemplate::parse("o", text), InvalidConfiguration);
    CHECK_THROWS_WITH(MessageTemplate::parse("o", text),
                      Contains("option 'o'") && Contains(expected));
  }
}

TEST_CASE("only what comes from the message is escaped", "[abi][message_template]") {
  const Sample sample;
  const auto url = MessageTemplate::parse("o", "http://h/{type}?a&b={header.none|c&d}");
  CHECK(url.expand(sample.message(), url_escape) == "http://h/x%2Fy%20z?a&b=c%26d");
  CHECK(url_escape("aZ09-._~") == "aZ09-._~");
  CHECK(url_escape(std::string("\0\r\n%ä", 6)) == "%00%0D%0A%25%C3%A4");
}

TEST_CASE("a template knows when it is the same for all messages", "[abi][message_template]") {
  CHECK(MessageTemplate().empty());
  CHECK(MessageTemplate().is_constant());
  CHECK(MessageTemplate::parse("o", "").empty());
  CHECK(MessageTemplate::parse("o", "a{{b}}").is_constant());
  CHECK_FALSE(MessageTemplate::parse("o", "a{{b}}").empty());
  CHECK_FALSE(MessageTemplate::parse("o", "{body|}").is_constant());
}

TEST_CASE("a header's value as text", "[abi][message_template]") {
  struct Case {
    std::int32_t kind;
    std::uint64_t bits;
    std::optional<std::string> expected;
  };
  const Case table[] = {{LOPE_INT64, static_cast<std::uint64_t>(-5), "-5"},
                        {LOPE_UINT64, UINT64_MAX, "18446744073709551615"},
                        {LOPE_DOUBLE, 0x3FE0000000000000, "0.5"},
                        {LOPE_BOOL, 1, "true"},
                        {LOPE_BOOL, 0, "false"},
                        {LOPE_TIMESTAMP, 1234, "1234"},
                        {LOPE_NULL, 0, std::nullopt},
                        {LOPE_OTHER, 0, std::nullopt}};
  for (const Case& each : table) {
    CAPTURE(each.kind);
    lope_value value{};
    value.kind = each.kind;
    value.as.u = each.bits;
    CHECK(text_of(Value(value)) == each.expected);
  }
  CHECK(text_of(Value::bytes("b")) == "b");
}

TEST_CASE("options that are times and sizes", "[abi][message_template]") {
  SmallHost host;
  const auto time = [&](const char* text) {
    host.options["o"] = text;
    return duration_option(Host(&host.table), "o");
  };
  const auto size = [&](const char* text) {
    host.options["o"] = text;
    return size_option(Host(&host.table), "o");
  };
  CHECK(time("500ms") == 500ms);
  CHECK(time("0s") == 0ms);
  CHECK(time("5m") == 5min);
  CHECK(time("366d") == 366 * 24h);
  CHECK(size("0B") == 0);
  CHECK(size("64KiB") == 65536);
  CHECK(size("2GB") == 2'000'000'000);
  for (const char* const text : {"", "5", "s", "-5s", "1.5s", "5 s", "5sec", "367d", "1h30m",
                                 "99999999999999999999s", "9223372036854775807d", "5B"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(time(text), InvalidConfiguration);
  }
  for (const char* const text : {"", "5", "-1B", "5s", "9223372036854775807GiB"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(size(text), InvalidConfiguration);
  }
}

TEST_CASE("a list of names, some of them open at the end", "[abi][message_template]") {
  const std::vector<std::string> list = {"x-*", "type", ""};
  CHECK(covers(list, "x-"));
  CHECK(covers(list, "x-one"));
  CHECK(covers(list, "type"));
  CHECK_FALSE(covers(list, "types"));
  CHECK_FALSE(covers(list, "X-one"));
  CHECK(covers({"*"}, "anything"));
  CHECK_FALSE(covers({}, "anything"));
}

}  // namespace
}  // namespace lope::plugins
