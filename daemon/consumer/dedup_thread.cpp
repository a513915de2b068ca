#include "consumer/dedup_thread.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "common/clock.h"
#include "common/detached_thread.h"
#include "common/fd.h"

namespace lope::consumer {

namespace {

constexpr std::chrono::seconds kTend{1};
// What nobody waits for an answer of is tried again so long after it has failed.
constexpr std::chrono::seconds kAgain{2};

// Of what has failed, what is to be tried again: a claim that is not released stands in the way,
// one that is not renewed lapses.
void keep_unanswered(std::vector<DedupOp>& ops) {
  std::unordered_set<std::uint64_t> over, renewed;
  for (const DedupOp& op : ops) {
    if (op.kind == DedupOp::Kind::done || op.kind == DedupOp::Kind::release) over.insert(op.token);
  }
  std::erase_if(ops, [&](const DedupOp& op) {
    if (is_answered(op)) return true;
    return op.kind == DedupOp::Kind::renew &&
           (over.contains(op.token) || !renewed.insert(op.token).second);
  });
}

}  // namespace

struct DedupThread::Shared {
  std::function<std::unique_ptr<DedupStore>()> make;
  UniqueFd event;
  std::atomic<bool> answered = false;  // `answers` is not empty

  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable ended;
  // Guarded by mutex.
  std::vector<DedupOp> ops;
  DedupTimes times;
  std::vector<DedupAnswer> answers;
  std::string trouble;
  bool idle = false;
  bool stop = false;
  bool over = false;
};

Result<std::unique_ptr<DedupThread>> DedupThread::start(
    std::function<std::unique_ptr<DedupStore>()> make, std::chrono::milliseconds closing) {
  auto event = make_eventfd();
  if (!event) return Error{event.error()};
  auto shared = std::make_shared<Shared>();
  shared->make = std::move(make);
  shared->event = std::move(*event);
  if (auto started = start_detached_thread([shared] { run(*shared); }); !started) {
    return Error{"dedup store: " + started.error()};
  }
  return std::unique_ptr<DedupThread>(new DedupThread(std::move(shared), closing));
}

DedupThread::~DedupThread() {
  std::unique_lock lock(shared_->mutex);
  shared_->stop = true;
  shared_->wake.notify_one();
  shared_->ended.wait_for(lock, closing_, [this] { return shared_->over; });
}

void DedupThread::submit(std::vector<DedupOp>& ops, const DedupTimes& times) {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->ops.empty()) {
    shared_->ops.swap(ops);
  } else {
    std::move(ops.begin(), ops.end(), std::back_inserter(shared_->ops));
  }
  ops.clear();
  shared_->times = times;
  if (shared_->idle) shared_->wake.notify_one();
}

int DedupThread::event_fd() const { return shared_->event.get(); }

void DedupThread::take(std::vector<DedupAnswer>& answers, std::string& trouble) {
  if (!shared_->answered.load(std::memory_order_acquire)) return;
  // Under the lock: what is written there belongs to answers that are taken now.
  const std::lock_guard lock(shared_->mutex);
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(shared_->event.get(), &count, sizeof count);
  shared_->answered.store(false, std::memory_order_relaxed);
  std::move(shared_->answers.begin(), shared_->answers.end(), std::back_inserter(answers));
  shared_->answers.clear();
  if (!shared_->trouble.empty()) trouble = std::exchange(shared_->trouble, {});
}

void DedupThread::run(Shared& shared) {
  std::unique_ptr<DedupStore> store = shared.make();
  std::vector<DedupOp> ops;
  std::vector<DedupOp> again;  // what has failed, before what came since
  std::vector<DedupAnswer> answers;
  TimePoint again_at = TimePoint::max();
  auto tend_at = std::chrono::steady_clock::now() + kTend;
  std::unique_lock lock(shared.mutex);
  while (true) {
    shared.idle = true;
    const bool woken = shared.wake.wait_until(lock, std::min(tend_at, again_at), [&shared] {
      return shared.stop || !shared.ops.empty();
    });
    shared.idle = false;
    const bool last = woken && shared.ops.empty();
    if (last && again.empty()) break;
    ops.swap(shared.ops);
    if (last || !ops.empty() || Clock::now() >= again_at) {
      ops.insert(ops.begin(), std::make_move_iterator(again.begin()),
                 std::make_move_iterator(again.end()));
      again.clear();
      again_at = TimePoint::max();
    }
    const DedupTimes times = shared.times;
    lock.unlock();
    std::string trouble;
    if (!ops.empty()) {
      if (auto applied = store->apply(ops, times, answers); !applied) {
        trouble = applied.error();
        answers.clear();
        for (const DedupOp& op : ops) {
          if (!is_answered(op)) continue;
          answers.push_back({.kind = DedupAnswer::Kind::failed, .token = op.token});
        }
      }
      if (!trouble.empty() && !last) {
        keep_unanswered(ops);
        again.swap(ops);
        if (!again.empty()) again_at = Clock::now() + kAgain;
      }
      ops.clear();
    }
    if (const auto now = std::chrono::steady_clock::now(); now >= tend_at) {
      store->tend();
      tend_at = now + kTend;
    }
    lock.lock();
    if (last) break;
    if (answers.empty()) continue;
    shared.trouble = std::move(trouble);  // empty: it works again
    const bool first = shared.answers.empty();
    std::move(answers.begin(), answers.end(), std::back_inserter(shared.answers));
    answers.clear();
    shared.answered.store(true, std::memory_order_release);
    if (!first) continue;
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(shared.event.get(), &one, sizeof one);
  }
  lock.unlock();
  store.reset();
  lock.lock();
  shared.over = true;
  shared.ended.notify_one();
}

}  // namespace lope::consumer
