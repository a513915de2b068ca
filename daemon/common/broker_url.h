// A broker's address as one text: amqp://user:password@host:port/vhost, as the AMQP URI
// specification has it, or amqps://… for TLS. Used by the configuration and by the commands that
// take a URL.
#pragma once

#include <string_view>

#include "common/result.h"
#include "common/settings.h"

namespace lope {

struct BrokerUrl {
  BrokerAddress address;  // its defaults where the URL says nothing
  bool has_user = false;
  bool has_password = false;
};

// User, password and vhost are percent-decoded; an IPv6 address stands in brackets. Without a vhost
// part the vhost is "/"; after a lone trailing '/' it is the empty one, which hardly any broker
// has. On failure the text says what was expected, and holds neither the URL nor a password.
Result<BrokerUrl> parse_broker_url(std::string_view url);

}  // namespace lope
