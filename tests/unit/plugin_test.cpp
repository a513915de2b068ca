// What is refused once a handler's file is loaded: its table, and the options configured for it.
#include "worker/plugin.h"

#include <catch2/catch.hpp>
#include <string>
#include <utility>
#include <vector>

using namespace lope;
using worker::check_options;
using worker::load_plugin;
using worker::Plugin;

namespace {

Result<Plugin> load(const std::string& folder, const std::string& name) {
  const auto file = find_plugin(folder, name);
  INFO((file ? "" : file.error()));
  REQUIRE(file);
  return load_plugin(*file);
}

}  // namespace

TEST_CASE("a good handler loads with its table", "[unit][plugin]") {
  const auto log = load(LOPE_HANDLERS_BUILD_DIR, "log");
  REQUIRE(log);
  CHECK(log->table->name == std::string("log"));
  CHECK_FALSE(log->has_batch());
  CHECK_FALSE(log->has_flush());
  const auto frozen = load(LOPE_TEST_HANDLERS_DIR, "frozen_1_0");
  REQUIRE(frozen);
  CHECK(frozen->has_batch());
  CHECK(frozen->has_flush());
  // Newer than this host, but with nothing this host would have to know of.
  CHECK(load(LOPE_TEST_HANDLERS_DIR, "newer_unused"));
}

TEST_CASE("a table that this host cannot serve is refused after loading", "[unit][plugin]") {
  struct Row {
    const char* name;
    const char* error;
  };
  const auto row = GENERATE(values<Row>({
      {"no_functions", "expected lope_plugin_v1 to have handle or handle_batch, found neither"},
      {"no_name", "expected lope_plugin_v1 to give a name, found none"},
      {"newer_tail",
       "expected a lope_plugin_v1 that uses nothing newer than ABI 1.0, found members behind the "
       "last "
       "that this Lope knows"},
      {"unknown_option_kind",
       "expected option 'colour' to be of a kind that this Lope knows, found kind 99"},
      {"unknown_option_flag",
       "expected option 'colour' to have flags that this Lope knows, found flags 128"},
      {"undefined_symbol", "undefined symbol: lope_test_function_that_is_nowhere"},
  }));
  const auto loaded = load(LOPE_TEST_HANDLERS_DIR, row.name);
  REQUIRE_FALSE(loaded);
  INFO(loaded.error());
  CHECK(loaded.error().find("handler '") == 0);
  CHECK(loaded.error().find(std::string("/") + row.name + ".so': expected ") != std::string::npos);
  CHECK(loaded.error().find(row.error) != std::string::npos);
}

TEST_CASE("configured options are held against the handler's table", "[unit][plugin]") {
  struct Row {
    const char* handler;
    std::vector<std::pair<std::string, std::string>> options;
    const char* problems;  // empty: they fit
  };
  const auto row = GENERATE(values<Row>({
      {"append_id", {{"file", "/x"}}, ""},
      {"append_id", {{"file", "/x"}, {"work_us", "7"}}, ""},
      {"append_id", {}, "option 'file': expected a value, found none"},
      {"append_id",
       {{"file", "/x"}, {"work_us", "-7"}},
       "option 'work_us': expected an integer of at least 0, found '-7'"},
      {"append_id",
       {{"file", "/x"}, {"workus", "7"}},
       "option 'workus': the handler takes no such option, did you mean 'work_us'?"},
      {"append_id",
       {{"zebra", "1"}},
       "option 'zebra': the handler takes no such option; option 'file': expected a value, found "
       "none"},
      {"edge_cpp17", {{"name", ""}, {"ratio", "2e3"}, {"loud", "True"}, {"width", "-5"}}, ""},
      {"edge_cpp17",
       {{"name", "n"}, {"ratio", "x"}},
       "option 'ratio': expected a number, found 'x'"},
      {"edge_cpp17",
       {{"name", "n"}, {"loud", "1"}},
       "option 'loud': expected true or false, found '1'"},
      {"edge_cpp17",
       {{"name", "n"}, {"width", "1.5"}},
       "option 'width': expected an integer, found '1.5'"},
      {"edge_cpp17",
       {{"name", "n"}, {"pin", "hunter2"}},
       "option 'pin': expected an integer, found something else"},
      {"newer_unused", {{"anything", "goes"}}, ""},
      // Lists and maps.
      {"listed", {{"words.0", "a"}, {"sizes.w.h", "7"}, {"sizes.name", "x"}}, ""},
      {"listed", {{"sizes.w", "7"}}, "option 'words.*': expected a value, found none"},
      {"listed",
       {{"words", "a"}},
       "option 'words': the handler takes no such option, did you mean 'words.*'?; option "
       "'words.*': expected a value, found none"},
      {"listed",
       {{"words.0", "a"}, {"sizes.w", "x"}},
       "option 'sizes.w': expected an integer, found 'x'"},
      {"listed",
       {{"words.0", "a"}, {"keys.a", "hunter2"}},
       "option 'keys.a': expected true or false, found something else"},
  }));
  const auto plugin = load(LOPE_TEST_HANDLERS_DIR, row.handler);
  REQUIRE(plugin);
  const auto checked = check_options(*plugin, row.options);
  CHECK(checked.ok() == (*row.problems == '\0'));
  if (!checked) CHECK(checked.error() == "handler '" + plugin->path + "': " + row.problems);
}

TEST_CASE("a handler whose table says that it has no options refuses every one", "[unit][plugin]") {
  const auto plugin = load(LOPE_HANDLERS_BUILD_DIR, "null");
  REQUIRE(plugin);
  CHECK(check_options(*plugin, {}));
  CHECK_FALSE(check_options(*plugin, {{"level", "info"}}));
}
