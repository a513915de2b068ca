// Stores what consumers tell of their messages: many events in one transaction, and a message is
// acked once those that it holds are on disk.
#include <algorithm>
#include <chrono>
#include <lope/handler.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../common/option_units.hpp"
#include "store.h"

namespace {

using lope::plugins::Event;
using lope::plugins::RefusedError;
using lope::plugins::Store;
using lope::plugins::StoreError;

constexpr lope_option kOptions[] = {
    lope::secret(lope::defaulted("store", "/var/lib/lope/journal.db",
                                 "a file, made when it is not there, or postgresql://…")),
    lope::defaulted("retention", "180d", "older events are deleted; or forever"),
    lope::defaulted("messages", "500", "write when so many are kept", LOPE_UINT64),
    lope::defaulted("busy_ms", "10000", "how long to wait for another writer", LOPE_UINT64),
    lope::kEndOfOptions};

constexpr std::size_t kMostBytes = 8 << 20;  // that are kept
// For each event that is written so many old ones may go, and at least so many with each write: the
// file does not grow for ever, and nobody waits long for its lock.
constexpr std::uint64_t kForgottenForEach = 2;
constexpr std::uint64_t kForgottenAtLeast = 2000;

// A clock may be wrong by that much.
constexpr std::chrono::hours kMostAhead{24};

std::int64_t unix_us(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}

// One writer for each store in a process: its threads would only wait for one another's locks.
struct SharedStore {
  std::mutex mutex;
  std::unique_ptr<Store> store;
};

std::shared_ptr<SharedStore> shared_store(const std::string& store, int busy_ms) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<SharedStore>> stores;
  const std::lock_guard lock(mutex);
  std::weak_ptr<SharedStore>& entry = stores[store];
  std::shared_ptr<SharedStore> shared = entry.lock();
  if (shared) return shared;
  shared = std::make_shared<SharedStore>();
  try {
    shared->store = lope::plugins::open_store(store, busy_ms);
  } catch (const StoreError&) {
    throw;  // it is tried again
  } catch (const std::runtime_error& error) {
    throw lope::InvalidConfiguration(error.what());
  }
  entry = shared;
  return shared;
}

std::optional<std::chrono::milliseconds> retention(const lope::Host& host) {
  const auto text = host.option_as<std::string>("retention");
  if (text == "forever") return std::nullopt;
  const auto ms = lope::plugins::parse_with_unit(text, lope::plugins::kTimeUnits);
  if (ms && *ms > 0) return std::chrono::milliseconds(*ms);
  throw lope::InvalidConfiguration(
      "option 'retention': expected forever, or a time with a unit (ms, s, m, h, d), found '" +
      text + "'");
}

class Journal final : public lope::Handler {
 public:
  explicit Journal(lope::Host host)
      : host_(host),
        messages_(host.option_as<std::size_t>("messages")),
        retention_(retention(host)),
        events_(host.counter("events_total", "Events that were stored.")),
        repeated_(host.counter("repeated_total", "Events that were stored before.")),
        unreadable_(host.counter("unreadable_lines_total", "Lines that were no event.")),
        forgotten_(host.counter("forgotten_total", "Events deleted after their retention.")),
        write_(host.duration("write", "How long a transaction took.")),
        shared_(
            shared_store(host.option_as<std::string>("store"), host.option_as<int>("busy_ms"))) {}

  lope::Outcome handle(const lope::Message& message) override {
    kept_.push_back(message);
    kept_bytes_ += message.body_text().size();
    if (kept_.size() >= messages_ || kept_bytes_ >= kMostBytes) write();
    return lope::Outcome::hold;
  }

  void flush(lope::FlushReason) override {
    if (!kept_.empty()) write();
  }

 private:
  // Of one message.
  struct Lines {
    int read = 0, unreadable = 0;
    std::string problem;  // of the first that is no event
    std::string refused;  // why the store does not take them
    bool for_ever = false;
  };

  void write() {
    const auto begin = std::chrono::steady_clock::now();
    kept_bytes_ = 0;
    const std::vector<lope::Message> messages = std::exchange(kept_, {});
    std::vector<Lines> lines(messages.size());
    std::string failure;
    {
      const std::lock_guard lock(shared_->mutex);
      Store& store = *shared_->store;
      try {
        store_all(messages, lines, store);
      } catch (const std::exception& error) {
        store.roll_back();
        failure = error.what();
      }
      if (failure.empty()) forget(store, lines);
    }
    write_.record(std::chrono::steady_clock::now() - begin);
    if (failure.empty()) {
      settle(messages, lines);
    } else {
      host_.error(std::to_string(messages.size()) + " messages not stored: " + failure);
      for (const lope::Message& message : messages) {
        message.explain(failure);
        host_.settle(message.id(), lope::Outcome::retry);
      }
    }
  }

