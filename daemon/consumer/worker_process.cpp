#include "consumer/worker_process.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iterator>
#include <utility>

#include "common/text.h"
#include "consumer/orphans.h"

namespace lope::consumer {

namespace {

constexpr std::size_t kFramesPerWrite = 256;
constexpr int kReadsPerTurn = 4;                                   // of 64 KiB each
constexpr std::uint64_t kLongestWish = 366ull * 24 * 3600 * 1000;  // of a delay, in ms
// A worker's publications whose causes have no outcome yet. It sends them right before the outcome,
// so there is one call's of each thread: a worker with more has been scribbled over.
constexpr std::size_t kMostPublished = std::size_t{1} << 31;

}  // namespace

Result<std::unique_ptr<WorkerProcess>> WorkerProcess::start(EventLoop& loop, const Start& start,
                                                            Events events) {
  std::unique_ptr<WorkerProcess> worker(
      new WorkerProcess(start.slot, start.threads, std::move(events)));
  UniqueFd board_fd;
  auto board = BoardMapping<WorkerBoard>::create("lope-worker-board", board_fd);
  if (!board) return Error{board.error()};
  worker->board_ = std::move(*board);
  worker->set_log_level(start.log_level);
  auto settings = make_memfd("lope-worker-settings", start.settings_json);
  if (!settings) return Error{settings.error()};
  auto link = make_stream_pair();
  if (!link) return Error{link.error()};
  auto out = make_pipe();
  if (!out) return Error{out.error()};
  auto err = make_pipe();
  if (!err) return Error{err.error()};
  UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null.valid()) return Error{errno_text("open /dev/null", errno)};
  for (const int fd : {link->first.get(), out->first.get(), err->first.get()}) {
    if (auto set = set_nonblocking(fd, true); !set) return Error{set.error()};
  }

  worker->id_ = new_worker_id();
  SpawnOptions options;
  options.program_fd = start.program_fd;
  options.argv = start.under;
  if (options.argv.empty()) options.argv = {"lope-worker"};
  options.argv.push_back(start.title);
  options.env = start.environment;
  options.env.push_back(std::string(kWorkerIdVariable) + "=" + worker->id_);
  options.fds = {{null.get(), 0},
                 {out->second.get(), 1},
                 {err->second.get(), 2},
                 {settings->get(), kSettingsFd},
                 {board_fd.get(), kScoreboardFd},
                 {link->second.get(), kLinkFd},
                 {start.wake_fd, kWakeFd}};
  if (start.under.empty()) {
    options.blocked_signals.assign(std::begin(kGroupSignals), std::end(kGroupSignals));
  } else {
    for (int fd = 0; fd <= 2; ++fd) options.fds[static_cast<std::size_t>(fd)] = {fd, fd};
  }
  auto child = spawn(options);
  if (!child) return Error{child.error()};
  worker->child_ = std::move(*child);
  worker->started_at_ = Clock::now();
  worker->link_ = std::move(link->first);
  worker->output_[0] = std::move(out->first);
  worker->output_[1] = std::move(err->first);

  WorkerProcess* self = worker.get();
  const auto watch = [&loop](EventSource& source, int fd,
                             std::function<void(std::uint32_t)> callback) -> Result<void> {
    auto made = loop.watch_fd(fd, EPOLLIN, std::move(callback));
    if (!made) return Error{made.error()};
    source = std::move(*made);
    return {};
  };
  if (auto made = watch(self->link_source_, self->link_.get(),
                        [self](std::uint32_t happened) {
                          if ((happened & ~EPOLLOUT) != 0) self->read_link();
                        });
      !made) {
    return Error{made.error()};
  }
  for (const bool is_stderr : {false, true}) {
    if (auto made = watch(self->output_source_[is_stderr], self->output_[is_stderr].get(),
                          [self, is_stderr](std::uint32_t) { self->read_output(is_stderr); });
        !made) {
      return Error{made.error()};
    }
  }
  if (auto made = watch(self->pid_source_, self->child_.pidfd.get(),
                        [self](std::uint32_t) { self->events_.on_exit(); });
      !made) {
    return Error{made.error()};
  }
  return worker;
}

WorkerStage WorkerProcess::stage() const {
  return static_cast<WorkerStage>(board_->stage.load(std::memory_order_acquire));
}

