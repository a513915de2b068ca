// The official JSON Schema Test Suite, of the Debian package json-schema-test-suite.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/schema.h"

using namespace lope;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

const fs::path kSuite = "/usr/share/json-schema-test-suite/tests";

// What is not as the suite has it.
struct LeftOut {
  std::string_view file;
  std::string_view group;  // empty: all of it
  enum { other_document, another_answer } why;
};
constexpr LeftOut kLeftOut[] = {
    {"refRemote.json", "", LeftOut::other_document},
    {"definitions.json", "valid definition", LeftOut::other_document},    // the metaschema
    {"definitions.json", "invalid definition", LeftOut::other_document},  // by its URL
    {"ref.json", "remote ref, containing refs itself", LeftOut::other_document},
    // contentEncoding and contentMediaType are remarks.
    {"optional/content.json", "", LeftOut::another_answer},
};
// 1.0 is an integer in draft 4 too.
constexpr LeftOut kLeftOutOfDraft4 = {"optional/zeroTerminatedFloats.json", "",
                                      LeftOut::another_answer};

bool is_remark(const json& schema) {
  if (!schema.is_object() || !schema.contains("format")) return false;
  const json& format = schema["format"];
  return format != "date" && format != "time" && format != "date-time";
}

}  // namespace

TEST_CASE("schemas are held to as the official test suite has it", "[unit][schema]") {
  const int draft = GENERATE(4, 6, 7);
  const fs::path folder = kSuite / ("draft" + std::to_string(draft));
  INFO("the package json-schema-test-suite has " << folder);
  REQUIRE(fs::is_directory(folder));
  int cases = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string file = entry.path().lexically_relative(folder);
    std::ifstream stream(entry.path());
    for (const json& group : json::parse(stream)) {
      const std::string about = group["description"];
      json schema = group["schema"];
      if (is_remark(schema)) continue;
      if (schema.is_object())
        schema["$schema"] = "http://json-schema.org/draft-0" + std::to_string(draft) + "/schema#";
      CAPTURE(file, about, schema);
      const auto compiled = Schema::compile(schema.dump());
      const auto concerns = [&](const LeftOut& row) {
        return row.file == file && (row.group.empty() || row.group == about);
      };
      const auto* const left_out = std::ranges::find_if(kLeftOut, concerns);
      if (left_out != std::end(kLeftOut) && left_out->why == LeftOut::other_document) {
        REQUIRE_FALSE(compiled);
        CHECK_THAT(compiled.error(), Catch::EndsWith("is not in this file"));
        continue;
      }
      if (left_out != std::end(kLeftOut) || (draft == 4 && concerns(kLeftOutOfDraft4))) continue;
      if (!compiled) FAIL(compiled.error());
      for (const json& test : group["tests"]) {
        const std::string what = test["description"];
        const auto wrong = compiled->mismatch(test["data"].dump());
        CAPTURE(what, wrong);
        CHECK(!wrong == test["valid"].get<bool>());
        ++cases;
      }
    }
  }
  CHECK(cases > (draft == 4 ? 200 : 300));
}
