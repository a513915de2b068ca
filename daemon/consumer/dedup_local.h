// The store of a host: an LMDB environment of the group's own, shared by every consumer of the
// group on this host. The only file that knows LMDB.
//
// What it says survives the death of any process at any point. It is not synced, so it does not
// survive the death of the machine: what was open then is set aside, with a warning, and a new one
// begun. Then messages that were done may be done again; none is lost.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <unordered_map>

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

  // `folder` is made when it is first used. No two of one folder in one process.
  explicit DedupLocal(std::string folder, std::size_t map_bytes = kFirstMap,
                      std::size_t largest_map = kLargestMap);
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
    std::size_t to_expire = 0;
    std::size_t map_bytes = 0;
  };
  Result<Size> size();

 private:
  struct Turn;
  Result<void> open();
  int open_environment();
  Result<void> look_at_state();
  void write_state(const std::string& text);
  void close();
  void set_aside(const std::string& reason);
  bool grow(int error);
  int transact(std::span<const DedupOp> ops, const DedupTimes& times,
               std::vector<DedupAnswer>& answers);
  int claim(Turn& turn, const DedupOp& op, std::vector<DedupAnswer>& answers);
  int done(Turn& turn, const DedupOp& op);
  int release(Turn& turn, const DedupOp& op);
  int renew(Turn& turn, const DedupOp& op);
  int note(Turn& turn, const DedupOp& op, std::int64_t done_ms);
  int drop_claim(Turn& turn, const DedupOp& op, bool& own);
  int expire(Turn& turn, std::size_t at_most);
  int sweep(Turn& turn);
  bool is_void(const std::string& owner);
  Error failure(int error) const;

  const std::string folder_;
  const std::string self_;
  std::size_t map_bytes_;
  const std::size_t largest_map_;
  MDB_env* env_ = nullptr;
  unsigned claims_ = 0, done_ = 0, expiry_ = 0;
  UniqueFd state_;                              // locked: shared while the environment is open
  ino_t inode_ = 0;                             // of the data
  int deaths_ = 0;                              // of processes that had it open, since one worked
  bool worked_ = false;                         // since it was opened
  std::string swept_;                           // claims before this key were looked at
  std::unordered_map<std::string, bool> dead_;  // owners that were looked at in this turn
};

}  // namespace lope::consumer
