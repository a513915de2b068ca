#include "worker/memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

namespace lope::worker {

ResidentMemory::ResidentMemory() : file_(::open("/proc/self/statm", O_RDONLY | O_CLOEXEC)) {}

std::uint64_t ResidentMemory::bytes() const {
  char text[128] = {};
  if (!file_.valid() || ::pread(file_.get(), text, sizeof text - 1, 0) <= 0) return 0;
  char* end = nullptr;
  std::strtoul(text, &end, 10);  // the whole size, in pages; then what is resident
  return std::strtoul(end, nullptr, 10) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace lope::worker
