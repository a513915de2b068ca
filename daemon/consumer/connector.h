// Opens connections on a thread of its own, so that the loop never waits for a resolver, a
// connect or a login.
#pragma once

#include <memory>
#include <string>

#include "common/fd.h"
#include "common/result.h"
#include "common/settings.h"
#include "consumer/connection.h"

namespace lope::consumer {

class Connector {
 public:
  // `event_fd` becomes readable when an attempt has ended.
  static Result<std::unique_ptr<Connector>> create(const BrokerSettings& settings,
                                                   std::string connection_name);

  // Tries one address, the next one of the list each time (the first at random). Only when !busy().
  void start();
  bool busy() const { return busy_; }
  int event_fd() const;
  // The result of the attempt, once event_fd() is readable; nothing while it goes on.
  std::unique_ptr<Result<std::unique_ptr<Connection>>> take();

 private:
  struct Shared;
  Connector(const BrokerSettings& settings, std::string connection_name,
            std::shared_ptr<Shared> shared);

  const BrokerSettings settings_;
  const std::string connection_name_;
  // Shared with the thread of an attempt, which may outlive us: a resolver cannot be stopped.
  std::shared_ptr<Shared> shared_;
  std::size_t next_address_;
  bool busy_ = false;
};

}  // namespace lope::consumer
