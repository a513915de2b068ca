#include "consumer/dedup_thread.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>

#include "common/fd.h"

namespace lope::consumer {

namespace {

constexpr std::chrono::seconds kTend{1};
constexpr std::chrono::seconds kClosing{2};

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
    std::function<std::unique_ptr<DedupStore>()> make) {
  auto event = make_eventfd();
  if (!event) return Error{event.error()};
  auto shared = std::make_shared<Shared>();
  shared->make = std::move(make);
  shared->event = std::move(*event);
  // Signals are the main thread's.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::string trouble;
  try {
    std::thread([shared] { run(*shared); }).detach();
  } catch (const std::system_error& error) {
    trouble = std::string("dedup store: cannot start a thread: ") + error.what();
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!trouble.empty()) return Error{std::move(trouble)};
  return std::unique_ptr<DedupThread>(new DedupThread(std::move(shared)));
}

DedupThread::~DedupThread() {
  std::unique_lock lock(shared_->mutex);
  shared_->stop = true;
  shared_->wake.notify_one();
  shared_->ended.wait_for(lock, kClosing, [this] { return shared_->over; });
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
  std::vector<DedupAnswer> answers;
  auto tend_at = std::chrono::steady_clock::now() + kTend;
  std::unique_lock lock(shared.mutex);
  while (true) {
    shared.idle = true;
    const bool woken = shared.wake.wait_until(
        lock, tend_at, [&shared] { return shared.stop || !shared.ops.empty(); });
    shared.idle = false;
    if (woken && shared.ops.empty()) break;
    ops.swap(shared.ops);
    const DedupTimes times = shared.times;
    lock.unlock();
    std::string trouble;
    if (!ops.empty()) {
      if (auto applied = store->apply(ops, times, answers); !applied) {
        trouble = applied.error();
        answers.clear();
        for (const DedupOp& op : ops) {
          if (op.kind != DedupOp::Kind::claim && op.kind != DedupOp::Kind::done) continue;
          answers.push_back({.kind = DedupAnswer::Kind::failed, .token = op.token});
        }
      }
      ops.clear();
    }
    if (const auto now = std::chrono::steady_clock::now(); now >= tend_at) {
      store->tend();
      tend_at = now + kTend;
    }
    lock.lock();
    if (!trouble.empty()) shared.trouble = std::move(trouble);
    if (answers.empty()) continue;
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
