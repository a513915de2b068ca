// Publishes each message once more, somewhere else. It is acked once the broker has confirmed that.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <limits>
#include <lope/handler.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../common/message_template.hpp"
#include "../common/option_units.hpp"
#include "../common/template_map.hpp"

namespace {

using lope::plugins::MessageTemplate;

constexpr lope_option kOptions[] = {
    lope::defaulted("exchange", "", "to publish to; a template; empty: the default exchange"),
    lope::defaulted("routing_key", "", "a template; without an exchange the name of a queue"),
    lope::defaulted("set_headers.*", "", "headers to set, by name; templates"),
    lope::defaulted("remove_headers.*", "", "headers to leave out; NAME* is all that begin so"),
    lope::defaulted("set_properties.*", "", "properties to set, by name; templates"),
    lope::defaulted("remove_properties.*", "", "properties to leave out"),
    lope::defaulted("delay", "0s", "how long the broker keeps it back"),
    lope::defaulted("expiration", "0s", "of what is published; 0s: the message's own"),
    lope::defaulted("priority", "", "of what is published, 0 to 255; empty: the message's own"),
    lope::defaulted("unroutable", "retry", "what no queue takes: retry, or drop"),
    lope::kEndOfOptions};

lope::InvalidConfiguration wrong(const std::string& option, const std::string& expected,
                                 const std::string& found) {
  return lope::InvalidConfiguration("option '" + option + "': expected " + expected + ", found '" +
                                    found + "'");
}

// A property that goes along, or is set.
struct Property {
  const char* name;
  std::string_view (lope::Message::*get)() const;
  std::string lope::Publication::*text;
};
constexpr Property kTexts[] = {
    {"content_type", &lope::Message::content_type, &lope::Publication::content_type},
    {"content_encoding", &lope::Message::content_encoding, &lope::Publication::content_encoding},
    {"correlation_id", &lope::Message::correlation_id, &lope::Publication::correlation_id},
    {"reply_to", &lope::Message::reply_to, &lope::Publication::reply_to},
    {"message_id", &lope::Message::message_id, &lope::Publication::message_id},
    {"type", &lope::Message::type, &lope::Publication::type}};

constexpr std::string_view kPriority = "priority";
constexpr std::string_view kExpiration = "expiration";

const Property* property_of(std::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kTexts), std::end(kTexts),
                   [name](const Property& property) { return name == property.name; });
  return found == std::end(kTexts) ? nullptr : found;
}

std::string property_names() {
  std::string names;
  for (const Property& property : kTexts) names += std::string(property.name) + ", ";
  return names.substr(0, names.size() - 2);
}

// The broker would deliver to the queues that these name as well, and confirm nothing of that.
bool is_distribution(std::string_view name) { return name == "CC" || name == "BCC"; }

// Otherwise the host would refuse the publication; see lope_host::publish().
bool can_be_sent(const lope::Header& header) {
  const std::int32_t kind = header.value.kind();
  return kind < LOPE_OTHER && (kind != LOPE_UINT64 || header.value.as_int()) &&
         !header.name.empty() && !is_distribution(header.name);
}

// The broker's and Lope's own notes about a message, which nobody expects on another.
bool is_bookkeeping(std::string_view name) {
  return name.substr(0, 7) == "x-lope-" || name == "x-death";
}

// A message's expiration, as the broker reads it: a number, with a '+' or without. Nothing when it
// is none, or more than the broker takes.
std::optional<std::chrono::milliseconds> milliseconds_in(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  std::uint32_t ms = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, ms);
  if (error != std::errc{} || stop != end) return std::nullopt;
  // What expires at once does so in a moment: 0 would be never.
  return std::chrono::milliseconds(std::max<std::uint32_t>(ms, 1));
}

class Forward final : public lope::Handler {
 public:
  explicit Forward(lope::Host host);

  lope::Outcome handle(const lope::Message& message) override;

 private:
  bool removes_property(std::string_view name) const {
    return std::find(removed_properties_.begin(), removed_properties_.end(), name) !=
           removed_properties_.end();
  }
  void copy_properties(const lope::Message& message, lope::Publication& to) const;
  void copy_headers(const lope::Message& message, lope::Publication& to);

  const lope::Host host_;
  const MessageTemplate exchange_;
  MessageTemplate routing_key_;
  const std::vector<lope::plugins::NamedTemplate> set_headers_;
  const std::vector<std::string> removed_headers_;
  const std::vector<lope::plugins::NamedTemplate> set_properties_;
  const std::vector<std::string> removed_properties_;
  const std::chrono::milliseconds delay_, expiration_;
  std::optional<std::uint32_t> priority_;
  bool may_be_unroutable_ = false;
  bool told_of_headers_ = false;
};

