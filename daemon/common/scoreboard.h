// Memory that two processes share: what outlives the one that wrote it. A WorkerBoard between a
// consumer and one worker; a GroupBoard between the supervisor and one consumer. Every field has
// one writer, named here; the other side only reads, and believes nothing it can check.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/handler_metrics.h"
#include "common/result.h"

namespace lope {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

inline constexpr std::size_t kMaxThreads = 256;        // of one worker
inline constexpr std::size_t kOutcomeRingSize = 8192;  // a power of two
// The most deliveries that one worker may owe an outcome for. Each is reported at most twice, when
// its handler keeps it and when it is settled, and each thread may say once that it has flushed.
inline constexpr std::size_t kMaxOwed = (kOutcomeRingSize - kMaxThreads) / 2;

// How far a worker has come; names the culprit when it dies before it is ready.
enum class WorkerStage : std::uint32_t {
  starting,
  compiling,
  checking,
  loading,
  creating,
  ready,
  ending
};
const char* to_string(WorkerStage stage);

// A handler call that takes less is so short that the consumer is not woken for it when another
// follows at once; see architecture.md, "Sleeping".
inline constexpr std::uint64_t kTinyCallNs = 20'000;

// Flags of an outcome.
inline constexpr std::uint32_t kExplained = 1u << 0;   // an explain frame about it is on the link
inline constexpr std::uint32_t kNotStarted = 1u << 1;  // taken back before its handler saw it
inline constexpr std::uint32_t kHeld = 1u << 2;     // kept by its handler: its outcome is to come
inline constexpr std::uint32_t kSettled = 1u << 3;  // the outcome of one that was kept
inline constexpr std::uint32_t kFlushed = 1u
                                          << 4;  // no delivery's: a thread has flushed at a drain
inline constexpr std::uint32_t kRevoked = 1u << 5;  // with kSettled: it was taken from its handler
inline constexpr std::uint32_t kRefused = 1u << 6;  // no handler may see it: `outcome` is a Refusal
// From this bit on: how many publish frames about it are on the link. Only of an ack.
inline constexpr int kPublicationsShift = 8;
inline constexpr std::uint32_t kMaxPublications = (1u << (32 - kPublicationsShift)) - 1;

// Why a worker keeps a message from its handler.
enum class Refusal : std::int32_t { encoding = 1, too_large, charset, schema };

struct OutcomeEntry {
  std::atomic<std::uint64_t> ticket;  // place in the sequence of all entries, plus 1; written last
  std::uint64_t sequence;
  std::uint64_t duration_ns;  // in the handler
  std::int32_t outcome;       // the handler's own word, whatever number it is
  std::uint32_t flags;        // kExplained…
};

// A finished outcome survives its worker: it is in the ring before the slot is cleared.
struct WorkerBoard {
  std::uint64_t build_id;

  // Written by the consumer.
  alignas(
      64) std::atomic<std::uint64_t> revoked_below;  // no delivery with a lower sequence may start
  std::atomic<std::uint32_t> stopping;
  std::atomic<std::uint32_t> log_level;  // LogLevel: what handlers say below it nobody hears
  alignas(64) std::atomic<std::uint32_t> consumer_asleep;  // the worker clears it when it wakes the
                                                           // consumer

  // Written by the worker.
  alignas(64) std::atomic<std::uint32_t> stage;
  std::atomic<std::uint64_t> resident_bytes;    // after its latest calls; 0: not measured
  alignas(64) std::atomic<std::uint64_t> tail;  // tickets given out
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> sequence;  // of the delivery inside the handler; 0: none
    std::atomic<std::uint64_t> last;      // of a batch: its last; otherwise the same. Written first
    std::atomic<std::uint64_t> started_ns;  // of the running call, CLOCK_MONOTONIC; 0: none runs
    std::atomic<std::uint64_t> alive_ns;    // of it: when it began, or keep_alive() was called last
    std::atomic<std::int32_t> tid;          // the kernel's, of the thread; 0: not there yet

