// Many transfers at a time on one thread: libcurl's multi interface over epoll. What a transfer is
// about is its handle's own affair.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_set>

#include "curl.hpp"

namespace lope::http {

class Transfers {
 public:
  using Begin = std::function<bool(CURL* easy)>;
  using Done = std::function<void(CURL* easy, CURLcode result)>;

  // At most `at_a_time` run, the others wait. `begin` is asked before each whose turn it is: false
  // is that it need not run. `done` is told of each that has ended. Both on the thread of the
  // transfers; then, and after a false, the handle is the caller's again. Throws std::system_error,
  // std::bad_alloc.
  Transfers(std::size_t at_a_time, Begin begin, Done done);
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;
  // Gives up what has not ended: neither hears of it any more.
  ~Transfers();

  // [any thread, and from `done`] `easy` stays where it is until it has ended, or was given up.
  void start(CURL* easy);
  // [any thread] Waits until what runs has ended, for so long; then, as with what has not begun,
  // gives it up. Returns how many that were.
  std::size_t drain(std::chrono::milliseconds limit);

 private:
  class Fd {
   public:
    Fd(int fd, const char* call);  // throws std::system_error when it is none
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd();
    int get() const { return fd_; }

   private:
    const int fd_;
  };

  static int on_socket(CURL*, curl_socket_t socket, int what, void* self, void* known);
  static int on_timer(CURLM*, long timeout_ms, void* self);

  void run();
  void start_waiting();
  void look_for_ended();
  void give_up();
  void wait_for_events();
  // Whether there is something to do without an event. Under the lock.
  bool has_work() const;
  int timeout_ms() const;
  void wake();

  const std::size_t at_a_time_;
  const Begin begin_;
  const Done done_;
  const Fd epoll_;
  const Fd wake_;

  // The thread's.
  Multi multi_;
  std::unordered_set<CURL*> running_;
  std::optional<std::chrono::steady_clock::time_point> timer_;

  std::atomic<bool> asleep_ = false;  // for start(): the thread waits for events
  std::mutex mutex_;                  // guards the rest
  std::condition_variable landed_;
  std::deque<CURL*> waiting_;
  std::size_t running_count_ = 0;
  bool giving_up_ = false;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace lope::http
