#include "consumer/stream_keeper.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "common/fd.h"
#include "support/eventually.h"
#include "support/temp_dir.h"

namespace lope::consumer {

namespace {

using test::TempDir;

std::unique_ptr<StreamKeeper> open_keeper(const TempDir& dir) {
  auto keeper = StreamKeeper::open(dir.file("state"), "group");
  if (!keeper) FAIL(keeper.error());
  return std::move(*keeper);
}

StreamPosition seen(std::int64_t offset) {
  StreamPosition position;
  position.seen = offset;
  return position;
}

}  // namespace

TEST_CASE("the latest position of each stream is kept", "[unit][stream_keeper]") {
  const TempDir dir;
  const std::string odd = "../a/b \n%" + std::string(240, 'q');
  {
    const auto keeper = open_keeper(dir);
    const auto none = keeper->load("one");
    REQUIRE(none);
    CHECK_FALSE(none->has_value());
    for (int i = 0; i < 1000; ++i) keeper->save("one", seen(i));
    keeper->save(odd, seen(7));
    keeper->save(odd + "r", seen(8));
    keeper->finish();
    CHECK(keeper->take_trouble().empty());
    keeper->save("one", seen(1000));  // at the end, too
  }
  const auto keeper = open_keeper(dir);
  CHECK(**keeper->load("one") == seen(1000));
  CHECK(**keeper->load(odd) == seen(7));
  CHECK(**keeper->load(odd + "r") == seen(8));
  CHECK(keeper->path_of("one") == dir.file("state") + "/streams/group/one.offset");
  // Everything is in that folder.
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir.file("state"))) {
    if (entry.is_regular_file()) ++files;
  }
  CHECK(files == 4);  // the lock among them
}

TEST_CASE("what a writer left that was killed is no position", "[unit][stream_keeper]") {
  const TempDir dir;
  const auto keeper = open_keeper(dir);
  keeper->save("s", seen(5));
  keeper->finish();
  std::ofstream(keeper->path_of("s") + ".new") << "lope stream pos";  // it did not come to rename
  CHECK(**keeper->load("s") == seen(5));
  keeper->save("s", seen(6));
  keeper->finish();
  CHECK(**keeper->load("s") == seen(6));
}

TEST_CASE("a damaged or unreadable position is an error, not none", "[unit][stream_keeper]") {
  const TempDir dir;
  const auto keeper = open_keeper(dir);
  std::ofstream(keeper->path_of("s")) << "lope stream position 1\nseen 5\n";
  const auto damaged = keeper->load("s");
  REQUIRE_FALSE(damaged);
  CHECK(damaged.error().find(keeper->path_of("s")) != std::string::npos);
  std::filesystem::create_directory(keeper->path_of("t"));
  CHECK_FALSE(keeper->load("t"));
}

TEST_CASE("one at a time may keep a group's positions", "[unit][stream_keeper]") {
  const TempDir dir;
  auto first = open_keeper(dir);
  const auto second = StreamKeeper::open(dir.file("state"), "group");
  REQUIRE_FALSE(second);
  CHECK(second.error().find("another daemon") != std::string::npos);
  CHECK(StreamKeeper::open(dir.file("state"), "other"));
  first.reset();
  CHECK(StreamKeeper::open(dir.file("state"), "group"));
}

TEST_CASE("a disk that hangs keeps nobody from ending", "[unit][stream_keeper]") {
  const TempDir dir;
  auto keeper = open_keeper(dir);
  const std::string path = keeper->path_of("s");
  // Who opens it to write waits for a reader.
  REQUIRE(::mkfifo((path + ".new").c_str(), 0600) == 0);
  keeper->save("s", seen(1));
  CHECK_FALSE(keeper->finish(std::chrono::milliseconds(10)));
  const auto before = std::chrono::steady_clock::now();
  keeper.reset();
  CHECK(std::chrono::steady_clock::now() - before < StreamKeeper::kPatience / 2);
  // The folder is not another's before the write is over.
  CHECK_FALSE(StreamKeeper::open(dir.file("state"), "group"));
  const UniqueFd reader(::open((path + ".new").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  REQUIRE(reader.valid());
  CHECK(test::eventually(std::chrono::seconds(20),
                         [&] { return StreamKeeper::open(dir.file("state"), "group").ok(); }));
}

TEST_CASE("a write that fails is told, once", "[unit][stream_keeper]") {
  const TempDir dir;
  const auto keeper = open_keeper(dir);
  std::filesystem::create_directory(keeper->path_of("s"));  // in the way
  keeper->save("s", seen(1));
  keeper->finish();
  CHECK(keeper->take_trouble().find("rename") != std::string::npos);
  CHECK(keeper->take_trouble().empty());
  CHECK_FALSE(StreamKeeper::open("", "group"));
  CHECK_FALSE(StreamKeeper::open("/proc/none", "group"));
}

}  // namespace lope::consumer
