#include "consumer/dedup.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace lope::consumer {

namespace {

using std::chrono::milliseconds;

constexpr int kIndexBits = 24;  // as in DeliveryTable
// What another process has claimed is asked for again so often.
constexpr milliseconds kAskAgain{100};
constexpr milliseconds kAskSeldom{1000};
constexpr milliseconds kLeaseMargin{30'000};
constexpr milliseconds kLeaseWithoutTimeout{300'000};
constexpr milliseconds kShortestWait{1000};
constexpr milliseconds kLongestWait{30'000};
constexpr Backoff kTries{milliseconds(200), milliseconds(10'000)};
// The claim of no message, for a store that fails while nothing else is asked of it. Keys of
// messages begin with a letter.
constexpr std::uint64_t kTrial = std::numeric_limits<std::uint64_t>::max();
constexpr const char* kTrialKey = "?";

}  // namespace

milliseconds dedup_lease(const GroupSettings& group) {
  return (group.timeout.count() > 0 ? group.timeout : kLeaseWithoutTimeout) + kLeaseMargin;
}

milliseconds dedup_wait(milliseconds age) {
  return std::clamp(age / 2, kShortestWait, kLongestWait);
}

Dedup::Dedup(const GroupSettings& group, Events events)
    : events_(std::move(events)), stays_(group.order.by != OrderSettings::By::none) {
  take_settings(group);
}

void Dedup::take_settings(const GroupSettings& group) {
  on_failure_ = group.dedup.on_store_failure;
  too_soon_ = group.dedup.too_soon;
  const milliseconds lease = dedup_lease(group);
  if (lease < times_.lease) renew_at_ = {};  // what has been claimed goes by the new one at once
  times_ = {lease, group.dedup.window, group.dedup.min_interval};
}

Dedup::Entry* Dedup::find(std::uint64_t token) {
  const std::uint64_t index = token & ((std::uint64_t{1} << kIndexBits) - 1);
  if (token == 0 || index >= entries_.size()) return nullptr;
  Entry& entry = entries_[index];
  return entry.stage != Stage::none && entry.token == token ? &entry : nullptr;
}

Dedup::Entry& Dedup::entry_of(const Delivery& delivery) {
  if (delivery.index >= entries_.size()) entries_.resize(delivery.index + 1);
  return entries_[delivery.index];
}

void Dedup::claim(Delivery& delivery, std::string key, std::string_view message_id, TimePoint now) {
  Entry& entry = entry_of(delivery);
  entry.token = ++counter_ << kIndexBits | delivery.index;
  entry.delivery = &delivery;
  entry.key = std::move(key);
  entry.id = message_id;
  entry.begun_ms = entry.begun_before_ms = 0;
  entry.behind = 0;
  entry.since = {};
  if (runs_anyway() && (stuck_ || !gate_open(now))) {
    entry.stage = Stage::free;
    events_.on_free(delivery, false);
    return;
  }
  ask(entry, 0);
}

void Dedup::ask(Entry& entry, std::uint64_t instead) {
  entry.stage = Stage::asked;
  ops_.push_back(
      {.kind = DedupOp::Kind::claim, .token = entry.token, .instead = instead, .key = entry.key});
}

void Dedup::note_begun(const Delivery& delivery) {
  Entry& entry = entry_of(delivery);
  if (entry.stage == Stage::claimed || entry.stage == Stage::free) {
    entry.begun_before_ms = std::exchange(entry.begun_ms, static_cast<std::int64_t>(unix_ms()));
  }
}

void Dedup::not_begun(const Delivery& delivery) {
  Entry& entry = entry_of(delivery);
  if (entry.stage == Stage::claimed || entry.stage == Stage::free) {
    entry.begun_ms = entry.begun_before_ms;
  }
}

Dedup::Noting Dedup::done(const Delivery& delivery, TimePoint now) {
  Entry& entry = entry_of(delivery);
  if (entry.stage != Stage::claimed && entry.stage != Stage::free) return Noting::nothing;
  if (runs_anyway() && (stuck_ || !gate_open(now))) {
    entry.stage = Stage::none;
    return Noting::failed;
  }
  entry.stage = Stage::noting;
  entry.since = now;
  ++noting_;
  note(entry);
  wake_behind(entry.token);
  return Noting::begun;
}

void Dedup::note(Entry& entry) {
  ops_.push_back({.kind = DedupOp::Kind::done,
                  .token = entry.token,
                  .begun_ms = entry.begun_ms,
                  .key = entry.key,
                  .id = entry.id});
}

void Dedup::over(const Delivery& delivery) {
  if (delivery.index >= entries_.size()) return;
  Entry& entry = entries_[delivery.index];
  const Stage stage = std::exchange(entry.stage, Stage::none);
  switch (stage) {
    case Stage::none: return;
    case Stage::waiting: std::erase(waiting_, delivery.index); return;
    case Stage::noting: --noting_; return;  // it was done, and that is on its way
    case Stage::asked:
    case Stage::claimed:
    case Stage::free: break;  // of that, too, a claim may be on its way
  }
  // What is left of the claim then ends with its lease, or with the next claim of ours.
  if (runs_anyway() && !trouble_.empty()) return;
  ops_.push_back({.kind = DedupOp::Kind::release,
                  .token = entry.token,
                  .begun_ms = entry.begun_ms,
                  .key = entry.key});
  wake_behind(entry.token);
}

// Those who wait for this claim ask right behind its end.
void Dedup::wake_behind(std::uint64_t token) {
  if (waiting_.empty()) return;
  std::erase_if(waiting_, [&](std::uint32_t index) {
    Entry& entry = entries_[index];
    if (entry.behind != token) return false;
    ask(entry, 0);
    return true;
  });
}

void Dedup::wait(Entry& entry, const char* reason, milliseconds length, TimePoint now) {
  if (entry.since == TimePoint{}) entry.since = now;
  const TimePoint end = entry.since + kKept;
  if (stays_) {
    entry.stage = Stage::waiting;
    entry.due = now + (entry.behind != 0 ? kKept
                       : now >= end      ? std::max(length, kAskSeldom)
                                         : length);
    waiting_.push_back(entry.delivery->index);
    return;
  }
  if (now + length >= end && entry.behind == 0) {
    // Also when it has to wait for longer than it may: then it goes at once.
    const bool known = length > kAskAgain;
    if (known || now >= end) {
      entry.stage = Stage::none;
      const auto age = milliseconds(static_cast<std::int64_t>(
          unix_ms() - std::min(unix_ms(), entry.delivery->first_seen_ms)));
      events_.on_wait(*entry.delivery, reason, known ? length : dedup_wait(age));
      return;
    }
  }
  entry.stage = Stage::waiting;
  entry.due = entry.behind != 0 ? end : std::min(now + length, end);
  waiting_.push_back(entry.delivery->index);
}

// ---- The store's answers

void Dedup::take(const std::vector<DedupAnswer>& answers, const std::string& trouble,
                 TimePoint now) {
  if (answers.empty()) return;
  in_flight_ -= std::min(in_flight_, answers.size());
  progress_at_ = now;
  const bool works = std::any_of(answers.begin(), answers.end(), [](const DedupAnswer& each) {
    return each.kind != DedupAnswer::Kind::failed;
  });
  stuck_ = false;
  if (!trouble.empty()) {
    fail(trouble, now);
  } else if (works) {
    if (!trouble_.empty()) renew_at_ = {};  // who knows what has lapsed meanwhile
    trouble_.clear();
    failures_ = 0;
  }
  for (const DedupAnswer& each : answers) answer(each, now);
}

void Dedup::fail(const std::string& trouble, TimePoint now) {
  trouble_ = trouble;
  retry_at_ = now + kTries.full_jitter(failures_++, random_fraction());
}

void Dedup::answer(const DedupAnswer& answer, TimePoint now) {
  if (answer.token == kTrial && answer.kind == DedupAnswer::Kind::claimed) {
    ops_.push_back({.kind = DedupOp::Kind::release, .token = kTrial, .key = kTrialKey});
  }
  Entry* const entry = find(answer.token);
  if (entry == nullptr) return;  // it has gone meanwhile, and its release is on its way
  Delivery& delivery = *entry->delivery;
  if (answer.kind == DedupAnswer::Kind::noted) {
    if (entry->stage != Stage::noting) return;
    entry->stage = Stage::none;
    --noting_;
    events_.on_noted(delivery, true);
    return;
  }
  if (answer.kind == DedupAnswer::Kind::failed && entry->stage == Stage::noting) {
    if (!runs_anyway() && now < entry->since + kNoting) return note(*entry);
    entry->stage = Stage::none;
    --noting_;
    events_.on_noted(delivery, false);
    return;
  }
  if (entry->stage == Stage::free && answer.kind == DedupAnswer::Kind::claimed) {
    entry->stage = Stage::claimed;  // late, but it counts
    return;
  }
  if (entry->stage != Stage::asked) return;
  switch (answer.kind) {
    case DedupAnswer::Kind::claimed:
      entry->stage = Stage::claimed;
      events_.on_free(delivery, true);
      return;
    case DedupAnswer::Kind::is_done:
      entry->stage = Stage::none;
      events_.on_double(delivery, answer);
      return;
    case DedupAnswer::Kind::too_soon:
      if (too_soon_ == DedupSettings::TooSoon::drop && answer.was_done) {
        entry->stage = Stage::none;
        events_.on_too_soon(delivery, answer);
        return;
      }
      entry->behind = 0;
      // Longer than the interval it is only where a clock was set back or the interval made
      // shorter.
      return wait(*entry, "its key was begun within min_interval",
                  std::min(answer.wait, std::max(times_.min_interval, kAskSeldom)), now);
    case DedupAnswer::Kind::taken:
      if (const Entry* const other = find(answer.by); answer.by != 0) {
        if (other == nullptr) return ask(*entry, answer.by);
        if (other->stage == Stage::noting) return ask(*entry, 0);  // behind its end
      }
      entry->behind = answer.by;
      return wait(*entry, "another message with its key is being handled", kAskAgain, now);
    case DedupAnswer::Kind::failed:
      if (!runs_anyway()) return ask(*entry, 0);
      entry->stage = Stage::free;
      events_.on_free(delivery, false);
      return;
    case DedupAnswer::Kind::noted: return;
  }
}

// ---- Times

// What the store owes an answer for, when it does not come.
void Dedup::run_without(TimePoint now) {
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (runs_anyway() && entries_[i].stage == Stage::asked) {
      entries_[i].stage = Stage::free;
      events_.on_free(*entries_[i].delivery, false);
    } else if (entries_[i].stage == Stage::noting &&
               (runs_anyway() || now >= entries_[i].since + kNoting)) {
      entries_[i].stage = Stage::none;
      --noting_;
      events_.on_noted(*entries_[i].delivery, false);
    }
  }
}

TimePoint Dedup::tend(TimePoint now) {
  if (in_flight_ > 0 && !stuck_ && now >= progress_at_ + kPatience) {
    stuck_ = true;
    fail("the dedup store has not answered for " + std::to_string(kPatience.count()) + " ms", now);
    run_without(now);
  } else if (!trouble_.empty() && noting_ > 0) {
    run_without(now);
  }
  // One that asks anew, or is over, leaves the list.
  for (std::size_t i = 0; i < waiting_.size();) {
    Entry& entry = entries_[waiting_[i]];
    if (entry.due > now) {
      ++i;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    entry.behind = 0;  // who has waited so long for one of ours gives up its place as well
    if (!stays_ && now >= entry.since + kKept) {
      wait(entry, "another message with its key is being handled", milliseconds(0), now);
    } else {
      ask(entry, 0);
    }
  }
  if (now >= renew_at_) {
    if (!stuck_) {
      for (const Entry& entry : entries_) {
        if (entry.stage != Stage::claimed) continue;
        ops_.push_back({.kind = DedupOp::Kind::renew, .token = entry.token, .key = entry.key});
      }
    }
    renew_at_ = now + times_.lease / 3;
  }
  // Only what is answered tells whether it works again.
  const bool idle =
      !trouble_.empty() && in_flight_ == 0 && std::none_of(ops_.begin(), ops_.end(), is_answered);
  if (idle && now >= retry_at_) {
    ops_.push_back({.kind = DedupOp::Kind::claim, .token = kTrial, .key = kTrialKey});
  }
  TimePoint next = renew_at_;
  for (const std::uint32_t index : waiting_) next = std::min(next, entries_[index].due);
  if (in_flight_ > 0 && !stuck_) next = std::min(next, progress_at_ + kPatience);
  if (idle || (!trouble_.empty() && !ops_.empty() && !stuck_)) next = std::min(next, retry_at_);
  if (!trouble_.empty() && noting_ > 0) next = std::min(next, now + milliseconds(200));
  return next;
}

std::vector<DedupOp>& Dedup::to_submit(TimePoint now) {
  if (ops_.empty() || stuck_ || !gate_open(now)) return none_;
  if (in_flight_ == 0) progress_at_ = now;
  for (const DedupOp& op : ops_) {
    if (is_answered(op)) ++in_flight_;
  }
  return ops_;
}

}  // namespace lope::consumer