  // In one transaction; in two of half as many when the store refuses it, so that one message does
  // not stand in the way of the others.
  void store_all(std::span<const lope::Message> messages, std::span<Lines> lines, Store& store) {
    try {
      store.begin();
      int read = 0;
      for (std::size_t i = 0; i < messages.size(); ++i) {
        lines[i] = add_lines(messages[i].body_text(), store);
        read += lines[i].read;
      }
      const std::uint64_t stored = store.commit();
      events_.record(static_cast<std::int64_t>(stored));
      repeated_.record(read - static_cast<std::int64_t>(stored));
      return;
    } catch (const RefusedError& error) {
      store.roll_back();
      if (messages.size() == 1) {
        lines.front() = {};
        lines.front().refused = error.what();
        lines.front().for_ever = error.for_ever();
        return;
      }
    }
    const std::size_t half = messages.size() / 2;
    store_all(messages.first(half), lines.first(half), store);
    store_all(messages.subspan(half), lines.subspan(half), store);
  }

  Lines add_lines(std::string_view body, Store& store) {
    Lines lines;
    int number = 0;
    const std::int64_t latest_us = unix_us(host_.now() + kMostAhead);
    while (!body.empty()) {
      const std::size_t end = body.find('\n');
      const std::string_view line = body.substr(0, end);
      body.remove_prefix(end == std::string_view::npos ? body.size() : end + 1);
      ++number;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      if (lope::plugins::parse_event(line, event_, problem_, latest_us)) {
        store.add(event_);
        ++lines.read;
      } else if (++lines.unreadable == 1) {
        lines.problem = "line " + std::to_string(number) + ": " + problem_;
      }
    }
    return lines;
  }

  // Of several none was stored: that is not what is in them.
  static bool refuses_all(const std::vector<Lines>& lines) {
    int refused = 0;
    for (const Lines& each : lines) {
      if (each.read > 0) return false;
      if (!each.refused.empty()) ++refused;
    }
    return refused > 1;
  }

  // The good lines of a message are stored; only one without any, or that the store never takes, is
  // a dead letter.
  void settle(const std::vector<lope::Message>& messages, const std::vector<Lines>& lines) {
    int unreadable = 0, again = 0;
    std::string problem, refused;
    const bool all_refused = refuses_all(lines);
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (!lines[i].refused.empty()) {
        messages[i].explain(lines[i].refused);
        const bool never = lines[i].for_ever && !all_refused;
        host_.settle(messages[i].id(), never ? lope::Outcome::reject : lope::Outcome::retry);
        if (never) continue;
        if (++again == 1) refused = lines[i].refused;
      } else if (lines[i].read == 0) {
        messages[i].explain("no event in it: " + (lines[i].problem.empty()
                                                      ? "expected lines of JSON, found none"
                                                      : lines[i].problem));
        host_.settle(messages[i].id(), lope::Outcome::reject);
      } else {
        unreadable += lines[i].unreadable;
        if (problem.empty()) problem = lines[i].problem;
        host_.settle(messages[i].id(), lope::Outcome::ack);
      }
    }
    if (again > 0) host_.error(std::to_string(again) + " messages not stored: " + refused);
    if (unreadable == 0) return;
    unreadable_.record(unreadable);
    host_.warn(std::to_string(unreadable) + " lines were no events, the first: " + problem);
  }

  void forget(Store& store, const std::vector<Lines>& lines) {
    if (!retention_) return;
    std::uint64_t written = 0;
    for (const Lines& each : lines) written += static_cast<std::uint64_t>(each.read);
    try {
      const std::uint64_t gone =
          store.forget(unix_us(host_.now() - *retention_),
                       std::max(kForgottenAtLeast, kForgottenForEach * written));
      forgotten_.record(static_cast<std::int64_t>(gone));
    } catch (const std::exception& error) {
      host_.warn(std::string("old events are not deleted: ") + error.what());
    }
  }

  const lope::Host host_;
  const std::size_t messages_;
  const std::optional<std::chrono::milliseconds> retention_;
  const lope::Metric events_, repeated_, unreadable_, forgotten_, write_;
  const std::shared_ptr<SharedStore> shared_;
  std::vector<lope::Message> kept_;
  std::size_t kept_bytes_ = 0;
  Event event_;
  std::string problem_;
};

}  // namespace

LOPE_HANDLER_WITH(Journal, "journal", "1.0.0", "stores what consumers tell of their messages",
                  kOptions)
