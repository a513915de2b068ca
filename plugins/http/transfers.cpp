#include "transfers.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace lope::http {

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}

// Only mistakes of our own, and no memory.
void check(CURLMcode code, const char* call) {
  if (code == CURLM_OUT_OF_MEMORY) throw std::bad_alloc();
  if (code != CURLM_OK)
    throw std::runtime_error(std::string(call) + ": " + curl_multi_strerror(code));
}

}  // namespace

Transfers::Fd::Fd(int fd, const char* call) : fd_(fd) {
  if (fd < 0) fail(call);
}
Transfers::Fd::~Fd() { ::close(fd_); }

Transfers::Transfers(std::size_t at_a_time, Begin begin, Done done)
    : at_a_time_(at_a_time),
      begin_(std::move(begin)),
      done_(std::move(done)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1"),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"),
      multi_(curl_multi_init()) {
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || multi_ == nullptr)
    throw std::bad_alloc();
  CURLM* const multi = multi_.get();
  curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, &Transfers::on_socket);
  curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, this);
  curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, &Transfers::on_timer);
  curl_multi_setopt(multi, CURLMOPT_TIMERDATA, this);
  // All connections can be kept for the next transfers.
  curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, static_cast<long>(at_a_time));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) fail("epoll_ctl");
  thread_ = std::thread([this] { run(); });
}

Transfers::~Transfers() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake();
  thread_.join();
}

void Transfers::start(CURL* easy) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(easy);
    if (running_count_ >= at_a_time_) return;  // its turn comes when another has ended
  }
  if (asleep_.exchange(false)) wake();
}

std::size_t Transfers::drain(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  const std::size_t not_begun = waiting_.size();
  waiting_.clear();
  const auto landed = [this] { return running_count_ == 0 && waiting_.empty(); };
  if (landed_.wait_for(lock, limit, landed)) return not_begun;
  const std::size_t given_up = not_begun + running_count_ + waiting_.size();
  giving_up_ = true;
  wake();
  landed_.wait(lock, landed);
  giving_up_ = false;
  return given_up;
}

void Transfers::run() {
  while (true) {
    bool giving_up = false, ending = false;
    {
      const std::lock_guard lock(mutex_);
      giving_up = giving_up_;
      ending = ending_;
    }
    if (giving_up || ending) give_up();
    if (ending) return;
    start_waiting();
    if (timeout_ms() == 0) {
      int running = 0;
      timer_.reset();
      check(curl_multi_socket_action(multi_.get(), CURL_SOCKET_TIMEOUT, 0, &running),
            "curl_multi_socket_action");
    }
    look_for_ended();
    wait_for_events();
  }
}

void Transfers::start_waiting() {
  const auto next = [this]() -> CURL* {
    const std::lock_guard lock(mutex_);
    if (waiting_.empty() || running_.size() >= at_a_time_) return nullptr;
    CURL* const easy = waiting_.front();
    waiting_.pop_front();
    running_.insert(easy);
    running_count_ = running_.size();
    return easy;
  };
  while (CURL* const easy = next()) {
    if (!begin_(easy)) {
      running_.erase(easy);
      continue;  // look_for_ended() counts what is left
    }
    check(curl_multi_add_handle(multi_.get(), easy), "curl_multi_add_handle");
  }
}

void Transfers::look_for_ended() {
  int left = 0;
  while (const CURLMsg* const message = curl_multi_info_read(multi_.get(), &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    CURL* const easy = message->easy_handle;
    const CURLcode result = message->data.result;
    check(curl_multi_remove_handle(multi_.get(), easy), "curl_multi_remove_handle");
    running_.erase(easy);
    done_(easy, result);
  }
  const std::lock_guard lock(mutex_);
  running_count_ = running_.size();
  if (running_count_ == 0 && waiting_.empty()) landed_.notify_all();
}

void Transfers::give_up() {
  for (CURL* const easy : running_) curl_multi_remove_handle(multi_.get(), easy);
  running_.clear();
  const std::lock_guard lock(mutex_);
  running_count_ = 0;
  waiting_.clear();
  landed_.notify_all();
}

bool Transfers::has_work() const {
  return giving_up_ || ending_ || (!waiting_.empty() && running_.size() < at_a_time_);
}

int Transfers::timeout_ms() const {
  if (!timer_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*timer_ - Clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 3'600'000));
}

void Transfers::wait_for_events() {
  int timeout = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!has_work()) {
      asleep_ = true;
      timeout = timeout_ms();
    }
  }
  epoll_event events[256];
  const int count = ::epoll_wait(epoll_.get(), events, std::size(events), timeout);
  asleep_ = false;
  if (count < 0 && errno != EINTR) fail("epoll_wait");
  for (int i = 0; i < count; ++i) {
    const int fd = events[i].data.fd;
    if (fd == wake_.get()) {
      std::uint64_t times = 0;
      if (::read(fd, &times, sizeof times) < 0 && errno != EAGAIN) fail("read");
      continue;
    }
    const std::uint32_t what = events[i].events;
    const int flags = ((what & (EPOLLIN | EPOLLHUP)) != 0 ? CURL_CSELECT_IN : 0) |
                      ((what & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
                      ((what & EPOLLERR) != 0 ? CURL_CSELECT_ERR : 0);
    int running = 0;
    check(curl_multi_socket_action(multi_.get(), fd, flags, &running), "curl_multi_socket_action");
  }
}

void Transfers::wake() {
  const std::uint64_t one = 1;
  // EAGAIN: the counter is at its limit, so awake it will be.
  if (::write(wake_.get(), &one, sizeof one) < 0 && errno != EAGAIN) fail("write");
}

int Transfers::on_socket(CURL*, curl_socket_t socket, int what, void* self, void* known) {
  Transfers& me = *static_cast<Transfers*>(self);
  if (what == CURL_POLL_REMOVE) {
    ::epoll_ctl(me.epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
    return 0;
  }
  epoll_event event{};
  event.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
  event.data.fd = socket;
  const int operation = known == nullptr ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  if (::epoll_ctl(me.epoll_.get(), operation, socket, &event) != 0) return -1;
  if (known == nullptr) curl_multi_assign(me.multi_.get(), socket, &me);
  return 0;
}

int Transfers::on_timer(CURLM*, long timeout_ms, void* self) {
  Transfers& me = *static_cast<Transfers*>(self);
  me.timer_.reset();
  if (timeout_ms >= 0) me.timer_ = Clock::now() + std::chrono::milliseconds(timeout_ms);
  return 0;
}

}  // namespace lope::http
