// Where a journal is kept. One transaction at a time: begin(), add() for each event, commit(), and
// only then is it on disk.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "event.h"

namespace lope::plugins {

// It could go well another time: the disk is full, the file is locked, the server is away.
class StoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One of the events of the transaction is not taken. The store goes on after a roll_back().
class RefusedError : public StoreError {
 public:
  // `for_ever`: the event is to blame; otherwise a rule that others have made.
  RefusedError(const std::string& text, bool for_ever) : StoreError(text), for_ever_(for_ever) {}
  bool for_ever() const { return for_ever_; }

 private:
  bool for_ever_;
};

// Every function throws StoreError, those of a transaction RefusedError too. Used by one thread at
// a time.
class Store {
 public:
  Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  virtual ~Store() = default;

  virtual void begin() = 0;
  // An event that is there already changes nothing.
  virtual void add(const Event& event) = 0;
  // How many events are new.
  virtual std::uint64_t commit() = 0;
  virtual void roll_back() noexcept = 0;
  // Deletes up to `most` of the events before `time_us`, the oldest first, and what nothing else
  // refers to then. Returns how many events it were. Outside of a transaction.
  virtual std::uint64_t forget(std::int64_t time_us, std::uint64_t most) = 0;
};

// A path, or postgresql://…. Each throws std::runtime_error with what was expected and found when
// what is there is no journal, or a newer one; StoreError otherwise. A path is shown, no URL is.
std::unique_ptr<Store> open_store(const std::string& store, int busy_ms);
std::unique_ptr<Store> open_sqlite_store(const std::string& path, int busy_ms);
// Of a URL. `patience`: for an answer of the server. Not there in a build without libpq.
std::unique_ptr<Store> open_postgres_store(
    const std::string& url, std::chrono::milliseconds patience = std::chrono::minutes(1));

}  // namespace lope::plugins