    // Is that delivery inside the handler? Safe while the worker runs.
    bool holds(std::uint64_t delivery) const;
  };
  std::array<Slot, kMaxThreads> slots;
  std::array<OutcomeEntry, kOutcomeRingSize> ring;
  HandlerMetrics metrics;
};

// The worker's side of the ring. Thread-safe.
// Never full: see kMaxOwed.
// Returns true when the consumer was asleep: then wake it.
bool push_outcome(WorkerBoard& board, std::uint64_t sequence, std::int32_t outcome,
                  std::uint64_t duration_ns, std::uint32_t flags);

// The consumer's side.
class OutcomeReader {
 public:
  struct Outcome {
    std::uint64_t sequence;
    std::uint64_t duration_ns;
    std::int32_t outcome;
    std::uint32_t flags;
  };
  // The next outcome in order; false when there is none yet.
  bool next(WorkerBoard& board, Outcome& outcome);
  // After the worker's death: also steps over entries it never finished writing.
  bool next_after_death(WorkerBoard& board, Outcome& outcome);
  // Entries read so far.
  std::uint64_t count() const { return head_; }

 private:
  std::uint64_t head_ = 0;
};

enum class GroupState : std::uint32_t {
  starting,
  connecting,
  consuming,
  paused,  // told to
  failed,  // its workers die one after another: paused, to be tried again later
  draining,
  ended
};
const char* to_string(GroupState state);

enum class WorkerState : std::uint32_t { none, starting, ready, leaving };
const char* to_string(WorkerState state);

// Of one consumer there are at most so many workers at a time: 256 that are wanted, and those that
// are replaced.
inline constexpr std::size_t kMaxWorkerSlots = 384;

inline constexpr std::uint64_t kFailedStart = 2;

// A consumer that stands still for much longer hangs.
inline constexpr std::chrono::seconds kProgress{2};

// Of a group's streams so many are shown, in the order of its queues.
inline constexpr std::size_t kMaxStreamsShown = 16;

