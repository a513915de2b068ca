#include "supervisor/handler_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "supervisor/standard_folder.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::supervisor;
using namespace lope::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

struct Fixture {
  Fixture() {
    settings.handlers_dir = handlers.path().string();
    fs::copy_file(fs::path(LOPE_TEST_HANDLERS_DIR) / "append_id.so", handlers.path() / "good.so");
  }
  GroupSettings& add(const std::string& handler) {
    GroupSettings group;
    group.name = "g" + std::to_string(settings.groups.size());
    group.handler = handler;
    return settings.groups.emplace_back(group);
  }
  std::vector<std::string> keep() { return keep_handlers(settings, cache.path().string()); }

  TempDir handlers;
  TempDir cache;
  Settings settings;
};

void make_old(const std::string& path) {
  const timespec then[2] = {{1'000'000, 0}, {1'000'000, 0}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), then, 0) == 0);
}

}  // namespace

TEST_CASE("a handler's copy has its content and its name", "[unit][handler_store]") {
  Fixture it;
  it.add("good");
  it.add("good");
  CHECK(it.keep().empty());
  const std::string copy = it.settings.groups[0].handler_copy;
  CHECK(copy.starts_with(it.cache.file("handlers/")));
  CHECK(copy.ends_with("/good.so"));
  CHECK(read_file(copy) == read_file(it.handlers.file("good.so")));
  CHECK(it.settings.groups[1].handler_copy == copy);
  CHECK(it.settings.groups[0].handler_missing.empty());
  // What is there already is used, and what was cut is not.
  fs::resize_file(copy, 100);
  CHECK(it.keep().empty());
  CHECK(read_file(copy) == read_file(it.handlers.file("good.so")));
  // Other content, another copy.
  fs::resize_file(it.handlers.file("good.so"), fs::file_size(it.handlers.file("good.so")) + 1);
  CHECK(it.keep().empty());
  CHECK(it.settings.groups[0].handler_copy != copy);
  CHECK(fs::exists(copy));
}

TEST_CASE("a handler that is not there is missing, one that is no good is its worker's to refuse",
          "[unit][handler_store]") {
  Fixture it;
  it.handlers.write("bad.so", "garbage");
  it.add("nowhere");
  it.add("bad");
  it.add("/etc/passwd");
  it.add("good.so");
  CHECK(it.keep().empty());
  CHECK_THAT(it.settings.groups[0].handler_missing,
             Contains("nowhere.so': expected a file, found none"));
  for (std::size_t i = 1; i < it.settings.groups.size(); ++i) {
    CHECK(it.settings.groups[i].handler_missing.empty());
    CHECK(it.settings.groups[i].handler_copy.empty());
  }
}

TEST_CASE("without a folder for copies handlers are loaded from where they are",
          "[unit][handler_store]") {
  Fixture it;
  it.add("good");
  it.cache.write("handlers", "in the way");
  const auto troubles = it.keep();
  REQUIRE(troubles.size() == 1);
  CHECK_THAT(troubles[0],
             Contains("so it is loaded from where it is: do not overwrite it while it runs"));
  CHECK_THAT(troubles[0], Contains("good.so': no private copy: mkdir"));
  CHECK(it.settings.groups[0].handler_copy.empty());
  CHECK_THAT(keep_handlers(it.settings, "").at(0), Contains("no cache folder is known"));
}

TEST_CASE("copies that are old and that nobody holds go", "[unit][handler_store]") {
  Fixture it;
  it.add("good");
  it.keep();
  const std::string held = it.settings.groups[0].handler_copy;
  fs::resize_file(it.handlers.file("good.so"), fs::file_size(it.handlers.file("good.so")) + 1);
  it.keep();
  const std::string old = it.settings.groups[0].handler_copy;
  fs::resize_file(it.handlers.file("good.so"), fs::file_size(it.handlers.file("good.so")) + 1);
  it.keep();
  const std::string recent = it.settings.groups[0].handler_copy;
  make_old(held);
  make_old(old);
  {
    const auto hold = hold_copy(held);
    REQUIRE(hold);
    tidy_copies(it.cache.path().string());
    CHECK(fs::exists(held));
    CHECK_FALSE(fs::exists(fs::path(old).parent_path()));
    CHECK(fs::exists(recent));
  }
  tidy_copies(it.cache.path().string());
  CHECK_FALSE(fs::exists(held));
  CHECK(fs::exists(recent));
  CHECK_FALSE(hold_copy(held));
}

TEST_CASE("without a folder for copies there is nothing to tidy", "[unit][handler_store]") {
  tidy_copies("");  // not the root folder's `handlers`
  tidy_copies("/nowhere");
}

TEST_CASE("where copies are kept", "[unit][handler_store]") {
  const auto with = [](const char* name, const char* value) {
    ::setenv(name, value, 1);
    const std::string dir = default_cache_dir();
    ::unsetenv(name);
    return dir;
  };
  ::unsetenv("CACHE_DIRECTORY");
  CHECK(with("CACHE_DIRECTORY", "/var/cache/lope:/var/cache/more") == "/var/cache/lope");
  if (::geteuid() == 0) CHECK(default_cache_dir() == "/var/cache/lope");
}
