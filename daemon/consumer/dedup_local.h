// The store of a host: an LMDB environment of the group's own, shared by every consumer of the
// group on this host. The only file that knows LMDB.
//
// What was done is a log, numbered, and expires from its beginning: a tree by key would have each
// message write a page of its own, twice. Each process keeps an index of it in memory, of 64 bytes
// a message, and reads what others have added.
//
// What it says survives the death of any process at any point. It is not synced, so it does not
// survive the death of the machine: what was open then is set aside, with a warning, and a new one
// begun. Then messages that were done may be done again; none is lost.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "common/clock.h"
#include "common/fd.h"
#include "consumer/dedup_store.h"

struct MDB_env;
struct MDB_txn;

namespace lope::consumer {

class DedupLocal : public DedupStore {
 public:
  static constexpr std::size_t kFirstMap = std::size_t{64} << 20;
  // Twice the space whenever it is full, up to this.
  static constexpr std::size_t kLargestMap = std::size_t{64} << 30;

  // `folder` is made when it is first used. No two of one folder in one process. `wall_ms`: the
  // time since 1970, which somebody may set.
  explicit DedupLocal(std::string folder, std::size_t map_bytes = kFirstMap,
                      std::size_t largest_map = kLargestMap,
                      std::function<std::uint64_t()> wall_ms = unix_ms);
  DedupLocal(const DedupLocal&) = delete;
  DedupLocal& operator=(const DedupLocal&) = delete;
  // Syncs, so that it is trusted after the machine was started anew.
  ~DedupLocal() override;

  // On failure the text names the folder. The next call tries anew.
  Result<void> apply(std::span<const DedupOp> ops, const DedupTimes& times,
                     std::vector<DedupAnswer>& answers) override;
  void tend() override;

  struct Size {
    std::size_t done = 0;
    std::size_t claims = 0;
    std::size_t indexed = 0;
    std::size_t map_bytes = 0;
  };
  Result<Size> size();

 private:
  struct Turn;
  Result<void> open();
  Result<void> open_alone();
  int open_environment();
  Result<void> take_state();
  Result<void> look_at_state();
  Result<void> write_state(std::string text, bool sync = true);
  void note_that_it_works();
  void say_that_it_is_closed();
  void close();
  bool is_replaced() const;
  bool rename_aside() const;
  void set_aside(const std::string& reason);
  void on_assertion(const char* text);
  bool grow(int error);
  int transact(std::span<const DedupOp> ops, const DedupTimes& times,
               std::vector<DedupAnswer>& answers);
  int claim(Turn& turn, const DedupOp& op, std::vector<DedupAnswer>& answers);
  int done(Turn& turn, const DedupOp& op);
  int release(Turn& turn, const DedupOp& op);
  int renew(Turn& turn, const DedupOp& op);
  int put_claim(Turn& turn, const DedupOp& op);
  int note(Turn& turn, const DedupOp& op, bool done);
  int drop_claim(Turn& turn, const DedupOp& op, bool& own);
  int catch_up(Turn& turn);
  bool find_done(Turn& turn, const std::string& key, DedupAnswer& answer, int& error);
  int expire(Turn& turn, std::size_t at_most);
  int sweep(Turn& turn);
  bool is_void(const std::string& owner);
  Error failure(int error) const;

  const std::string folder_;
  const std::string self_;
  const std::function<std::uint64_t()> wall_ms_;
  std::size_t map_bytes_;
  const std::size_t largest_map_;
  MDB_env* env_ = nullptr;
  unsigned claims_ = 0, done_ = 0;
  UniqueFd state_;       // locked: shared while the environment is open
  ino_t inode_ = 0;      // of the data; 0: not known yet
  int deaths_ = 0;       // of processes that had it open, since one worked
  bool worked_ = false;  // since it was opened
  std::string swept_;    // claims before this key were looked at
  // Of what was done: a key's hash to the latest place; and those in the order of their places.
  std::unordered_map<std::uint64_t, std::uint64_t> index_;
  std::deque<std::pair<std::uint64_t, std::uint64_t>> order_;
  std::uint64_t seen_ = 0;                      // the log was read up to here
  std::unordered_map<std::string, bool> dead_;  // owners that were looked at in this turn
};

}  // namespace lope::consumer
