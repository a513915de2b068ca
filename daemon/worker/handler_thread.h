// One handler instance and the loop that feeds it: views of the bytes, handle(), outcomes; flush().
// All of it runs on the thread that made the object.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "worker/content.h"
#include "worker/host.h"
#include "worker/inbox.h"
#include "worker/memory.h"
#include "worker/messages.h"

namespace lope::worker {

class HandlerThread {
 public:
  HandlerThread(const WorkerSettings& settings, const Plugin& plugin, std::uint32_t thread_index,
                WorkerBoard& board, LinkWriter& link, Inbox& inbox, HeldMessages& held,
                const Schema* schema = nullptr);

  struct Created {
    lope_status status = LOPE_OK;
    std::string reason;  // the handler's own word, when it failed
  };
  Created create();
  // Until the link closes.
  void run();
  // The handler's clean end. Only after a create() that succeeded.
  void destroy();

 private:
  // The deliveries in leases_.
  void handle();
  std::size_t prepare(std::size_t count);
  void call_begins(std::uint64_t now);
  void call_handler(std::size_t count);
  // The frame in leases_.
  void revoke();
  void flush(std::uint32_t reason);
  // When what is kept now is to be flushed, all in ns of CLOCK_MONOTONIC.
  std::uint64_t flush_due_after(std::uint64_t now) const;

  const WorkerSettings& settings_;
  const Plugin& plugin_;
  const std::uint32_t thread_index_;
  WorkerBoard& board_;
  WorkerBoard::Slot& slot_;
  LinkWriter& link_;
  Inbox& inbox_;
  HeldMessages& held_;
  Host host_;
  lope_handler* instance_ = nullptr;
  std::optional<Content> content_;        // when there is anything to be done with what comes
  std::optional<ResidentMemory> memory_;  // when it is to be measured
  std::uint64_t measure_due_ns_ = 0;
  std::uint64_t flush_due_ns_ = 0;  // CLOCK_MONOTONIC; 0: nothing to flush
  Inbox::Flushes flushes_;
  bool drained_ = false;    // has flushed for the last time
  bool wake_owed_ = false;  // the consumer sleeps, and is woken once a few more are done
  // Of the present call; kept for their memory.
  std::vector<Inbox::Lease> leases_;
  std::vector<std::unique_ptr<MessageRecord>> records_;
  std::vector<const lope_message*> messages_;
  std::vector<lope_outcome> outcomes_;
};

}  // namespace lope::worker