void WorkerProcess::give(DeliveryTable& table, std::span<Delivery* const> deliveries) {
  int batch = -1;
  if (deliveries.size() > 1) {
    const auto place = std::find_if(batches_.begin(), batches_.end(),
                                    [](const Batch& each) { return each.unfinished == 0; });
    batch = static_cast<int>(place - batches_.begin());
    if (place == batches_.end()) batches_.emplace_back();
    batches_[static_cast<std::size_t>(batch)] = {deliveries.size(), false};
  }
  // Before them all: nothing comes between the deliveries of a batch.
  for (const Delivery* delivery : deliveries) {
    if (delivery->body != nullptr && segments_.insert(delivery->body->id).second) {
      unsent_.push_back({FrameType::segment, delivery->body->id, delivery->body->fd.get(),
                         delivery->body->capacity});
    }
  }
  auto count = static_cast<std::uint16_t>(batch < 0 ? 0 : deliveries.size());
  for (Delivery* delivery : deliveries) {
    set_sequence(delivery->frame, table.new_sequence(*delivery), std::exchange(count, 0));
    delivery->state = Delivery::State::at_worker;
    delivery->worker = delivery->ran_at = slot_;
    delivery->ran_by = handler_;
    delivery->batch = batch;
    unsent_.push_back({FrameType::delivery, delivery->index});
  }
  outstanding_ += deliveries.size();
  owed_ += deliveries.size();
  given_ += deliveries.size();
  ++calls_;
}

// One of the deliveries of a handler call is accounted for.
void WorkerProcess::call_over(Delivery& delivery) {
  const int batch = std::exchange(delivery.batch, -1);
  if (batch < 0 || --batches_[static_cast<std::size_t>(batch)].unfinished == 0) --calls_;
}

void WorkerProcess::ask_flush(FlushReason reason) {
  const auto value = static_cast<std::uint64_t>(reason);
  // One that waits to be sent says the newer reason, unless it is half sent.
  for (std::size_t i = next_unsent_ + (sent_of_first_ > 0 ? 1 : 0); i < unsent_.size(); ++i) {
    if (unsent_[i].type != FrameType::flush) continue;
    // The last flush is reported, and waited for.
    if (unsent_[i].value != static_cast<std::uint64_t>(FlushReason::drain))
      unsent_[i].value = value;
    return;
  }
  unsent_.push_back({FrameType::flush, value});
}

void WorkerProcess::ask_last_flush() {
  last_flush_asked_ = true;
  ask_flush(FlushReason::drain);
}

void WorkerProcess::forget(std::uint64_t segment) {
  if (segments_.erase(segment) == 0) return;
  const auto unheard =
      std::find_if(unsent_.begin() + static_cast<std::ptrdiff_t>(next_unsent_), unsent_.end(),
                   [segment](const Unsent& unsent) {
                     return unsent.type == FrameType::segment && unsent.value == segment;
                   });
  const bool half_sent =
      sent_of_first_ > 0 && unheard - unsent_.begin() == static_cast<std::ptrdiff_t>(next_unsent_);
  if (unheard != unsent_.end() && !half_sent) {
    unsent_.erase(unheard);
  } else {
    unsent_.push_back({FrameType::forget, segment});
  }
}

Delivery& WorkerProcess::delivery_of(DeliveryTable& table, const Unsent& unsent) {
  return table.at(static_cast<std::uint32_t>(unsent.value));
}

std::size_t WorkerProcess::size_of(DeliveryTable& table, const Unsent& unsent) {
  if (unsent.is_delivery()) return delivery_of(table, unsent).frame.size();
  return sizeof(FrameHead) + (unsent.type == FrameType::segment ? sizeof(SegmentHead) : 0);
}