// Counters since the daemon started: a replaced consumer goes on where its predecessor stopped.
struct GroupBoard {
  std::uint64_t build_id;
  // All written by the consumer.
  std::atomic<std::uint32_t> state;
  std::atomic<std::uint32_t> workers_ready;
  std::atomic<std::uint32_t> workers_wanted;
  std::atomic<std::uint64_t> proved;          // the generation whose workers have finished messages
  std::atomic<std::uint64_t> settings_taken;  // the generation that the consumer goes by
  std::atomic<std::uint64_t> generation;  // ConsumerSettings::generation that all workers are of
  // While no worker of the latest generation has finished a message: kFailedStart for each that
  // died, and one for each that died over a message that had taken down others before.
  std::atomic<std::uint64_t> failed_starts;
  std::atomic<std::uint64_t>
      progress;  // grows with every turn of the loop: each kProgress at least
  std::atomic<std::uint64_t> delivered;
  std::atomic<std::uint64_t> acked;
  std::atomic<std::uint64_t> retried;  // decided
  std::atomic<std::uint64_t> copied;   // of them, published for another attempt
  std::atomic<std::uint64_t> rejected;
  std::atomic<std::uint64_t> dead_lettered;  // to where the group says, or parked
  std::atomic<std::uint64_t> refused;        // for what they are, before a handler saw them
  std::atomic<std::uint64_t> published;      // for handlers, and confirmed
  std::atomic<std::uint64_t> crashes;        // charged to a message
  std::atomic<std::uint64_t> timeouts;
  std::atomic<std::uint64_t> pauses;         // of the breaker
  std::atomic<std::uint64_t> doubles;        // acked and not run: another was done
  std::atomic<std::uint64_t> too_soon;       // acked and not run: `min_interval`
  std::atomic<std::uint64_t> delayed;        // for another message with their key
  std::atomic<std::uint64_t> unchecked;      // run without their key being claimed
  std::atomic<std::uint64_t> undeliverable;  // of the relay: given up
  std::atomic<std::uint64_t> handed_back;
  std::atomic<std::uint64_t> stale_outcomes;      // of an old connection or channel: dropped
  std::atomic<std::uint64_t> positions_not_kept;  // in streams: how often writing failed
  std::atomic<std::uint64_t> finished_in_drain;
  std::atomic<std::uint64_t> handed_back_in_drain;
  std::atomic<std::uint64_t> killed_in_drain;
  std::atomic<std::uint64_t> worker_deaths;
  std::atomic<std::uint64_t> recycled;     // workers that were replaced for `recycle`
  std::atomic<std::uint64_t> connections;  // opened so far
  // Events of the journal: put on the connection, confirmed of them, and given up.
  std::atomic<std::uint64_t> journal_sent;
  std::atomic<std::uint64_t> journal_confirmed;
  std::atomic<std::uint64_t> journal_dropped;
  std::atomic<std::uint64_t> spans_sent;     // that the collector has taken
  std::atomic<std::uint64_t> spans_dropped;  // and those that it never got
  // What is here now, as of the latest turn.
  std::atomic<std::uint64_t> running;      // with workers
  std::atomic<std::uint64_t> held;         // of them, those that handlers keep
  std::atomic<std::uint64_t> waiting;      // for a worker
  std::atomic<std::uint64_t> unconfirmed;  // for the broker's confirms
  // Of each stream, one more than the lowest offset that is not settled; 0: nothing has come.
  std::array<std::atomic<std::uint64_t>, kMaxStreamsShown> streams;
  std::atomic<std::uint64_t> behind;   // of those that wait, the ones another of their key holds up
  std::atomic<std::uint64_t> at_rate;  // 1: some wait for nothing but the group's rate
  BoardHistogram handling;             // how long messages were inside their handler
  BoardHistogram queued;  // and how long in their queue before they came, where that is known
  // Where its connections are.
  struct Broker {
    BoardText<256> address;  // empty: there is no such connection
    BoardText<256> cluster;  // what the broker calls its cluster; empty: it does not say
  };
  Broker consumes_from;
  Broker publishes_to;
  BoardText<512> last_error;                   // why it is not consuming
  BoardText<512> last_failure;                 // of a message or a worker
  std::atomic<std::uint64_t> last_failure_ms;  // since 1970; 0: none
  HandlerMetrics metrics;                      // of its handlers, over all workers there were
  // As loaded; empty before.
  BoardText<128> handler_name;
  BoardText<64> handler_version;
  BoardText<512> handler_file;
  struct Worker {
    std::atomic<std::uint32_t> state;  // WorkerState
    std::atomic<std::int32_t> pid;
    std::atomic<std::uint64_t> started_ms;  // since 1970
    std::atomic<std::uint64_t> given;       // messages
  };
  std::array<Worker, kMaxWorkerSlots> workers;
};

// What went wrong with a message or a worker, and that it was now.
void note_failure(GroupBoard& board, std::string_view text);

// One mapping of a board. Movable; unmaps at its end.
template <typename Board>
class BoardMapping {
 public:
  BoardMapping() = default;
  BoardMapping(BoardMapping&& other) noexcept : board_(std::exchange(other.board_, nullptr)) {}
  BoardMapping& operator=(BoardMapping&& other) noexcept {
    std::swap(board_, other.board_);
    return *this;
  }
  ~BoardMapping();

  // A new board of zeros with this build's id; `fd` gets the memory to hand to the other process.
  static Result<BoardMapping> create(std::string_view name, UniqueFd& fd);
  // The board in `fd`. Refuses a wrong size or another build id.
  static Result<BoardMapping> open(int fd);

  Board* operator->() const { return board_; }
  Board& operator*() const { return *board_; }
  explicit operator bool() const { return board_ != nullptr; }

 private:
  Board* board_ = nullptr;
};

extern template class BoardMapping<WorkerBoard>;
extern template class BoardMapping<GroupBoard>;

}  // namespace lope
