// A Redis server's address as one text: redis://user:password@host:port/number. Used by the
// configuration, which refuses others, and by the consumer.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace lope {

struct RedisUrl {
  std::string host;
  int port = 6379;
  int database = 0;
  std::string user;      // empty: none
  std::string password;  // empty: none; never logged, never shown
  friend bool operator==(const RedisUrl&, const RedisUrl&) = default;
};

// User and password are percent-decoded; an IPv6 address stands in brackets; `redis://:password@…`
// names no user. On failure the text says what was expected, and holds neither the URL nor a
// password.
Result<RedisUrl> parse_redis_url(std::string_view url);

}  // namespace lope
