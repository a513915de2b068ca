// `lope inspect`, and the throw-away child behind it, on good handlers and on every kind of bad
// one.
#include <elf.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <string>

#include "common/exit_code.h"
#include "common/json.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::test;
namespace fs = std::filesystem;

namespace {

const std::string kTestHandlers = LOPE_TEST_HANDLERS_DIR;

// What the child writes on its descriptor 3; its own output is thrown away.
RunResult describe(const std::string& folder, const std::string& name) {
  return run({"/bin/sh", "-c", "exec \"$@\" 3>&1 >/dev/null 2>&1", "sh",
              LOPE_BIN_DIR "/lope-worker", "--inspect", folder, name});
}

RunResult inspect(const std::string& path) { return run({LOPE_BIN_DIR "/lope", "inspect", path}); }

}  // namespace

TEST_CASE("the child describes a handler as JSON", "[process][inspect]") {
  const auto result = describe(kTestHandlers, "frozen_1_0");
  REQUIRE(result.status == exited(kExitOk));
  const auto description = plugin_description_from_json(result.output);
  INFO(result.output);
  REQUIRE(description);
  CHECK(description->path == fs::canonical(kTestHandlers).string() + "/frozen_1_0.so");
  CHECK(description->name == "frozen_1_0");
  CHECK(description->version == "1.0.0");
  CHECK(description->description == "built with the header of ABI 1.0");
  CHECK(description->abi_major == 1);
  CHECK(description->abi_minor == 0);
  CHECK(description->has_batch);
  CHECK(description->has_flush);
  CHECK_FALSE(description->takes_any_option);
  REQUIRE(description->options.size() == 2);
  CHECK(description->options[0].name == "colour");
  CHECK(description->options[0].default_value == "red");
  CHECK(description->options[0].kind == "text");
  CHECK_FALSE(description->options[0].required);
  CHECK(description->options[1].name == "pin");
  CHECK(description->options[1].secret);
  CHECK(description->options[1].kind == "uint64");
  // Not even the default of a secret.
  CHECK(description->options[1].default_value.empty());
  CHECK(result.output.find("1234") == std::string::npos);
}

TEST_CASE("the child takes a path as well as a name", "[process][inspect]") {
  const auto result = describe("", LOPE_HANDLERS_BUILD_DIR "/null.so");
  REQUIRE(result.status == exited(kExitOk));
  const auto description = plugin_description_from_json(result.output);
  REQUIRE(description);
  CHECK(description->name == "null");
  CHECK(description->options.empty());
  CHECK_FALSE(description->takes_any_option);
}

TEST_CASE("what a constructor throws is the child's answer", "[process][inspect]") {
  const auto result = describe(kTestHandlers, "throwing_constructor");
  CHECK(result.status == exited(kExitRefused));
  const auto description = plugin_description_from_json(result.output);
  REQUIRE_FALSE(description);
  CHECK(description.error() ==
        "handler '" + fs::canonical(kTestHandlers).string() +
            "/throwing_constructor.so': expected constructors that return, found "
            "the exception 'thrown by a static object'");
}

TEST_CASE("inspect names a handler, its version and its options", "[process][inspect]") {
  const auto result = inspect(LOPE_HANDLERS_BUILD_DIR "/log.so");
  INFO(result.output);
  CHECK(result.status == exited(kExitOk));
  for (const char* word : {"log", "1.0.0", "level", "info", "max_body", "256"}) {
    CHECK(result.output.find(word) != std::string::npos);
  }
}

TEST_CASE("inspect does not run a handler's create()", "[process][inspect]") {
  for (const std::string name :
       {"create_aborts", "create_hangs", "create_throws", "create_invalid"}) {
    INFO(name);
    CHECK(inspect(kTestHandlers + "/" + name + ".so").status == exited(kExitOk));
  }
}

TEST_CASE("inspect refuses every kind of bad handler with its path", "[process][inspect]") {
  const std::string name =
      GENERATE(as<std::string>(), "no_symbol", "other_major", "newer_minor", "newer_tail",
               "no_functions", "no_name", "short_table", "zero_table", "dynamic_table",
               "function_symbol", "undefined_symbol", "unknown_option_kind", "unknown_option_flag",
               "throwing_constructor", "aborting_constructor", "missing");
  const auto result = inspect(kTestHandlers + "/" + name + ".so");
  INFO(result.output);
  CHECK(result.status == exited(kExitRefused));
  CHECK(result.output.find("/" + name + ".so") != std::string::npos);
  CHECK(result.output.find("expected") != std::string::npos);
  CHECK(result.output.find("found") != std::string::npos);
}

TEST_CASE("inspect gives up on a constructor that hangs", "[process][inspect]") {
  const auto result = inspect(kTestHandlers + "/hanging_constructor.so");
  INFO(result.output);
  CHECK(result.status == exited(kExitRefused));
  CHECK(result.output.find("/hanging_constructor.so") != std::string::npos);
}

TEST_CASE("inspect refuses files that are no handler at all", "[process][inspect]") {
  struct Row {
    const char* what;
    std::string (*bytes)(std::string good);
    mode_t mode;
    const char* found;
  };
  const auto row = GENERATE(values<Row>({
      {"text", [](std::string) { return std::string("hello\n"); }, 0644, "found no ELF file"},
      {"empty", [](std::string) { return std::string(); }, 0644, "found no ELF file"},
      {"cut short", [](std::string good) { return good.substr(0, good.size() / 8); }, 0644,
       "found a truncated or damaged one"},
      {"another machine",
       [](std::string good) {
         good[offsetof(Elf64_Ehdr, e_machine)] = static_cast<char>(EM_RISCV);
         return good;
       },
       0644, "found one for riscv"},
      {"world-writable", [](std::string good) { return good; }, 0666, "found mode 0666"},
  }));
  const TempDir temp;
  const std::string path =
      temp.write("x.so", row.bytes(read_file(LOPE_HANDLERS_BUILD_DIR "/null.so")));
  REQUIRE(::chmod(path.c_str(), row.mode) == 0);
  const auto result = inspect(path);
  INFO(row.what << ": " << result.output);
  CHECK(result.status == exited(kExitRefused));
  CHECK(result.output.find(path) != std::string::npos);
  CHECK(result.output.find(row.found) != std::string::npos);
}
