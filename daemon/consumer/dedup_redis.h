// The store that several hosts share: a Redis server. The only file that knows hiredis. It waits
// for the server where it is called; see DedupThread.
//
// Keys: lope:dedup:GROUP:KEY, with the claim or with what was done, and lope:begun:GROUP:KEY for
// min_interval. Redis expires them itself.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "common/redis_url.h"
#include "consumer/dedup_store.h"

struct redisContext;
struct redisReply;

namespace lope::consumer {

class DedupRedis : public DedupStore {
 public:
  // `url` as parse_redis_url() takes it. Connects when it is first used.
  DedupRedis(const std::string& url, std::string group);
  DedupRedis(const DedupRedis&) = delete;
  DedupRedis& operator=(const DedupRedis&) = delete;
  ~DedupRedis() override;

  // All is sent once more when the connection of the call before turns out to be dead. On failure
  // the text names host and port; the next call connects anew. Part of it may have
  // happened then: a claim that was not answered is ours all the same when it is asked for again.
  Result<void> apply(std::span<const DedupOp> ops, const DedupTimes& times,
                     std::vector<DedupAnswer>& answers) override;
  void tend() override {}

  // To connect, and for each answer.
  static constexpr std::chrono::milliseconds kTimeout{2000};

 private:
  Result<void> connect();
  Result<void> exchange(std::span<const DedupOp> ops, const DedupTimes& times,
                        std::vector<DedupAnswer>& answers);
  bool is_broken() const;
  Error failure(const std::string& what) const;
  void send(const DedupOp& op, const DedupTimes& times, const std::string& instead);
  Result<void> receive(std::shared_ptr<redisReply>& reply);
  DedupAnswer answer(const DedupOp& op, const redisReply& reply, std::string& owner) const;

  const std::string url_;
  const std::string group_;
  const std::string self_;
  std::string where_;  // host and port
  std::unique_ptr<redisContext, void (*)(redisContext*)> redis_;
};

}  // namespace lope::consumer
