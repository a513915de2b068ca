// Opens connections on a thread of its own, so that the loop never waits for a resolver, a
// connect or a login.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/fd.h"
#include "common/result.h"
#include "common/settings.h"
#include "consumer/address_rotation.h"
#include "consumer/connection.h"

namespace lope::consumer {

class Connector {
 public:
  // `event_fd` becomes readable when an attempt has ended.
  static Result<std::unique_ptr<Connector>> create(const BrokerSettings& settings,
                                                   std::string connection_name);

  // Tries one address; see AddressRotation. Not before the attempt before has ended. In the first
  // two rounds over several a machine that takes no connection is left earlier.
  void start();
  // That address has not answered, or what was connected is lost: the next one is next. Returns how
  // long to wait before.
  std::chrono::milliseconds failed();
  // What was connected was good for a while: the other addresses are tried at once when it is lost.
  void lasted() { rotation_.lasted(); }
  // It has gone silent: the others are tried twice before it is again.
  void pass_over() { rotation_.pass_over(); }
  std::size_t addresses() const { return settings_.addresses.size(); }
  bool has_other_address() const { return addresses() > 1; }
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
  AddressRotation rotation_;
};

}  // namespace lope::consumer
