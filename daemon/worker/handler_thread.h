// One handler instance and the loop that feeds it: view of the bytes, handle(), outcome.
// All of it runs on the thread that made the object.
#pragma once

#include "worker/host.h"
#include "worker/inbox.h"

namespace lope::worker {

class HandlerThread {
 public:
  HandlerThread(const WorkerSettings& settings, const Plugin& plugin, std::uint32_t thread_index,
                WorkerBoard& board, LinkWriter& link, Inbox& inbox);

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
  void handle(std::uint64_t sequence, const DeliveryView& view);
  lope_outcome call_handler();

  const Plugin& plugin_;
  WorkerBoard& board_;
  WorkerBoard::Slot& slot_;
  LinkWriter& link_;
  Inbox& inbox_;
  Host host_;
  lope_handler* instance_ = nullptr;
  CurrentMessage current_;
};

}  // namespace lope::worker
