#include "common/detached_thread.h"

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "common/signals_blocked.h"

namespace lope {

Result<void> start_detached_thread(std::function<void()> run) {
  const SignalsBlocked blocked;
  try {
    std::thread(std::move(run)).detach();
  } catch (const std::system_error& error) {
    return Error{std::string("cannot start a thread: ") + error.what()};
  }
  return {};
}

}  // namespace lope
