// Sees when a file in the folder of handlers is new or has been replaced (inotify).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/event_loop.h"
#include "common/fd.h"

namespace lope::supervisor {

class HandlerWatch {
 public:
  // `matters`: is this handler anybody's? `on_change`: some of those have changed, and then nothing
  // for a moment: whoever writes several is probably done.
  static Result<std::unique_ptr<HandlerWatch>> create(
      EventLoop& loop, std::string folder, std::function<bool(std::string_view handler)> matters,
      std::function<void()> on_change);
  HandlerWatch(const HandlerWatch&) = delete;
  HandlerWatch& operator=(const HandlerWatch&) = delete;

  // A folder that is not there, or has been replaced, is looked for again. Call now and then.
  void tend();

 private:
  HandlerWatch(std::string folder, std::function<bool(std::string_view)> matters)
      : folder_(std::move(folder)), matters_(std::move(matters)) {}
  void read_events();

  const std::string folder_;
  std::function<bool(std::string_view)> matters_;
  UniqueFd inotify_;
  int watch_ = -1;
  EventSource source_;
  EventSource timer_;
};

}  // namespace lope::supervisor
