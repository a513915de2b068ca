// The thread of a store, with a store that does what the test says.
#include <catch2/catch.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "consumer/dedup_thread.h"
#include "support/eventually.h"

using namespace lope;
using namespace lope::consumer;
using namespace lope::test;
using Kind = DedupAnswer::Kind;

namespace {

struct Script {
  std::mutex mutex;
  std::condition_variable changed;
  bool fails = false;
  bool hangs = false;
  std::vector<std::vector<DedupOp>> batches;

  void set(bool& which, bool to) {
    const std::lock_guard lock(mutex);
    which = to;
    changed.notify_all();
  }
  std::size_t count() {
    const std::lock_guard lock(mutex);
    return batches.size();
  }
};

class ScriptedStore : public DedupStore {
 public:
  explicit ScriptedStore(std::shared_ptr<Script> script) : script_(std::move(script)) {}
  Result<void> apply(std::span<const DedupOp> ops, const DedupTimes&,
                     std::vector<DedupAnswer>& answers) override {
    std::unique_lock lock(script_->mutex);
    script_->batches.emplace_back(ops.begin(), ops.end());
    script_->changed.wait(lock, [this] { return !script_->hangs; });
    if (script_->fails) return Error{"it fails"};
    for (const DedupOp& op : ops) {
      if (op.kind == DedupOp::Kind::claim) {
        answers.push_back({.kind = Kind::claimed, .token = op.token});
      }
    }
    return {};
  }
  void tend() override {}

 private:
  const std::shared_ptr<Script> script_;
};

struct Running {
  std::shared_ptr<Script> script = std::make_shared<Script>();
  std::unique_ptr<DedupThread> thread;

  explicit Running(std::chrono::milliseconds closing = DedupThread::kClosing) {
    auto started =
        DedupThread::start([s = script] { return std::make_unique<ScriptedStore>(s); }, closing);
    REQUIRE(started);
    thread = std::move(*started);
  }
  void submit(DedupOp::Kind kind, std::uint64_t token) {
    std::vector<DedupOp> ops{{.kind = kind, .token = token, .key = "k"}};
    thread->submit(ops, {});
  }
  bool applied(std::size_t batches) {
    return eventually(20s, [&] { return script->count() >= batches; });
  }
  // The next answers, and why those failed that did.
  std::pair<std::vector<DedupAnswer>, std::string> answers() {
    std::vector<DedupAnswer> answers;
    std::string trouble;
    (void)eventually(20s, [&] {
      thread->take(answers, trouble);
      return !answers.empty();
    });
    return {std::move(answers), std::move(trouble)};
  }
};

}  // namespace

TEST_CASE("what failed and nobody waits for is tried again, and is no trouble of what came since",
          "[unit][dedup]") {
  Running it;
  it.script->set(it.script->fails, true);
  it.submit(DedupOp::Kind::release, 1);
  REQUIRE(it.applied(1));
  it.script->set(it.script->fails, false);
  SECTION("before what is asked next") {
    it.submit(DedupOp::Kind::claim, 2);
    const auto [answers, trouble] = it.answers();
    REQUIRE(answers.size() == 1);
    CHECK(answers[0].kind == Kind::claimed);
    CHECK(trouble.empty());
  }
  SECTION("when nothing is asked") {}
  REQUIRE(it.applied(2));
  it.thread.reset();
  REQUIRE(it.script->batches.size() == 2);
  CHECK(it.script->batches[1].front().kind == DedupOp::Kind::release);
  CHECK(it.script->batches[1].front().token == 1);
}

TEST_CASE("a claim that failed is answered with the reason, and not tried again", "[unit][dedup]") {
  Running it;
  it.script->set(it.script->fails, true);
  it.submit(DedupOp::Kind::claim, 1);
  const auto [answers, trouble] = it.answers();
  REQUIRE(answers.size() == 1);
  CHECK(answers[0].kind == Kind::failed);
  CHECK(trouble == "it fails");
  it.thread.reset();
  CHECK(it.script->batches.size() == 1);
}

TEST_CASE("of a claim that is over nothing is renewed", "[unit][dedup]") {
  Running it;
  it.script->set(it.script->fails, true);
  std::vector<DedupOp> ops{{.kind = DedupOp::Kind::renew, .token = 1, .key = "k"},
                           {.kind = DedupOp::Kind::renew, .token = 2, .key = "l"},
                           {.kind = DedupOp::Kind::renew, .token = 2, .key = "l"},
                           {.kind = DedupOp::Kind::done, .token = 1, .key = "k"}};
  it.thread->submit(ops, {});
  REQUIRE(it.applied(2));
  it.thread.reset();
  REQUIRE(it.script->batches[1].size() == 1);
  CHECK(it.script->batches[1][0].token == 2);
}

TEST_CASE("a store that hangs keeps nobody from ending", "[unit][dedup]") {
  Running it(10ms);
  it.script->set(it.script->hangs, true);
  it.submit(DedupOp::Kind::claim, 1);
  REQUIRE(it.applied(1));
  it.thread.reset();
  CHECK(it.script->count() == 1);
  it.script->set(it.script->hangs, false);
}
