#include "worker/crash_report.h"

#include <execinfo.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <string_view>

namespace lope::worker {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

struct CrashSignal {
  int signal;
  std::string_view name;
};
constexpr CrashSignal kCrashSignals[] = {{SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"},
                                         {SIGFPE, "SIGFPE"},   {SIGILL, "SIGILL"},
                                         {SIGABRT, "SIGABRT"}, {SIGSYS, "SIGSYS"}};

constexpr std::size_t kStackSize = 64 * 1024;
constexpr int kMaxFrames = 64;
constexpr unsigned kMaxSeconds = 2;  // for the whole report

const WorkerBoard* crash_board = nullptr;
std::atomic<int> crash_signal = 0;    // of the crash that is being reported
thread_local int crash_thread = -1;   // of this worker; -1: one of the handler's own
thread_local bool reporting = false;  // this thread is writing the report
// Of the one message that this thread's handler is working on. Here, and not looked up in a crash:
// the handler may have scribbled over the message, but what it points to stays mapped.
thread_local const char* volatile crash_message_id = nullptr;
thread_local volatile std::size_t crash_message_id_size = 0;  // written last

// From here on all is called by signal handlers.

[[noreturn]] void die_of(int signal) {
  ::signal(signal, SIG_DFL);
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, signal);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
}

// The report has taken too long, or has been waiting for a lock.
void on_alarm(int) { die_of(crash_signal); }

// One line, put together without memory from anywhere.
class Line {
 public:
  Line& operator<<(std::string_view text) {
    const std::size_t size = std::min(text.size(), buffer_.size() - size_);
    std::memcpy(buffer_.data() + size_, text.data(), size);
    size_ += size;
    return *this;
  }
  Line& operator<<(std::uint64_t number) {
    char digits[20];
    const char* const end = std::to_chars(digits, digits + sizeof digits, number).ptr;
    return *this << std::string_view(digits, static_cast<std::size_t>(end - digits));
  }
  // In quotes, with a ? for each byte that is none of ASCII's printable ones.
  Line& quote(std::string_view text) {
    *this << "'";
    for (const char c : text.substr(0, buffer_.size() - size_)) {
      buffer_[size_++] = c >= 0x20 && c < 0x7F ? c : '?';
    }
    return *this << "'";
  }
  void write() const {
    if (::write(STDERR_FILENO, buffer_.data(), size_) < 0) return;  // nobody to tell
  }

 private:
  std::array<char, 512> buffer_;  // a message_id is no longer than 255
  std::size_t size_ = 0;
};

void write_first_line(int signal, const siginfo_t& info) {
  Line line;
  line << "lope-worker: ";
  for (const CrashSignal& known : kCrashSignals) {
    if (known.signal == signal) line << known.name;
  }
  if (info.si_code == SI_USER) {
    // kill(): any thread may have got it, whatever it is about.
    line << " from process " << static_cast<std::uint64_t>(info.si_pid);
  } else if (crash_thread < 0 || crash_board == nullptr) {
    line << " outside of the handlers' threads";
  } else {
    line << " in thread " << static_cast<std::uint64_t>(crash_thread);
    const WorkerBoard::Slot& slot = crash_board->slots[static_cast<std::size_t>(crash_thread)];
    const std::uint64_t first = slot.sequence.load(std::memory_order_relaxed);
    const std::uint64_t last = slot.last.load(std::memory_order_relaxed);
    if (first == 0) {
      line << ", with no message";
    } else if (first == last) {
      line << ", with message " << first;
      const std::size_t size = crash_message_id_size;
      if (size > 0) (line << ", message_id ").quote({crash_message_id, size});
    } else {
      line << ", with messages " << first << " to " << last;
    }
  }
  line << "\n";
  line.write();
}

void on_crash(int signal, siginfo_t* info, void*) {
  if (reporting) die_of(signal);
  int none = 0;
  if (!crash_signal.compare_exchange_strong(none, signal)) {
    for (;;) ::pause();  // another thread is about to end us all
  }
  reporting = true;
  struct sigaction action {};
  action.sa_handler = on_alarm;
  ::sigaction(SIGALRM, &action, nullptr);
  ::sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, SIGALRM);
  ::pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  ::alarm(kMaxSeconds);

  write_first_line(signal, *info);
  void* frames[kMaxFrames];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, kMaxFrames), STDERR_FILENO);
  die_of(signal);
}

}  // namespace

void install_crash_report(const WorkerBoard& board) {
  if (kSanitized) return;
  crash_board = &board;
  void* frame = nullptr;
  ::backtrace(&frame, 1);  // loads what it needs: no time for that in a crash
  struct sigaction action {};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_ONSTACK | SA_SIGINFO;
  // A second fault of another kind ends the process at once, as one of the same kind does.
  for (const CrashSignal& known : kCrashSignals) ::sigaddset(&action.sa_mask, known.signal);
  for (const CrashSignal& known : kCrashSignals) {
    struct sigaction present {};
    ::sigaction(known.signal, nullptr, &present);
    if (present.sa_handler == SIG_DFL) ::sigaction(known.signal, &action, nullptr);
  }
}

void drop_crash_report() {
  for (const CrashSignal& known : kCrashSignals) {
    struct sigaction present {};
    ::sigaction(known.signal, nullptr, &present);
    const bool ours = (present.sa_flags & SA_SIGINFO) != 0 && present.sa_sigaction == on_crash;
    if (ours) ::signal(known.signal, SIG_DFL);
  }
}

CrashStack::CrashStack(std::uint32_t thread_index) {
  if (kSanitized) return;
  crash_thread = static_cast<int>(thread_index);
  stack_t stack{};
  if (::sigaltstack(nullptr, &stack) != 0 || (stack.ss_flags & SS_DISABLE) == 0) return;
  const std::size_t size = std::max(kStackSize, static_cast<std::size_t>(MINSIGSTKSZ));
  stack_ = std::make_unique_for_overwrite<char[]>(size);
  stack = {};
  stack.ss_sp = stack_.get();
  stack.ss_size = size;
  ::sigaltstack(&stack, nullptr);
}

CrashMessage::CrashMessage(std::string_view message_id) {
  crash_message_id = message_id.data();
  crash_message_id_size = message_id.size();
}

CrashMessage::~CrashMessage() { crash_message_id_size = 0; }

CrashStack::~CrashStack() {
  crash_thread = -1;
  stack_t stack{};
  // The handler's runtime may have set its own.
  if (stack_ == nullptr || ::sigaltstack(nullptr, &stack) != 0 || stack.ss_sp != stack_.get()) {
    return;
  }
  stack = {};
  stack.ss_flags = SS_DISABLE;
  ::sigaltstack(&stack, nullptr);
}

}  // namespace lope::worker
