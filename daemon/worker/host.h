// The host side of the ABI for one handler instance: the function table a handler calls, and what
// stands behind it. A function that this version does not carry out returns LOPE_E_UNSUPPORTED.
#pragma once

#include <lope/handler.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>

#include "common/scoreboard.h"
#include "common/settings.h"
#include "worker/link_writer.h"
#include "worker/messages.h"
#include "worker/plugin.h"

namespace lope::worker {

class Host {
 public:
  Host(const WorkerSettings& settings, const Plugin& plugin, std::uint32_t thread_index,
       WorkerBoard& board, LinkWriter& link, HeldMessages& held);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  const lope_host* table() const { return &padded_.table; }

  // [handler] The messages that a handle call is about; none outside of one.
  using Records = std::span<const std::unique_ptr<MessageRecord>>;
  void set_current(Records current) { current_ = current; }
  // [handler] Around the call of create().
  void set_creating(bool creating) { creating_ = creating; }
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

  // The record of a message of the running call, on its thread; otherwise nullptr.
  MessageRecord* find_current(const lope_message* message) const;
  // Runs f(record) if the message is one of the running call, on its thread, or a held one.
  template <typename F>
  bool with_record(const lope_message* message, F f) const;
  bool headers_of(const lope_message* message, std::string_view& headers) const;
  // With add_publication() or add_reply().
  using Add = lope_status (*)(const lope_publication*, std::int64_t max_body, MessageRecord&);
  lope_status publish(Add add, const lope_message* cause,
                      const lope_publication* publication) const;
  lope_status keep_alive(const lope_message* message);
  bool on_own_thread() const { return std::this_thread::get_id() == thread_; }

  const WorkerSettings& settings_;
  const Plugin& plugin_;
  WorkerBoard& board_;
  WorkerBoard::Slot& slot_;
  LinkWriter& link_;
  HeldMessages& held_;
  const std::thread::id thread_ = std::this_thread::get_id();
  Records current_;
  bool creating_ = false;
  std::string create_explanation_;
  PaddedTable padded_{};
};

}  // namespace lope::worker