// As many as there are in a row.
ssize_t WorkerProcess::send_deliveries(DeliveryTable& table) {
  std::array<iovec, kFramesPerWrite> parts;
  std::size_t count = 0;
  for (std::size_t i = next_unsent_; i < unsent_.size() && count < parts.size(); ++i) {
    if (!unsent_[i].is_delivery()) break;
    ByteBuffer& frame = delivery_of(table, unsent_[i]).frame;
    const std::size_t skip = count == 0 ? sent_of_first_ : 0;
    parts[count++] = {frame.data() + skip, frame.size() - skip};
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  return ::sendmsg(link_.get(), &message, MSG_NOSIGNAL);
}

// One alone: a descriptor goes with the bytes of one write.
ssize_t WorkerProcess::send_control(const Unsent& control) {
  struct {
    FrameHead head;
    SegmentHead segment;
  } frame{};
  std::size_t size = sizeof frame.head;
  if (control.type == FrameType::segment) {
    size = sizeof frame;
    frame.segment.size = control.size;
  }
  frame.head = {static_cast<std::uint32_t>(size), control.type, 0, control.value};
  const bool with_fd = control.type == FrameType::segment && sent_of_first_ == 0;
  return send_with_fd(link_.get(), reinterpret_cast<const char*>(&frame) + sent_of_first_,
                      size - sent_of_first_, with_fd ? control.segment_fd : -1);
}

void WorkerProcess::flush(DeliveryTable& table) {
  while (next_unsent_ < unsent_.size() && !link_closed_) {
    const Unsent& first = unsent_[next_unsent_];
    const ssize_t n = first.is_delivery() ? send_deliveries(table) : send_control(first);
    if (n < 0) {
      if (errno == EINTR) continue;
      // Full: go on when it can be written. Broken: its pidfd or the read end will tell.
      link_source_.set_events(errno == EAGAIN ? EPOLLIN | EPOLLOUT : EPOLLIN);
      return;
    }
    auto written = static_cast<std::size_t>(n) + sent_of_first_;
    sent_of_first_ = 0;
    while (written > 0) {
      const Unsent& next = unsent_[next_unsent_];
      if (next.is_delivery()) {
        const int batch = delivery_of(table, next).batch;
        if (batch >= 0) batches_[static_cast<std::size_t>(batch)].begun = true;
      }
      const std::size_t size = size_of(table, next);
      if (written < size) {
        sent_of_first_ = written;
        break;
      }
      written -= size;
      ++next_unsent_;
    }
  }
  if (next_unsent_ == unsent_.size()) {
    unsent_.clear();
    next_unsent_ = 0;
  }
  link_source_.set_events(EPOLLIN);
}

bool WorkerProcess::next_outcome(DeliveryTable& table, Outcome& outcome, bool after_death) {
  OutcomeReader::Outcome entry;
  while (after_death ? reader_.next_after_death(*board_, entry) : reader_.next(*board_, entry)) {
    outcome.reason.clear();
    outcome.retry_after.reset();
    outcome.publications.clear();
    if ((entry.flags & kExplained) != 0) {
      // It was sent before the outcome was written.
      while (!explanations_.contains(entry.sequence) && read_link_once()) {
      }
      if (const auto found = explanations_.find(entry.sequence); found != explanations_.end()) {
        outcome.reason = std::move(found->second.text);
        outcome.retry_after = found->second.retry_after;
        explanations_.erase(found);
      }
    }
    bool complete = true;
    if (const std::size_t count = entry.flags >> kPublicationsShift; count > 0) {
      std::vector<std::string>& sent = publications_[entry.sequence];
      while (sent.size() < count && read_link_once()) {
      }
      complete = sent.size() == count;
      for (const std::string& each : sent) published_bytes_ -= each.size();
      outcome.publications = std::move(sent);
      publications_.erase(entry.sequence);
    }
    if ((entry.flags & kFlushed) != 0) {
      ++flushed_;
      continue;
    }
    outcome.held = (entry.flags & kHeld) != 0;
    outcome.settled = (entry.flags & kSettled) != 0;
    if (!outcome.held && owed_ > 0) --owed_;
    Delivery* delivery = table.find(entry.sequence);
    if (delivery == nullptr || delivery->worker != slot_) continue;
    // A worker that has been scribbled over may say anything: it must fit what we know.
    const bool was_held = delivery->state == Delivery::State::held;
    if (was_held != outcome.settled) continue;
    if (was_held) {
      --held_;
    } else {
      call_over(*delivery);
    }
    if (outcome.held) {
      delivery->state = Delivery::State::held;
      ++held_;
    } else {
      --outstanding_;
    }
    outcome.delivery = delivery;
    outcome.outcome = entry.outcome;
    outcome.not_started = (entry.flags & kNotStarted) != 0;
    outcome.refused = (entry.flags & kRefused) != 0;
    outcome.duration_ns = entry.duration_ns;
    if (!complete) {  // it wrote the outcome before them, or over it
      outcome.outcome = 0;
      outcome.reason = "its publications are not all there";
    }
    return true;
  }
  return false;
}

bool WorkerProcess::is_in_slot(std::uint64_t sequence) const {
  const auto* slots = board_->slots.data();
  return std::any_of(slots, slots + threads_,
                     [sequence](const WorkerBoard::Slot& slot) { return slot.holds(sequence); });
}

bool WorkerProcess::front_half_sent() const {
  return next_unsent_ < unsent_.size() && unsent_[next_unsent_].is_delivery() && sent_of_first_ > 0;
}

std::vector<Delivery*> WorkerProcess::take_back(DeliveryTable& table) {
  board_->revoked_below.store(table.next_sequence(), std::memory_order_seq_cst);
  std::vector<Delivery*> taken;
  // Slots are read before the ring: a handler that finishes in between is found in the ring. What
  // is half on the link, alone or as a batch, the worker must get whole: it will report it as not
  // begun.
  const Delivery* front = nullptr;
  if (next_unsent_ < unsent_.size() && unsent_[next_unsent_].is_delivery()) {
    front = &delivery_of(table, unsent_[next_unsent_]);
  }
  int half_batch = front != nullptr ? front->batch : -1;
  if (half_batch >= 0 && !batches_[static_cast<std::size_t>(half_batch)].begun) half_batch = -1;
  table.for_each([&](Delivery& delivery) {
    if (delivery.worker != slot_ || delivery.state != Delivery::State::at_worker) return;
    if (&delivery == front && sent_of_first_ > 0) return;
    if (is_in_slot(delivery.sequence)) return;
    if (half_batch >= 0 && delivery.batch == half_batch) return;
    taken.push_back(&delivery);
  });
  // Whatever the ring holds by now was finished, not unstarted: leave it to next_outcome(). With
  // several threads an entry may still be written while those behind it are done.
  const std::uint64_t head = reader_.count();
  const std::uint64_t tail =
      std::min(board_->tail.load(std::memory_order_acquire), head + kOutcomeRingSize);
  for (std::uint64_t ticket = head; ticket < tail; ++ticket) {
    const OutcomeEntry& entry = board_->ring[ticket % kOutcomeRingSize];
    if (entry.ticket.load(std::memory_order_seq_cst) != ticket + 1) continue;
    std::erase_if(taken,
                  [&](const Delivery* delivery) { return delivery->sequence == entry.sequence; });
  }
  for (Delivery* delivery : taken) call_over(*delivery);
  outstanding_ -= taken.size();
  // What was never written the worker reports nothing about.
  const auto is_taken = [&taken](const Unsent& unsent) {
    return unsent.is_delivery() &&
           std::any_of(taken.begin(), taken.end(), [&unsent](const Delivery* delivery) {
             return delivery->index == unsent.value;
           });
  };
  const std::size_t before = unsent_.size();
  unsent_.erase(std::remove_if(unsent_.begin() + static_cast<std::ptrdiff_t>(next_unsent_),
                               unsent_.end(), is_taken),
                unsent_.end());
  owed_ -= before - unsent_.size();
  return taken;
}

WorkerProcess::Remains WorkerProcess::remains(DeliveryTable& table) {
  Remains remains;
  remains.flushing = flushing() > 0;
  table.for_each([&](Delivery& delivery) {
    if (delivery.worker != slot_) return;
    const bool held = delivery.state == Delivery::State::held;
    if (!held && delivery.state != Delivery::State::at_worker) return;
    delivery.batch = -1;
    const bool running = held || is_in_slot(delivery.sequence);
    (running ? remains.running : remains.waiting).push_back(&delivery);
  });
  outstanding_ = held_ = calls_ = 0;
  unsent_.clear();
  next_unsent_ = sent_of_first_ = 0;
  return remains;
}

std::vector<Delivery*> WorkerProcess::take_held(DeliveryTable& table) {
  std::vector<Delivery*> taken;
  table.for_each([&](Delivery& delivery) {
    if (delivery.worker == slot_ && delivery.state == Delivery::State::held) {
      taken.push_back(&delivery);
    }
  });
  outstanding_ -= taken.size();
  held_ = 0;
  return taken;
}

void WorkerProcess::revoke(Delivery& held) {
  unsent_.push_back({FrameType::revoke, held.sequence});
  held.sequence = 0;
  held.worker = -1;
  --outstanding_;
  --held_;
}

WorkerProcess::Late WorkerProcess::late(DeliveryTable& table, std::uint64_t now_ns,
                                        std::uint64_t limit_ns) const {
  Late late;
  std::uint64_t oldest_due = 0;
  for (std::size_t i = 0; i < threads_; ++i) {
    const WorkerBoard::Slot& slot = board_->slots[i];
    const std::uint64_t sequence = slot.sequence.load(std::memory_order_acquire);
    const std::uint64_t started = slot.started_ns.load(std::memory_order_acquire);
    if (started == 0) continue;
    const std::uint64_t due =
        std::max(started, slot.alive_ns.load(std::memory_order_relaxed)) + limit_ns;
    if (due > now_ns) {
      late.next_ns = late.next_ns == 0 ? due : std::min(late.next_ns, due);
      continue;
    }
    if (late.thread < 0 || due < oldest_due) {
      late.thread = static_cast<int>(i);
      oldest_due = due;
    }
    late.flush = late.flush || sequence == 0;
    table.for_each([&](Delivery& delivery) {
      if (delivery.worker == slot_ && delivery.state == Delivery::State::at_worker &&
          slot.holds(delivery.sequence)) {
        late.deliveries.push_back(&delivery);
      }
    });
  }
  return late;
}

std::size_t WorkerProcess::flushing() const {
  if (!can_flush_) return 0;
  const auto* slots = board_->slots.data();
  return static_cast<std::size_t>(
      std::count_if(slots, slots + threads_, [](const WorkerBoard::Slot& slot) {
        return slot.sequence.load(std::memory_order_relaxed) == 0 &&
               slot.started_ns.load(std::memory_order_relaxed) != 0;
      }));
}

std::uint64_t WorkerProcess::oldest_start_ns() const {
  std::uint64_t oldest = 0;
  for (std::size_t i = 0; i < threads_; ++i) {
    const std::uint64_t started = board_->slots[i].started_ns.load(std::memory_order_relaxed);
    if (started != 0 && (oldest == 0 || started < oldest)) oldest = started;
  }
  return oldest;
}

bool WorkerProcess::announce_sleep() {
  board_->consumer_asleep.store(1, std::memory_order_seq_cst);
  const std::uint64_t head = reader_.count();
  return board_->ring[head % kOutcomeRingSize].ticket.load(std::memory_order_seq_cst) == head + 1;
}

void WorkerProcess::announce_awake() {
  board_->consumer_asleep.store(0, std::memory_order_relaxed);
}

void WorkerProcess::set_stopping() { board_->stopping.store(1, std::memory_order_relaxed); }

void WorkerProcess::set_log_level(LogLevel level) {
  board_->log_level.store(static_cast<std::uint32_t>(level), std::memory_order_relaxed);
}

void WorkerProcess::close_link() {
  if (link_closed_) return;
  link_closed_ = true;
  ::shutdown(link_.get(), SHUT_WR);
}

void WorkerProcess::kill(int signal) { ::kill(child_.pid, signal); }

int WorkerProcess::thread_of(const Delivery& delivery) const {
  for (std::size_t i = 0; i < threads_; ++i) {
    if (board_->slots[i].holds(delivery.sequence)) return static_cast<int>(i);
  }
  return -1;
}

void WorkerProcess::abort_thread(int thread) {
  // Only one of this child's: the system checks that, whatever the board says.
  const pid_t tid =
      thread < 0
          ? 0
          : board_->slots[static_cast<std::size_t>(thread)].tid.load(std::memory_order_relaxed);
  if (tid <= 0 || ::tgkill(child_.pid, tid, SIGABRT) != 0) kill(SIGABRT);
}

void WorkerProcess::read_link() {
  // Bounded: a handler that logs without end must not keep its consumer from everything else.
  for (int i = 0; i < kReadsPerTurn && read_link_once(); ++i) {
  }
}

// False: nothing more is there, or the link is at its end.
bool WorkerProcess::read_link_once() {
  if (link_source_.stopped()) return false;
  const auto status = frames_.read(link_.get());
  std::string_view trouble;
  if (!status) {
    trouble = status.error();
  } else if (*status == FrameReader::Status::end) {
    trouble = "the worker closed its link";
  }
  if (!trouble.empty()) {
    link_source_.stop();
    events_.on_link_lost(trouble);
    return false;
  }
  for (;;) {
    const auto frame = frames_.next();
    if (!frame) {
      link_source_.stop();
      events_.on_link_lost(frame.error());
      return false;
    }
    if (!frame->has_value()) break;
    const FrameReader::Frame& got = **frame;
    switch (got.head.type) {
      case FrameType::ready: {
        const std::string text(got.payload);
        const std::size_t first = text.find('\0');
        const std::size_t second = first == std::string::npos ? first : text.find('\0', first + 1);
        const std::size_t third =
            second == std::string::npos ? second : text.find('\0', second + 1);
        if (third == std::string::npos || third + 1 >= text.size()) break;
        const int can = text[third + 1];
        events_.on_ready({text.substr(0, first), text.substr(first + 1, second - first - 1),
                          text.substr(second + 1, third - second - 1), (can & 1) != 0,
                          (can & 2) != 0});
        break;
      }
      case FrameType::failed: {
        FailedHead head{};
        if (got.payload.size() < sizeof head) break;
        std::memcpy(&head, got.payload.data(), sizeof head);
        events_.on_failed(head.refused != 0, got.payload.substr(sizeof head));
        break;
      }
      case FrameType::log: {
        LogHead head{};
        if (got.payload.size() < sizeof head) break;
        std::memcpy(&head, got.payload.data(), sizeof head);
        const auto level = std::min(head.level, static_cast<std::uint32_t>(LogLevel::error));
        events_.on_log(static_cast<LogLevel>(level), got.payload.substr(sizeof head));
        break;
      }
      case FrameType::explain: {
        ExplainHead head{};
        if (got.payload.size() < sizeof head) break;
        std::memcpy(&head, got.payload.data(), sizeof head);
        // Bounded: about deliveries that are with the worker, or not kept.
        if (explanations_.size() >= kOutcomeRingSize) break;
        Explanation& explanation = explanations_[got.head.sequence];
        explanation.text = got.payload.substr(sizeof head);
        explanation.retry_after.reset();
        if (head.retry_after_ms < kLongestWish) {
          explanation.retry_after =
              std::chrono::milliseconds(static_cast<std::int64_t>(head.retry_after_ms));
        }
        break;
      }
      case FrameType::publish:
        published_bytes_ += got.payload.size();
        if (published_bytes_ > kMostPublished) {
          link_source_.stop();
          events_.on_link_lost("it publishes without end");
          return false;
        }
        publications_[got.head.sequence].emplace_back(got.payload);
        break;
      case FrameType::keep_alive: events_.on_keep_alive(got.head.sequence); break;
      case FrameType::delivery:
      case FrameType::flush:
      case FrameType::segment:
      case FrameType::forget:
      case FrameType::revoke: break;  // not from a worker
    }
  }
  return *status == FrameReader::Status::data;
}

void WorkerProcess::read_output(bool is_stderr) {
  const auto on_line = [this, is_stderr](std::string_view line) {
    events_.on_output(is_stderr, line);
  };
  if (!output_reader_[is_stderr].read(output_[is_stderr].get(), on_line)) {
    output_reader_[is_stderr].finish(on_line);
    output_source_[is_stderr].stop();
  }
}

// Bounded, since a child of the handler may hold the other end.
void WorkerProcess::listen() {
  for (int i = 0; i < 16 * kReadsPerTurn && read_link_once(); ++i) {
  }
  for (const bool is_stderr : {false, true}) {
    if (!output_source_[is_stderr].stopped()) read_output(is_stderr);
  }
}

Result<ChildEnd> WorkerProcess::bury() {
  pid_source_.stop();
  listen();
  for (const bool is_stderr : {false, true}) {
    if (output_source_[is_stderr].stopped()) continue;
    output_reader_[is_stderr].finish(
        [this, is_stderr](std::string_view line) { events_.on_output(is_stderr, line); });
    output_source_[is_stderr].stop();
  }
  link_source_.stop();
  return reap(child_);
}

}  // namespace lope::consumer
