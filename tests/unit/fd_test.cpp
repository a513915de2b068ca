#include "common/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cerrno>
#include <cstdint>
#include <string>

#include "support/temp_dir.h"

namespace lope {

namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
bool is_close_on_exec(int fd) { return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

}  // namespace

TEST_CASE("a descriptor is closed with its owner, once", "[unit][fd]") {
  int number = -1;
  {
    auto made = make_eventfd();
    REQUIRE(made);
    UniqueFd owner = std::move(*made);
    number = owner.get();
    CHECK(is_open(number));
    const UniqueFd next = std::move(owner);
    CHECK_FALSE(owner.valid());
    CHECK(next.get() == number);
    CHECK(is_open(number));
  }
  CHECK_FALSE(is_open(number));
}

TEST_CASE("a released descriptor stays open, a reset one does not", "[unit][fd]") {
  auto made = make_eventfd();
  REQUIRE(made);
  const int number = made->get();
  CHECK(made->release() == number);
  CHECK_FALSE(made->valid());
  CHECK(is_open(number));
  UniqueFd owner(number);
  owner.reset();
  CHECK_FALSE(is_open(number));
}

TEST_CASE("a descriptor that is assigned over is closed", "[unit][fd]") {
  auto first = make_eventfd();
  auto second = make_eventfd();
  REQUIRE(first);
  REQUIRE(second);
  const int closed = first->get();
  const int kept = second->get();
  *first = std::move(*second);
  CHECK_FALSE(is_open(closed));
  CHECK(first->get() == kept);
}

TEST_CASE("every descriptor is close-on-exec from birth", "[unit][fd]") {
  const auto stream = make_stream_pair();
  const auto packet = make_packet_pair();
  const auto pipe = make_pipe();
  const auto event = make_eventfd();
  const auto memory = make_memfd("test", "x");
  const auto shared = make_shared_memory("test", 4096);
  const auto program = open_program("/bin/sh");
  REQUIRE((stream && packet && pipe && event && memory && shared && program));
  for (const int fd : {stream->first.get(), stream->second.get(), packet->first.get(),
                       packet->second.get(), pipe->first.get(), pipe->second.get(), event->get(),
                       memory->get(), shared->get(), program->get()}) {
    CHECK(is_close_on_exec(fd));
  }
}

TEST_CASE("a stream pair carries bytes, a packet pair keeps packets apart", "[unit][fd]") {
  const auto stream = make_stream_pair();
  const auto packet = make_packet_pair();
  REQUIRE((stream && packet));
  char buffer[16];
  for (const auto& [pair, expected] : {std::pair{&*stream, 4}, {&*packet, 2}}) {
    REQUIRE(::write(pair->first.get(), "ab", 2) == 2);
    REQUIRE(::write(pair->first.get(), "cd", 2) == 2);
    CHECK(::read(pair->second.get(), buffer, sizeof buffer) == expected);
  }
}

TEST_CASE("a memfd gives back what it was made of, and cannot be changed", "[unit][fd]") {
  const std::string content =
      GENERATE(as<std::string>(), "", "x", std::string(3'000'000, 'y'), std::string("a\0b", 3));
  const auto fd = make_memfd("test", content);
  REQUIRE(fd);
  const auto read = read_all_at(fd->get());
  REQUIRE(read);
  CHECK(*read == content);
  // Reading does not move anything: the next reader finds it all too.
  CHECK(*read_all_at(fd->get()) == content);
  CHECK(::pwrite(fd->get(), "z", 1, 0) < 0);
  CHECK(errno == EPERM);
  CHECK(::ftruncate(fd->get(), 0) == (content.empty() ? 0 : -1));
}

TEST_CASE("shared memory is zero, writable, and keeps its size", "[unit][fd]") {
  const auto fd = make_shared_memory("test", 8192);
  REQUIRE(fd);
  struct stat info {};
  REQUIRE(::fstat(fd->get(), &info) == 0);
  CHECK(info.st_size == 8192);
  CHECK(*read_all_at(fd->get()) == std::string(8192, '\0'));
  CHECK(::pwrite(fd->get(), "z", 1, 8191) == 1);
  CHECK(::ftruncate(fd->get(), 4096) < 0);
  CHECK(::ftruncate(fd->get(), 16384) < 0);
}

TEST_CASE("an eventfd never blocks its reader", "[unit][fd]") {
  const auto event = make_eventfd();
  REQUIRE(event);
  std::uint64_t count = 0;
  CHECK(::read(event->get(), &count, sizeof count) < 0);
  CHECK(errno == EAGAIN);
  const std::uint64_t one = 1;
  REQUIRE(::write(event->get(), &one, sizeof one) == sizeof one);
  CHECK(::read(event->get(), &count, sizeof count) == sizeof count);
  CHECK(count == 1);
}

TEST_CASE("blocking is switched off and on again", "[unit][fd]") {
  const auto pipe = make_pipe();
  REQUIRE(pipe);
  REQUIRE(set_nonblocking(pipe->first.get(), true));
  char byte = 0;
  CHECK(::read(pipe->first.get(), &byte, 1) < 0);
  CHECK(errno == EAGAIN);
  REQUIRE(set_nonblocking(pipe->first.get(), false));
  CHECK((::fcntl(pipe->first.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("system calls that fail are errors with the call's name", "[unit][fd]") {
  CHECK_THAT(set_nonblocking(-1, true).error(), Catch::Contains("fcntl"));
  CHECK_THAT(set_close_on_exec(-1).error(), Catch::Contains("fcntl"));
  CHECK_THAT(read_all_at(-1).error(), Catch::Contains("fstat"));
  const auto program = open_program("/nowhere/program");
  REQUIRE_FALSE(program);
  CHECK_THAT(program.error(),
             Catch::Contains("/nowhere/program") && Catch::Contains("No such file"));
}

}  // namespace lope
