#include "coprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace lope::plugins {

namespace {

constexpr std::size_t kRead = 256 * 1024;
constexpr std::size_t kMostOutgoing = 1024 * 1024;  // bytes that are made lines and not written
// More than the usual 64 KiB, but all pipes of a user together may not be large.
constexpr int kPipeSize = 256 * 1024;
constexpr std::chrono::milliseconds kFirstPause{100}, kLongestPause{10'000};
// After so long the host may have taken a message back, and is asked before it is sent.
constexpr std::chrono::seconds kSurelyOurs{1};
constexpr std::size_t kComplaints = 10;  // in a second
constexpr int kLastReads = 64;
constexpr const char* kDrained = "nothing is left for it to do";

bool is_readable(const Fd& pipe) {
  pollfd fd{pipe.get(), POLLIN, 0};
  return pipe.open() && ::poll(&fd, 1, 0) > 0;
}

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

Coprocess::Coprocess(const Host& host, const ExecSettings& settings)
    : host_(host),
      settings_(settings),
      measures_(host),
      arguments_(settings),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      buffer_(kRead),
      errors_(host, Level::warn, settings.log_lines) {
  if (!wake_.open()) fail("eventfd");
  arguments_.fill_constant();
  thread_ = std::thread([this] { run(); });
}

Coprocess::~Coprocess() {
  drain();
  thread_.join();
}

void Coprocess::take(const Message& message) {
  Waiting waiting{message, head_line(message), Clock::now()};
  const std::lock_guard lock(mutex_);
  if (draining_) throw Retry("its co-process is ending");
  arrived_.push_back(std::move(waiting));
  if (std::exchange(asleep_, false)) ::eventfd_write(wake_.get(), 1);
}

void Coprocess::drain() {
  std::unique_lock lock(mutex_);
  draining_ = true;
  ::eventfd_write(wake_.get(), 1);
  over_.wait(lock, [this] { return is_over_; });
}

void Coprocess::run() {
  while (step()) wait();
  const std::lock_guard lock(mutex_);
  is_over_ = true;
  over_.notify_all();
}

// False: it is over.
bool Coprocess::step() {
  bool draining = false;
  {
    const std::lock_guard lock(mutex_);
    std::move(arrived_.begin(), arrived_.end(), std::back_inserter(waiting_));
    arrived_.clear();
    draining = draining_;
  }
  if (draining) {  // what is not sent stays held, and the host hands it back
    take_back_unwritten();
    if (!waiting_.empty()) {
      host_.info(std::to_string(waiting_.size()) +
                 " messages that were not sent to the co-process go back to the broker");
    }
    waiting_.clear();
  }
  const bool idle = waiting_.empty() && in_the_air_.empty();
  if (draining && idle) {
    if (!process_) return false;
    in_.reset();
    if (next_signal_ == 0) end_at(Clock::now() + settings_.grace, kDrained);
  } else if (!process_ && Clock::now() >= start_due_) {
    start();
  }
  send();
  return true;
}

void Coprocess::start() {
  has_answered_ = false;
  const char* const directory = settings_.directory.empty() ? nullptr : settings_.directory.c_str();
  try {
    Pipe in = pipe_to_program();
    Pipe out = pipe_from_program();
    Pipe err = pipe_from_program();
    // Where that is not allowed there are more, smaller writes.
    ::fcntl(in.ours.get(), F_SETPIPE_SZ, kPipeSize);
    ::fcntl(out.ours.get(), F_SETPIPE_SZ, kPipeSize);
    process_.emplace(ProgramStart{settings_.program.c_str(),
                                  directory,
                                  arguments_.argv(),
                                  arguments_.envp(),
                                  {in.theirs.get(), out.theirs.get(), err.theirs.get()}});
    in_ = std::move(in.ours);
    out_ = std::move(out.ours);
    err_ = std::move(err.ours);
  } catch (const std::system_error& error) {
    why_not_ = settings_.program + ": " + error.what();
    ended();
    return;
  }
  measures_.started();
  errors_.begin(settings_.arguments.front().text() + "[" + std::to_string(process_->pid()) + "]: ");
}

void Coprocess::send() {
  if (!in_.open()) return;
  const auto now = Clock::now();
  while (!waiting_.empty() && in_the_air_.size() < settings_.window &&
         outgoing_.size() - written_ < kMostOutgoing) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    if (!is_ours(next, now)) continue;
    const std::uint64_t begin = begin_ + outgoing_.size();
    outgoing_ += next.head;
    append_body(outgoing_, next.message.body_text());
    const std::uint64_t id = next.message.id();
    in_the_air_.emplace(id, InTheAir{std::move(next), now, begin});
    sent_.push_back(id);
  }
  while (written_ < outgoing_.size()) {
    const ssize_t n = ::write(in_.get(), outgoing_.data() + written_, outgoing_.size() - written_);
    if (n > 0) {
      written_ += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {  // EPIPE: it reads no more, and is given time to end
      in_.reset();
      end_at(now + settings_.grace, "it has closed its input");
      return;
    }
  }
  begin_ += written_;
  outgoing_.clear();
  written_ = 0;
}

// False: it has run into the group's timeout, or was handed back, and comes again.
bool Coprocess::is_ours(const Waiting& next, Clock::time_point now) {
  if (now - next.since < kSurelyOurs) return true;
  try {
    if (next.message.keep_alive()) return true;
  } catch (const Error& error) {
    host_.warn("message " + std::to_string(next.message.id()) + ": " + error.what());
    return true;
  }
  host_.settle(next.message.id(), Outcome::retry);  // stale: the host forgets it
  return false;
}

// What the program cannot know of waits again, in front of the others.
void Coprocess::take_back_unwritten() {
  while (!sent_.empty()) {
    const auto last = in_the_air_.find(sent_.back());
    if (last != in_the_air_.end()) {
      const std::uint64_t begin = last->second.begin;
      if (begin < begin_ + written_) return;
      outgoing_.resize(static_cast<std::size_t>(begin - begin_));
      waiting_.push_front(std::move(last->second.waiting));
      in_the_air_.erase(last);
    }
    sent_.pop_back();
  }
}

void Coprocess::wait() {
  bool sleeps = false;
  {
    const std::lock_guard lock(mutex_);
    sleeps = asleep_ = arrived_.empty();
  }
  const auto due = next_due();
  int timeout = -1;
  if (!sleeps) {
    timeout = 0;  // there is more to send, but its answers are looked at as well
  } else if (due != Clock::time_point::max()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
    timeout = static_cast<int>(std::clamp<decltype(left)>(left, 0, 3'600'000));
  }
  const bool full = written_ < outgoing_.size();
  pollfd fds[] = {{wake_.get(), POLLIN, 0},
                  {out_.get(), POLLIN, 0},  // one that is closed is passed over
                  {err_.get(), POLLIN, 0},
                  {in_.get(), static_cast<short>(full ? POLLOUT : 0), 0},
                  {process_ ? process_->pidfd() : -1, POLLIN, 0}};
  if (::poll(fds, std::size(fds), timeout) < 0 && errno != EINTR) fail("poll");
  {
    const std::lock_guard lock(mutex_);
    asleep_ = false;
  }
  if (fds[0].revents != 0) {
    eventfd_t count = 0;
    ::eventfd_read(wake_.get(), &count);
  }
  if (fds[1].revents != 0) receive();
  if (fds[2].revents != 0) read_errors();
  if ((fds[3].revents & POLLERR) != 0) {
    in_.reset();
    end_at(Clock::now() + settings_.grace, "it has closed its input");
  }
  look_at_time();
  if (fds[4].revents != 0) {
    // What it said before it ended counts; what it has started may hold its pipes, and fill them.
    for (int i = 0; i < kLastReads && is_readable(out_); ++i) receive();
    for (int i = 0; i < kLastReads && is_readable(err_); ++i) read_errors();
    errors_.end();
    const ProgramEnd how = process_->reap();
    process_.reset();
    last_end_ = Clock::now();
    why_not_ = "its co-process ended: " + how.to_string();
    if (next_signal_ == SIGKILL) why_not_ += " (" + std::string(why_end_) + ")";
    if (!errors_.last().empty()) why_not_ += ": " + std::string(errors_.last());
    ended();
  }
}

void Coprocess::receive() {
  const ssize_t n = ::read(out_.get(), buffer_.data(), buffer_.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    out_.reset();
    in_.reset();  // it can answer nothing that it would be sent
    end_at(Clock::now() + settings_.grace, "it has closed its output");
    return;
  }
  std::string_view bytes(buffer_.data(), static_cast<std::size_t>(n));
  for (std::size_t size = bytes.find('\n'); size != std::string_view::npos;
       size = bytes.find('\n')) {
    if (incoming_.empty()) {
      take_line(bytes.substr(0, size));
    } else {
      incoming_ += bytes.substr(0, size);
      take_line(incoming_);
      incoming_.clear();
    }
    bytes.remove_prefix(size + 1);
  }
  incoming_ += bytes;
  if (incoming_.size() > settings_.output_limit) refuse_line();
}

// Nobody knows whose answer it is.
void Coprocess::refuse_line() {
  end_now("it wrote a line over output_limit");
  out_.reset();
  incoming_.clear();
}

void Coprocess::take_line(std::string_view line) {
  if (line.empty() || !out_.open()) return;
  if (line.size() > settings_.output_limit) {
    refuse_line();
    return;
  }
  Answer answer;
  try {
    answer = parse_answer(line);
  } catch (const std::runtime_error& error) {
    complain(error.what());
    return;
  }
  const auto found = in_the_air_.find(answer.id);
  if (found == in_the_air_.end()) {
    complain("expected the id of a message that waits for its answer, found " +
             std::to_string(answer.id));
    return;
  }
  const Message message = found->second.waiting.message;
  const auto since = found->second.since;
  in_the_air_.erase(found);
  has_answered_ = true;
  last_answer_ = Clock::now();
  if (!answer.outcome) complain("message " + std::to_string(answer.id) + ": " + answer.reason);
  Outcome outcome = answer.outcome.value_or(Outcome::retry);
  try {
    if (outcome == Outcome::ack) {
      for (const Publication& each : answer.publish) message.publish(each);
      if (answer.reply) message.reply(*answer.reply);
    } else if (answer.retry_after) {
      message.retry_after(*answer.retry_after);
    }
  } catch (const Error& error) {
    outcome = Outcome::retry;
    answer.reason = std::string("its answer: ") + error.what();
  }
  settle(message, outcome, answer.reason, since);
}

void Coprocess::read_errors() {
  const ssize_t n = ::read(err_.get(), buffer_.data(), buffer_.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    err_.reset();
    return;
  }
  errors_.add({buffer_.data(), static_cast<std::size_t>(n)});
}

// What is due by now.
void Coprocess::look_at_time() {
  const auto now = Clock::now();
  if (now - second_ >= std::chrono::seconds(1)) {
    second_ = now;
    if (complaints_ > kComplaints) {
      host_.warn("left out: " + std::to_string(complaints_ - kComplaints) + " more such lines");
    }
    complaints_ = 0;
    errors_.next_period();
  }
  const auto is_answered = [this](std::uint64_t id) {
    return in_the_air_.find(id) == in_the_air_.end();
  };
  while (!sent_.empty() && is_answered(sent_.front())) sent_.pop_front();
  // Behind one that is never answered there would be ever more.
  if (sent_.size() > 4 * settings_.window) std::erase_if(sent_, is_answered);
  if (now >= signal_due_) send_signal();
  if (settings_.time_limit.count() == 0) return;
  if (process_ && !sent_.empty()) {
    const InTheAir& oldest = in_the_air_.at(sent_.front());
    if (now < limit_of(oldest) || next_signal_ != 0) return;
    measures_.time_limit();
    end_now("time_limit of a message is up");
  }
  while (!process_ && !waiting_.empty() && now >= limit_of(waiting_.front())) {
    const Waiting& oldest = waiting_.front();
    settle(oldest.message, Outcome::retry, why_not_, oldest.since);
    waiting_.pop_front();
  }
}

// SIGTERM then, unless it comes sooner, and SIGKILL after the grace.
void Coprocess::end_at(Clock::time_point due, const char* why) {
  if (next_signal_ == SIGKILL || (next_signal_ == SIGTERM && due >= signal_due_)) return;
  next_signal_ = SIGTERM;
  signal_due_ = due;
  why_end_ = why;
}

// Before its input is closed: a program that sees that would end with a code of its own.
void Coprocess::end_now(const char* why) {
  end_at(Clock::now(), why);
  if (next_signal_ == SIGTERM) send_signal();
  in_.reset();
}

void Coprocess::send_signal() {
  process_->signal_group(next_signal_);
  signal_due_ = next_signal_ == SIGTERM ? Clock::now() + settings_.grace : Clock::time_point::max();
  next_signal_ = SIGKILL;
}

// There is no process any more: what it had is retried, and it is started again.
void Coprocess::ended() {
  take_back_unwritten();
  const bool is_wanted = why_end_ == kDrained;
  in_.reset();
  out_.reset();
  err_.reset();
  outgoing_.clear();
  incoming_.clear();
  written_ = 0;
  begin_ = 0;
  next_signal_ = 0;
  why_end_ = nullptr;
  signal_due_ = Clock::time_point::max();
  host_.log(is_wanted ? Level::info : Level::warn, why_not_);
  retry_all(why_not_);
  pause_ = has_answered_ ? std::chrono::milliseconds(0)
                         : std::clamp(2 * pause_, kFirstPause, kLongestPause);
  start_due_ = Clock::now() + pause_;
}

void Coprocess::retry_all(const std::string& why) {
  for (const std::uint64_t id : sent_) {
    const auto found = in_the_air_.find(id);
    if (found != in_the_air_.end()) {
      settle(found->second.waiting.message, Outcome::retry, why, found->second.since);
    }
  }
  in_the_air_.clear();
  sent_.clear();
}

void Coprocess::settle(const Message& message, Outcome outcome, const std::string& reason,
                       Clock::time_point since) {
  try {
    if (outcome != Outcome::ack && !reason.empty()) message.explain(reason);
  } catch (const Error& error) {
    host_.warn("message " + std::to_string(message.id()) + ": " + reason + ": " + error.what());
  }
  measures_.outcome(outcome, Clock::now() - since);
  host_.settle(message.id(), outcome);
}

void Coprocess::complain(const std::string& text) {
  if (++complaints_ <= kComplaints) host_.warn("the co-process's output: " + text);
}

// Those in front of it take their time too: each answer gives it a new one.
Coprocess::Clock::time_point Coprocess::limit_of(const InTheAir& oldest) const {
  return std::max(oldest.since, last_answer_) + settings_.time_limit;
}

// Of one that waits for a process.
Coprocess::Clock::time_point Coprocess::limit_of(const Waiting& oldest) const {
  return std::max(oldest.since, last_end_) + settings_.time_limit;
}

Coprocess::Clock::time_point Coprocess::next_due() {
  auto due = signal_due_;
  if (!process_) due = std::min(due, start_due_);
  if (errors_.has_left_out() || complaints_ > kComplaints) {
    due = std::min(due, second_ + std::chrono::seconds(1));
  }
  if (settings_.time_limit.count() == 0) return due;
  if (process_ && !sent_.empty() && next_signal_ == 0) {
    const auto oldest = in_the_air_.find(sent_.front());
    due = std::min(due, oldest == in_the_air_.end() ? Clock::now() : limit_of(oldest->second));
  }
  if (!process_ && !waiting_.empty()) {
    due = std::min(due, limit_of(waiting_.front()));
  }
  return due;
}

}  // namespace lope::plugins
