#include "consumer/dedup_redis.h"

#include <hiredis/hiredis.h>

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <string_view>
#include <unordered_set>

#include "common/clock.h"
#include "consumer/dedup_owner.h"

namespace lope::consumer {

namespace {

// As hiredis says it, by strerror().
constexpr std::string_view kTimedOut = "Resource temporarily unavailable";

// What a key holds: "c TOKEN OWNER" while it is claimed, "d TIME ID" once it is done. KEYS[2] holds
// "d TIME ID" or "b" while the key is not to be begun again.
constexpr const char* kClaim = R"(
local v = redis.call('GET', KEYS[1])
if v and v:sub(1, 1) == 'd' then return {'done', v} end
if v and v ~= ARGV[1] and v ~= ARGV[2] then return {'taken', v} end
local b = redis.call('GET', KEYS[2])
if b then return {'soon', b, tostring(redis.call('PTTL', KEYS[2]))} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return {'claimed'}
)";
// ARGV: the claim, what was done, the window, what is left of the interval.
constexpr const char* kDone = R"(
if tonumber(ARGV[3]) > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
elseif redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
if tonumber(ARGV[4]) > 0 then redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4]) end
return {'noted'}
)";
// ARGV: the claim, what is left of the interval.
constexpr const char* kRelease = R"(
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'other'} end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[2]) > 0 then redis.call('SET', KEYS[2], 'b', 'PX', ARGV[2]) end
return {'released'}
)";
constexpr const char* kRenew = R"(
local v = redis.call('GET', KEYS[1])
if not v or v == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return {'renewed'}
)";

std::string_view text_of(const redisReply& reply) {
  return reply.str == nullptr ? std::string_view()
                              : std::string_view(reply.str, static_cast<std::size_t>(reply.len));
}

// The first word of `rest`, which is left without it.
std::string_view next_word(std::string_view& rest) {
  const std::size_t space = rest.find(' ');
  const std::string_view word = rest.substr(0, space);
  rest = space == std::string_view::npos ? std::string_view() : rest.substr(space + 1);
  return word;
}

template <typename Number>
Number number_of(std::string_view text) {
  Number number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

void append(redisContext& redis, std::initializer_list<std::string_view> words) {
  std::vector<const char*> texts;
  std::vector<std::size_t> sizes;
  for (const std::string_view word : words) {
    texts.push_back(word.data());
    sizes.push_back(word.size());
  }
  ::redisAppendCommandArgv(&redis, static_cast<int>(texts.size()), texts.data(), sizes.data());
}

std::string claim_text(std::uint64_t token, std::string_view owner) {
  return "c " + std::to_string(token) + " " + std::string(owner);
}

}  // namespace

DedupRedis::DedupRedis(const std::string& url, std::string group)
    : url_(url), group_(std::move(group)), self_(own_name()), redis_(nullptr, ::redisFree) {}

DedupRedis::~DedupRedis() = default;

Error DedupRedis::failure(const std::string& what) const {
  return Error{"dedup store " + where_ + ": " + what};
}

Result<void> DedupRedis::connect() {
  const auto url = parse_redis_url(url_);
  if (!url) return Error{"dedup store: " + url.error()};
  where_ = url->host + ":" + std::to_string(url->port);
  constexpr timeval kWait{kTimeout.count() / 1000, kTimeout.count() % 1000 * 1000};
  redis_.reset(::redisConnectWithTimeout(url->host.c_str(), url->port, kWait));
  if (redis_ == nullptr) return failure("out of memory");
  if (redis_->err != 0) return failure(redis_->errstr);
  ::redisSetTimeout(redis_.get(), kWait);
  ::redisEnableKeepAlive(redis_.get());
  int greetings = 0;
  if (!url->password.empty() && url->user.empty()) {
    append(*redis_, {"AUTH", url->password});
    ++greetings;
  } else if (!url->password.empty()) {
    append(*redis_, {"AUTH", url->user, url->password});
    ++greetings;
  }
  append(*redis_, {"SELECT", std::to_string(url->database)});
  ++greetings;
  for (int i = 0; i < greetings; ++i) {
    std::shared_ptr<redisReply> reply;
    if (auto received = receive(reply); !received) return received;
  }
  return {};
}

// An answer that says no is a failure too.
Result<void> DedupRedis::receive(std::shared_ptr<redisReply>& reply) {
  void* raw = nullptr;
  if (::redisGetReply(redis_.get(), &raw) != REDIS_OK || raw == nullptr) {
    const std::string text = redis_->errstr;
    return failure(text == kTimedOut ? "no answer for " + std::to_string(kTimeout.count()) + " ms"
                                     : text);
  }
  reply.reset(static_cast<redisReply*>(raw), ::freeReplyObject);
  if (reply->type == REDIS_REPLY_ERROR) return failure(std::string(text_of(*reply)));
  return {};
}

