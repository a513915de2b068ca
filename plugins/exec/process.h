// A program in a process group of its own: started at the speed of vfork(), ended with all of it.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>

namespace lope::plugins {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

// One of our ends, and the program's; ours does not block. Both are close-on-exec.
struct Pipe {
  Fd ours;
  Fd theirs;
};
// Throw std::system_error.
Pipe pipe_to_program();
Pipe pipe_from_program();

struct ProgramEnd {
  bool signalled = false;
  int code = 0;                   // exit code, or signal
  std::string to_string() const;  // "exit 3", "SIGSEGV"
};

// What execve() takes; argv and envp end with a null pointer.
struct ProgramStart {
  const char* path;
  const char* directory;  // null: the worker's
  char* const* argv;
  char* const* envp;
  int standard[3];  // its descriptors 0 to 2; it gets no others
};

// A program that runs, or has ended and is not reaped yet: until then the number of its group is
// nobody else's. It starts with default signals, none blocked, and is killed when the thread that
// started it ends.
class Process {
 public:
  // Returns once the program runs. Throws std::system_error, with the errno of execve() too.
  explicit Process(const ProgramStart& start);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  // Kills it and its group, and reaps.
  ~Process();

  pid_t pid() const { return pid_; }
  // Readable when the program has ended.
  int pidfd() const { return pidfd_.get(); }
  // To the program, and to whatever it has started that has not left its group.
  void signal_group(int number) const;
  // Kills what is left of the group and reaps the program, which must have ended.
  ProgramEnd reap();

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  Fd pidfd_;
};

}  // namespace lope::plugins
