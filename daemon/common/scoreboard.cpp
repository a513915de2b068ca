#include "common/scoreboard.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "common/clock.h"
#include "common/text.h"

namespace lope {

const char* to_string(WorkerStage stage) {
  switch (stage) {
    case WorkerStage::starting: return "starting";
    case WorkerStage::compiling: return "compiling its schema";
    case WorkerStage::checking: return "checking its handler's file";
    case WorkerStage::loading: return "loading its handler";
    case WorkerStage::creating: return "in the handler's create()";
    case WorkerStage::ready: return "ready";
    case WorkerStage::ending: return "ending";
  }
  return "in an unknown stage";  // the worker may have scribbled over it
}

const char* to_string(GroupState state) {
  switch (state) {
    case GroupState::starting: return "starting";
    case GroupState::connecting: return "connecting";
    case GroupState::consuming: return "consuming";
    case GroupState::paused: return "paused";
    case GroupState::failed: return "failed";
    case GroupState::draining: return "draining";
    case GroupState::ended: return "ended";
  }
  return "unknown";
}

const char* to_string(WorkerState state) {
  switch (state) {
    case WorkerState::none: return "none";
    case WorkerState::starting: return "starting";
    case WorkerState::ready: return "ready";
    case WorkerState::leaving: return "leaving";
  }
  return "unknown";
}

bool WorkerBoard::Slot::holds(std::uint64_t delivery) const {
  std::uint64_t first = sequence.load(std::memory_order_seq_cst);
  while (true) {
    const std::uint64_t end = last.load(std::memory_order_acquire);
    const std::uint64_t again = sequence.load(std::memory_order_seq_cst);
    if (again == first) return first != 0 && first <= delivery && delivery <= end;
    first = again;
  }
}

bool push_outcome(WorkerBoard& board, std::uint64_t sequence, std::int32_t outcome,
                  std::uint64_t duration_ns, std::uint32_t flags) {
  const std::uint64_t ticket = board.tail.fetch_add(1, std::memory_order_relaxed);
  OutcomeEntry& entry = board.ring[ticket % kOutcomeRingSize];
  entry.sequence = sequence;
  entry.duration_ns = duration_ns;
  entry.outcome = outcome;
  entry.flags = flags;
  // Sequentially consistent, against the consumer's store to consumer_asleep and its look at the
  // ring behind it: one of the two sees the other.
  entry.ticket.store(ticket + 1, std::memory_order_seq_cst);
  if (board.consumer_asleep.load(std::memory_order_seq_cst) == 0) return false;
  return board.consumer_asleep.exchange(0, std::memory_order_relaxed) != 0;
}

bool OutcomeReader::next(WorkerBoard& board, Outcome& outcome) {
  OutcomeEntry& entry = board.ring[head_ % kOutcomeRingSize];
  if (entry.ticket.load(std::memory_order_seq_cst) != head_ + 1) return false;
  outcome.sequence = entry.sequence;
  outcome.duration_ns = entry.duration_ns;
  outcome.outcome = entry.outcome;
  outcome.flags = entry.flags;
  ++head_;
  return true;
}

bool OutcomeReader::next_after_death(WorkerBoard& board, Outcome& outcome) {
  // A scribbled tail cannot make this run for ever: at most one ring is looked at.
  const std::uint64_t tail =
      std::min(board.tail.load(std::memory_order_acquire), head_ + kOutcomeRingSize);
  while (head_ < tail) {
    if (next(board, outcome)) return true;
    ++head_;
  }
  return false;
}

void note_failure(GroupBoard& board, std::string_view text) {
  board.last_failure.set(text);
  board.last_failure_ms.store(unix_ms(), std::memory_order_relaxed);
}

template <typename Board>
BoardMapping<Board>::~BoardMapping() {
  if (board_ != nullptr) ::munmap(board_, sizeof(Board));
}

template <typename Board>
Result<BoardMapping<Board>> BoardMapping<Board>::create(std::string_view name, UniqueFd& fd) {
  auto memory = make_shared_memory(name, sizeof(Board));
  if (!memory) return Error{memory.error()};
  void* address =
      ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, memory->get(), 0);
  if (address == MAP_FAILED) return Error{errno_text("mmap", errno)};
  BoardMapping mapping;
  mapping.board_ = static_cast<Board*>(address);  // zeros are a valid board
  mapping.board_->build_id = LOPE_BUILD_ID;
  fd = std::move(*memory);
  return mapping;
}

template <typename Board>
Result<BoardMapping<Board>> BoardMapping<Board>::open(int fd) {
  struct stat info {};
  if (::fstat(fd, &info) < 0) return Error{errno_text("scoreboard: fstat", errno)};
  if (static_cast<std::size_t>(info.st_size) != sizeof(Board)) {
    return Error{"scoreboard: expected " + std::to_string(sizeof(Board)) + " bytes, found " +
                 std::to_string(info.st_size) + ": the programs are of different builds"};
  }
  void* address = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return Error{errno_text("mmap", errno)};
  BoardMapping mapping;
  mapping.board_ = static_cast<Board*>(address);
  if (mapping->build_id != LOPE_BUILD_ID) {
    return Error{"scoreboard: the programs are of different builds"};
  }
  return mapping;
}

template class BoardMapping<WorkerBoard>;
template class BoardMapping<GroupBoard>;

}  // namespace lope