void DedupRedis::send(const DedupOp& op, const DedupTimes& times, const std::string& instead) {
  const std::string key = "lope:dedup:" + group_ + ":" + op.key;
  const std::string begun = "lope:begun:" + group_ + ":" + op.key;
  const std::string claim = claim_text(op.token, self_);
  const auto now = static_cast<std::int64_t>(unix_ms());
  // What is left of min_interval; the clock may have been set back since it was begun.
  const std::int64_t begun_ms = std::min(op.begun_ms, now);
  const std::string left = std::to_string(
      begun_ms == 0 ? 0 : std::max<std::int64_t>(begun_ms + times.min_interval.count() - now, 0));
  switch (op.kind) {
    case DedupOp::Kind::claim:
      append(*redis_, {"EVAL", kClaim, "2", key, begun, claim, instead,
                       std::to_string(times.lease.count())});
      return;
    case DedupOp::Kind::done:
      append(*redis_,
             {"EVAL", kDone, "2", key, begun, claim, "d " + std::to_string(now) + " " + op.id,
              std::to_string(times.window.count()), left});
      return;
    case DedupOp::Kind::release:
      append(*redis_, {"EVAL", kRelease, "2", key, begun, claim, left});
      return;
    case DedupOp::Kind::renew:
      append(*redis_, {"EVAL", kRenew, "1", key, claim, std::to_string(times.lease.count())});
      return;
  }
}

// `owner` gets the claim of another that is in the way.
DedupAnswer DedupRedis::answer(const DedupOp& op, const redisReply& reply,
                               std::string& in_the_way) const {
  DedupAnswer answer{.kind = DedupAnswer::Kind::claimed, .token = op.token};
  if (reply.type != REDIS_REPLY_ARRAY || reply.elements == 0) return answer;
  const std::string_view word = text_of(*reply.element[0]);
  std::string_view value = reply.elements > 1 ? text_of(*reply.element[1]) : std::string_view();
  if (word == "taken") {
    answer.kind = DedupAnswer::Kind::taken;
    in_the_way = value;
    next_word(value);
    const auto token = number_of<std::uint64_t>(next_word(value));
    if (value == self_) {
      answer.by = token;
      in_the_way.clear();
    }
  } else if (word == "done" || word == "soon") {
    answer.kind = word == "done" ? DedupAnswer::Kind::is_done : DedupAnswer::Kind::too_soon;
    if (word == "soon" && reply.elements > 2) {
      answer.wait = std::chrono::milliseconds(number_of<std::int64_t>(text_of(*reply.element[2])));
    }
    answer.was_done = next_word(value) == "d";
    answer.done_ms = number_of<std::int64_t>(next_word(value));
    answer.id = value;
  } else if (word == "noted") {
    answer.kind = DedupAnswer::Kind::noted;
  }
  return answer;
}

Result<void> DedupRedis::apply(std::span<const DedupOp> ops, const DedupTimes& times,
                               std::vector<DedupAnswer>& answers) {
  const std::size_t before = answers.size();
  // One from before may have died while nothing was asked: that says nothing about the server.
  for (bool from_before = redis_ != nullptr;; from_before = false) {
    Result<void> done;
    if (redis_ == nullptr) done = connect();
    if (done) done = exchange(ops, times, answers);
    if (done) return done;
    const bool again = from_before && is_broken();
    redis_.reset();  // nobody knows what comes next on it
    if (!again) return done;
    answers.resize(before);
  }
}

// Not when the server says no, or nothing.
bool DedupRedis::is_broken() const {
  return redis_ != nullptr && (redis_->err == REDIS_ERR_EOF ||
                               (redis_->err == REDIS_ERR_IO && redis_->errstr != kTimedOut));
}

Result<void> DedupRedis::exchange(std::span<const DedupOp> ops, const DedupTimes& times,
                                  std::vector<DedupAnswer>& answers) {
  for (const DedupOp& op : ops) {
    send(op, times, op.instead == 0 ? std::string() : claim_text(op.instead, self_));
  }
  struct Again {
    DedupOp op;
    std::size_t answer = 0;
    std::string dead = {};  // the claim that it takes the place of
  };
  std::vector<Again> again;                  // claimed by who is dead
  std::unordered_set<std::uint64_t> tokens;  // of those
  for (const DedupOp& op : ops) {
    std::shared_ptr<redisReply> reply;
    if (auto received = receive(reply); !received) return received;
    const bool ends = op.kind == DedupOp::Kind::release || op.kind == DedupOp::Kind::done;
    if (ends && tokens.contains(op.token)) {
      // It came before its claim was one: nobody else would let go of that.
      again.push_back({.op = op});
      again.back().op.kind = DedupOp::Kind::release;
    }
    if (!is_answered(op)) continue;
    std::string in_the_way;
    answers.push_back(answer(op, *reply, in_the_way));
    if (in_the_way.empty()) continue;
    std::string_view owner = in_the_way;
    next_word(owner);
    next_word(owner);
    if (life_of(owner) != OwnerLife::dead) continue;
    again.push_back({op, answers.size() - 1, std::move(in_the_way)});
    tokens.insert(op.token);
  }
  for (const Again& each : again) send(each.op, times, each.dead);
  for (const Again& each : again) {
    std::shared_ptr<redisReply> reply;
    if (auto received = receive(reply); !received) return received;
    if (each.op.kind != DedupOp::Kind::claim) continue;
    std::string in_the_way;
    answers[each.answer] = answer(each.op, *reply, in_the_way);
  }
  return {};
}

}  // namespace lope::consumer
