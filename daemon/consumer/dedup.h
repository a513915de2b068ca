// What is done once: which message may run, which is a double, which waits for another with its
// key. Pure: deliveries, answers of a store and times in, decisions and questions for the store
// out.
//
// The order that loses nothing: claim the key with a lease, run, note that it is done, ack. A claim
// that is over without that is released, whatever the way.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/backoff.h"
#include "common/clock.h"
#include "common/settings.h"
#include "consumer/dedup_store.h"
#include "consumer/delivery_table.h"

namespace lope::consumer {

class Dedup {
 public:
  // Each about a delivery that was given to claim() or done(), and none after over().
  struct Events {
    // It may run. `claimed` false: its store fails, and the group is told to run then.
    std::function<void(Delivery&, bool claimed)> on_free;
    // Another with its key was done, so it is to be acked.
    std::function<void(Delivery&, const DedupAnswer&)> on_double;
    // One with its key was done within the interval, and it is to be dropped.
    std::function<void(Delivery&, const DedupAnswer&)> on_too_soon;
    // It has waited here long enough: it is to come again after `delay`. Not in a group that keeps
    // an order.
    std::function<void(Delivery&, const char* reason, std::chrono::milliseconds delay)> on_wait;
    // What done() began is over. `noted` false: it could not be written.
    std::function<void(Delivery&, bool noted)> on_noted;
  };

  Dedup(const GroupSettings& group, Events events);

  // Of the same key and the same store.
  void take_settings(const GroupSettings& group);

  // Answered with one of the events, now or later. `key` is not empty.
  void claim(Delivery& delivery, std::string key, std::string_view message_id, TimePoint now);
  // It is given to a worker.
  void begun(const Delivery& delivery) {
    if (times_.min_interval.count() > 0) note_begun(delivery);
  }
  // Nor has it begun there: what was before begun() holds.
  void not_begun(const Delivery& delivery);
  enum class Noting {
    nothing,  // there is nothing to note
    begun,    // on_noted() comes, and it must not be acked before
    failed,   // it cannot be noted, and the group is told to go on then
  };
  // It was done.
  Noting done(const Delivery& delivery, TimePoint now);
  // It is not here any more: what it has claimed and not done is free.
  void over(const Delivery& delivery);

  // `trouble`: why some failed; empty: none has.
  void take(const std::vector<DedupAnswer>& answers, const std::string& trouble, TimePoint now);
  // What has become due. Returns when to come again.
  TimePoint tend(TimePoint now);
  // What is to be submitted now, which empties it; nothing while the store fails and is not to be
  // tried again yet. Then a trial, where nothing else is asked.
  std::vector<DedupOp>& to_submit(TimePoint now);
  const DedupTimes& times() const { return times_; }

  // The store owes answers.
  bool asking() const { return in_flight_ > 0; }
  // Why the store cannot be used; empty when it can.
  const std::string& trouble() const { return trouble_; }

  // A message is kept here so long while another with its key runs; then it gives up its place in
  // the window.
  static constexpr std::chrono::milliseconds kKept{2000};
  // A store that does not answer for so long fails.
  static constexpr std::chrono::milliseconds kPatience{5000};
  // What was done is acked after so long, noted or not.
  static constexpr std::chrono::milliseconds kNoting{10'000};

 private:
  enum class Stage : std::uint8_t {
    none,
    asked,    // for its claim
    waiting,  // until due, then it asks again
    claimed,
    free,    // runs without a claim
    noting,  // done: waits for that to be written
  };
  struct Entry {
    Stage stage = Stage::none;
    std::uint64_t token = 0;
    std::uint64_t behind = 0;  // while waiting: the claim of ours that it waits for; 0: another's
    std::int64_t begun_ms = 0;
    std::int64_t begun_before_ms = 0;  // what that was before the latest begun()
    TimePoint since{};                 // when it first had to wait; while noting: when it was done
    TimePoint due{};
    Delivery* delivery = nullptr;
    std::string key, id;
  };

  Entry* find(std::uint64_t token);
  Entry& entry_of(const Delivery& delivery);
  void note_begun(const Delivery& delivery);
  void ask(Entry& entry, std::uint64_t instead);
  void note(Entry& entry);
  void wait(Entry& entry, const char* reason, std::chrono::milliseconds length, TimePoint now);
  void wake_behind(std::uint64_t token);
  void answer(const DedupAnswer& answer, TimePoint now);
  void fail(const std::string& trouble, TimePoint now);
  void run_without(TimePoint now);
  bool gate_open(TimePoint now) const { return trouble_.empty() || now >= retry_at_; }
  bool runs_anyway() const { return on_failure_ == DedupSettings::OnStoreFailure::run; }

  const Events events_;
  DedupSettings::OnStoreFailure on_failure_;
  DedupSettings::TooSoon too_soon_;
  const bool stays_;  // what waits does so here: those behind it keep their order
  DedupTimes times_;
  std::vector<Entry> entries_;  // by the delivery's index
  std::vector<DedupOp> ops_;
  std::vector<DedupOp> none_;  // stays empty
  std::vector<std::uint32_t> waiting_;
  std::size_t noting_ = 0;
  std::size_t in_flight_ = 0;  // answers that are owed
  std::uint64_t counter_ = 0;
  TimePoint progress_at_{};  // when it answered last, or began to owe
  TimePoint renew_at_{};
  std::string trouble_;
  bool stuck_ = false;  // it owes answers for too long
  TimePoint retry_at_{};
  int failures_ = 0;
};

// How long a claim holds when nobody renews it: longer than a call may take.
std::chrono::milliseconds dedup_lease(const GroupSettings& group);

// How long a message that has waited here is away: the longer, the longer it has been waiting
// altogether.
std::chrono::milliseconds dedup_wait(std::chrono::milliseconds age);

}  // namespace lope::consumer
