// The host side of the ABI for one handler instance: the function table a handler calls, and what
// stands behind it. A function that this version does not carry out returns LOPE_E_UNSUPPORTED.
#pragma once

#include <lope/handler.h>

#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "common/link.h"
#include "common/scoreboard.h"
#include "common/settings.h"
#include "worker/plugin.h"

namespace lope::worker {

// Writes frames to the consumer. [any thread]
class LinkWriter {
 public:
  LinkWriter(int link_fd, int wake_fd) : link_fd_(link_fd), wake_fd_(wake_fd) {}
  // Blocks while the link is full. Nothing to report: without its consumer the worker ends anyway.
  void send(FrameType type, std::uint64_t sequence, std::string_view payload);
  void send_log(LogLevel level, std::string_view text);
  void send_explanation(std::uint64_t sequence, std::string_view text);
  void send_failure(bool refused, std::string_view text);
  // Wakes the consumer; it looks at the scoreboard.
  void wake();

 private:
  const int link_fd_;
  const int wake_fd_;
  std::mutex mutex_;
};

// What the instance is working on; reached from lope_message::host_data.
struct CurrentMessage {
  lope_message message{};
  DeliveryView view;
  std::uint64_t sequence = 0;
  std::string explanation;  // of explain(); kept between messages for its memory
};

class Host {
 public:
  Host(const WorkerSettings& settings, const Plugin& plugin, std::uint32_t thread_index,
       WorkerBoard& board, LinkWriter& link);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  const lope_host* table() const { return &padded_.table; }

  // [handler] The message a handle call is about; nullptr outside of one.
  void set_current(CurrentMessage* current) { current_ = current; }
  const std::string& create_explanation() const { return create_explanation_; }

 private:
  // Behind the table, where a handler newer than this host would look for functions.
  static constexpr int kSpareSlots = 32;
  struct PaddedTable {
    lope_host table;
    lope_status (*spare[kSpareSlots])() noexcept;
  };
  struct Calls;  // the functions of the table
  friend struct Calls;

  // The message's record if it is the one of the running call, on its thread; or nullptr.
  CurrentMessage* record(const lope_message* message) const;

  const WorkerSettings& settings_;
  const Plugin& plugin_;
  WorkerBoard& board_;
  LinkWriter& link_;
  const std::thread::id thread_ = std::this_thread::get_id();
  CurrentMessage* current_ = nullptr;
  std::string create_explanation_;
  PaddedTable padded_{};
};

}  // namespace lope::worker