Forward::Forward(lope::Host host)
    : host_(host),
      exchange_(MessageTemplate::parse("exchange", host.option_as<std::string>("exchange"))),
      set_headers_(lope::plugins::template_map(host, "set_headers")),
      removed_headers_(host.option_list("remove_headers")),
      set_properties_(lope::plugins::template_map(host, "set_properties")),
      removed_properties_(host.option_list("remove_properties")),
      delay_(lope::plugins::duration_option(host, "delay")),
      expiration_(lope::plugins::duration_option(host, "expiration")) {
  const auto key = host.option_as<std::string>("routing_key");
  if (key.empty() && exchange_.empty()) {
    throw lope::InvalidConfiguration("expected an option 'exchange' or 'routing_key', found none");
  }
  routing_key_ = MessageTemplate::parse("routing_key", key.empty() ? "{routing_key|}" : key);
  for (const auto& [name, value] : set_properties_) {
    if (property_of(name) == nullptr) {
      throw wrong("set_properties." + name, "one of " + property_names(), name);
    }
  }
  for (const std::string& name : removed_properties_) {
    if (property_of(name) == nullptr && name != kPriority && name != kExpiration) {
      throw wrong("remove_properties", "some of " + property_names() + ", priority, expiration",
                  name);
    }
  }
  for (const auto& [name, value] : set_headers_) {
    if (is_bookkeeping(name) || is_distribution(name)) {
      throw wrong("set_headers." + name, "a header that can be sent", name);
    }
  }
  // As much as the broker takes.
  if (expiration_ > std::chrono::milliseconds(std::numeric_limits<std::uint32_t>::max())) {
    throw wrong("expiration", "at most 49d", host.option_as<std::string>("expiration"));
  }
  if (const auto priority = host.option_as<std::string>("priority"); !priority.empty()) {
    priority_ = host.option_as<std::uint8_t>("priority");
  }
  const auto unroutable = host.option_as<std::string>("unroutable");
  if (unroutable != "retry" && unroutable != "drop") {
    throw wrong("unroutable", "retry or drop", unroutable);
  }
  may_be_unroutable_ = unroutable == "drop";
}

lope::Outcome Forward::handle(const lope::Message& message) {
  lope::Publication copy;
  copy.exchange = exchange_.expand(message);
  copy.routing_key = routing_key_.expand(message);
  if (copy.exchange.empty() && copy.routing_key == message.queue()) {
    throw lope::Reject("it would come back to its own queue");
  }
  copy.body = message.body_text();
  copy.persistent = message.persistent();
  copy.may_be_unroutable = may_be_unroutable_;
  copy.delay = delay_;
  copy_properties(message, copy);
  copy_headers(message, copy);
  try {
    message.publish(copy);
  } catch (const lope::Error& error) {
    // It would be the same the next time.
    if (error.status() != LOPE_E_INVALID && error.status() != LOPE_E_TOO_LARGE) throw;
    throw lope::Reject(error.what());
  }
  return lope::Outcome::ack;
}

void Forward::copy_properties(const lope::Message& message, lope::Publication& to) const {
  for (const Property& property : kTexts) {
    if (!removes_property(property.name)) to.*property.text = (message.*property.get)();
  }
  for (const auto& [name, value] : set_properties_) {
    to.*property_of(name)->text = value.expand(message);
  }
  if (!removes_property(kPriority)) to.priority = message.priority();
  if (priority_) to.priority = *priority_;
  if (!removes_property(kExpiration)) {
    if (const auto own = milliseconds_in(message.expiration())) to.expiration = *own;
  }
  if (expiration_.count() > 0) to.expiration = expiration_;
}

void Forward::copy_headers(const lope::Message& message, lope::Publication& to) {
  // From the last: of several by one name the first counts.
  for (std::size_t i = message.header_count(); i-- > 0;) {
    const lope::Header header = message.header_at(i);
    if (lope::plugins::covers(removed_headers_, header.name)) continue;
    if (can_be_sent(header)) {
      to.header(std::string(header.name), header.value);
    } else if (!is_bookkeeping(header.name) && !std::exchange(told_of_headers_, true)) {
      host_.warn("header '" + std::string(header.name) + "' of message '" +
                 std::string(message.message_id()) +
                 "' is not passed on: it is a table, an array, a number that is too large, CC or "
                 "BCC; others like it will not be told of");
    }
  }
  for (const auto& [name, value] : set_headers_) to.header(name, value.expand(message));
}

}  // namespace

LOPE_HANDLER_WITH(Forward, "forward", "1.0.0", "publishes messages to another exchange or queue",
                  kOptions)
