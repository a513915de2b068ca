// Content without a broker: `lope try` with a group's settings, `lope check` and schemas, and what
// the worker's program shows of the libraries in it.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/exit_code.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::test;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

// "ack", by gzip.
constexpr const char* kPackedAck = "H4sIAAAAAAAAA0tMzgYAsfjkIgMAAAA=";

struct Tried {
  Tried(const std::string& keys, const std::vector<std::string>& messages,
        const std::string& handler = "scripted", const std::string& options = "") {
    dir.write("lope.yaml", "broker: amqp://nobody.invalid\nhandlers_dir: " LOPE_TEST_HANDLERS_DIR
                           "\ngroups:\n  g:\n    handler: " +
                               handler + "\n" + options + keys);
    std::vector<std::string> arguments = {"try",     "--config", dir.file("lope.yaml"),
                                          "--group", "g",        "--json"};
    for (std::size_t i = 0; i < messages.size(); ++i) {
      arguments.push_back(dir.write("m" + std::to_string(i) + ".json", messages[i]));
    }
    result = run_lope(arguments);
    for (const std::string& line : lines_with(result.output, "{")) {
      const Json json = Json::parse(line);
      if (json.contains("outcome")) attempts.push_back(json["attempts"][0]);
    }
  }

  TempDir dir;
  RunResult result;
  std::vector<Json> attempts;
};

std::string gzipped(const std::string& more = "") {
  return R"({"content_encoding":"gzip","body_base64":")" + std::string(kPackedAck) + "\"" + more +
         "}";
}

}  // namespace

TEST_CASE("lope try prepares messages as a group does", "[process][content]") {
  const Tried tried("    decode: true\n    accept: [a/b]\n    charset: utf-8\n",
                    {gzipped(R"(,"content_type":"a/b")"), gzipped(),
                     R"({"content_type":"a/b","content_encoding":"gzip","body":"damaged"})",
                     R"({"content_type":"a/b;charset=none-such","body":"x"})"});
  INFO(tried.result.output);
  REQUIRE(tried.attempts.size() == 4);
  CHECK(tried.attempts[0]["outcome"] == "ack");
  const char* const codes[] = {"content-type", "encoding", "charset"};
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(tried.attempts[i + 1]["outcome"] == "refused");
    CHECK(tried.attempts[i + 1]["dead_letter"] == codes[i]);
  }
  CHECK(tried.attempts[2]["reason"] == "expected gzip data, found incorrect header check");
  CHECK(tried.result.status == exited(5));
}

TEST_CASE("lope try holds messages against the schema", "[process][content]") {
  const TempDir dir;
  const std::string schema =
      dir.write("schema.json", R"({"type":"object","properties":{"n":{"type":"integer"}}})");
  const Tried tried("    validate: " + schema + "\n",
                    {R"({"body_json":{"n":1}})", R"({"body_json":{"n":"1"}})"}, "gather",
                    "    options: { file: " + dir.file("gather") + ", word: ack }\n");
  INFO(tried.result.output);
  REQUIRE(tried.attempts.size() == 2);
  CHECK(tried.attempts[0]["outcome"] == "ack");
  CHECK(tried.attempts[1]["reason"] == "/n: expected integer, found string");
  CHECK(tried.attempts[1]["dead_letter"] == "schema");
}

TEST_CASE("lope check judges a schema, and says where it stands", "[process][content]") {
  struct Row {
    std::string schema;
    const char* said;
  };
  const auto row = GENERATE(values<Row>({
      {"{}", nullptr},
      {"{\n\"type\": }", "schema.json': line 2, column 9: expected JSON, found "},
      {R"({"type":"int"})", "schema.json': /type: expected null, boolean"},
      {R"({"$ref":"http://127.0.0.1:1/x"})",
       "schema.json': /$ref: 'http://127.0.0.1:1/x' is not in this file"},
      {R"({"allOf":[{"$ref":"#"}]})",
       "schema.json': (root): expected a schema that comes to an end"},
      {R"({"multipleOf":0})", "schema.json': /multipleOf: expected a number above 0, found 0"},
  }));
  const TempDir dir;
  dir.write("schema.json", row.schema);
  dir.write("lope.yaml", "broker: amqp://nobody.invalid\nhandlers_dir: " LOPE_TEST_HANDLERS_DIR
                         "\ngroups:\n  g:\n    handler: scripted\n    validate: schema.json\n");
  const RunResult result = run_lope({"check", "--config", dir.file("lope.yaml")});
  INFO(result.output);
  if (row.said == nullptr) {
    CHECK(result.status == exited(0));
    return;
  }
  CHECK(result.status == exited(kExitRefused));
  CHECK_THAT(result.output,
             Contains("lope.yaml:6:15: error: group 'g': validate: '") && Contains(row.said));
}

TEST_CASE("lope check notes what is no keyword in a schema", "[process][content]") {
  const TempDir dir;
  dir.write("schema.json", R"({"requierd":["a"],"unevaluatedProperties":false})");
  dir.write("lope.yaml", "broker: amqp://nobody.invalid\nhandlers_dir: " LOPE_TEST_HANDLERS_DIR
                         "\ngroups:\n  g:\n    handler: scripted\n    validate: schema.json\n");
  const RunResult result = run_lope({"check", "--config", dir.file("lope.yaml")});
  INFO(result.output);
  CHECK(result.status == exited(0));
  const std::string note = "group 'g': note: validate: '" + dir.file("schema.json") + "': ";
  CHECK_THAT(result.output,
             Contains(note + "/requierd: no keyword of draft 7, and not looked at: did you mean "
                             "'required'?\n") &&
                 Contains(note + "/unevaluatedProperties: no keyword of draft 7"));
}

TEST_CASE("a handler's libraries never meet the worker's", "[process][content]") {
  const RunResult result = run({"nm", "-D", "--defined-only", LOPE_BIN_DIR "/lope-worker"});
  CHECK(result.status == exited(0));
  for (const auto* symbol : {"inflate", "deflate", "BZ2_", "lzma_", "ZSTD_", "pcre2_"}) {
    CAPTURE(symbol);
    CHECK(result.output.find(symbol) == std::string::npos);
  }
}
