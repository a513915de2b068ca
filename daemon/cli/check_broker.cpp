#include "cli/check_broker.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cli/broker_client.h"
#include "cli/harmless.h"
#include "cli/received.h"
#include "common/exit_code.h"
#include "common/json.h"
#include "common/text.h"
#include "consumer/dead_letter_probe.h"
#include "consumer/delay_ladder.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

using consumer::ChannelNumber;
using consumer::DeadLetterProbe;

constexpr const char* kCommand = "lope check";
constexpr ChannelNumber kChannel = 1;
constexpr int kNotFound = 404, kLocked = 405;

// What would fail, and what is good to know.
struct Findings {
  std::vector<std::string> errors, notes;
  bool asked = true;  // to the end
};

struct AddressReport {
  std::string address;
  std::string version;
  std::string error;  // empty: logged in
};

const AmqpValue* argument(const DeclareSettings& declaration, std::string_view name) {
  return find(declaration.arguments, name);
}

// "type quorum, durable true, …, arguments {…}"
std::string declaration_text(const DeclareSettings& declaration) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  return "type " + declaration.type + ", durable " + flag(declaration.durable) + ", exclusive " +
         flag(declaration.exclusive) + ", auto_delete " + flag(declaration.auto_delete) +
         ", arguments " + to_json(declaration.arguments);
}

std::string declaration_text(const ExchangeSettings& exchange) {
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  return "type " + exchange.type + ", durable " + flag(exchange.durable) + ", auto_delete " +
         flag(exchange.auto_delete) + ", internal " + flag(exchange.internal) + ", arguments " +
         to_json(exchange.arguments);
}

std::string json_list(const std::vector<std::string>& texts) {
  std::string json = "[";
  for (const std::string& text : texts) json += (json.size() > 1 ? "," : "") + json_quote(text);
  return json + "]";
}

class BrokerCheck final : private BrokerClient {
 public:
  BrokerCheck(const Settings& settings, bool json)
      : BrokerClient(kCommand), settings_(settings), json_(json) {}

  int run() {
    try_addresses();
    catch_signals();
    if (!address_) {
      if (json_) print_json();
      return flush_output() ? kExitTemporary : kExitFailed;
    }
    look_at_delays();
    for (const GroupSettings& group : settings_.groups) {
      Findings& findings = groups_.emplace_back();
      if (!stopping_) look_at(group, findings);
      if (!stopping_) continue;
      findings.asked = false;
      findings.errors.push_back("not asked: " + error_);
    }
    close();
    if (!error_.empty()) broker_.errors.push_back(error_);
    if (json_) {
      print_json();
    } else {
      print();
    }
    return flush_output() && ok() ? kExitOk : kExitFailed;
  }

 private:
  // ---- Asking

  // Each address is tried; the last that lets us in is asked.
  void try_addresses() {
    for (const BrokerAddress& address : settings_.broker.addresses) {
      AddressReport report;
      const bool six = address.host.find(':') != std::string::npos;
      report.address =
          (six ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
      std::unique_ptr<consumer::Connection> before = std::move(connection_);
      if (auto connected = connect(address, settings_.broker); !connected) {
        report.error = connected.error();
        connection_ = std::move(before);
      } else {
        report.version = connection_->broker_version();
        if (!consumer::has_delay_ladder(report.version)) {
          broker_.errors.push_back(
              "broker " + report.address +
              ": expected RabbitMQ 3.10 or later, for the delay queues, found " +
              escape(report.version));
        }
        if (before != nullptr) {
          std::swap(connection_, before);
          close();
          connection_ = std::move(before);
        }
        address_ = &address;
      }
      addresses_.push_back(std::move(report));
    }
    for (const AddressReport& report : addresses_) {
      if (report.error.empty()) continue;
      if (address_ == nullptr) {
        if (!json_) say(report.error);
      } else {
        broker_.notes.push_back(report.error);
      }
    }
    if (address_ != nullptr) vhost_ = address_->vhost;
  }

  // On a channel that is opened when it is not there; a refusal closes it.
  template <typename Question>
  BrokerAnswer put(const Question& question) {
    if (!ready()) return {false, 0, "not asked: " + error_};
    return take(ask(kChannel, question));
  }

  bool ready() {
    if (connection_ == nullptr && !interrupted_) {
      // The question before was one that costs the connection, such as a type of exchange that the
      // broker does not know.
      if (auto connected = connect(*address_, settings_.broker); !connected)
        fail(connected.error());
      open_ = false;
    }
    if (connection_ == nullptr || stopping_) return false;
    if (open_) return true;
    open_ = ask(kChannel, consumer::ChannelOpen{}) == Answer::yes &&
            ask(kChannel, consumer::Qos{1}) == Answer::yes;
    return open_;
  }

  BrokerAnswer take(Answer answer) {
    switch (answer) {
      case Answer::yes: return {true, 0, ""};
      case Answer::no: open_ = false; return {false, refusal().code, refusal().text};
      case Answer::nothing: break;
    }
    BrokerAnswer none{false, 0, error_};
    if (connection_ == nullptr && !interrupted_) {
      error_.clear();
      stopping_ = false;
    }
    return none;
  }

  void channel_lost(ChannelNumber, const Refusal&) override { open_ = false; }

  void on_queue_size(ChannelNumber, std::uint32_t, std::uint32_t consumers) override {
    consumers_ = consumers;
  }

  void on_ok(ChannelNumber channel, consumer::Reply reply, std::string_view text) override {
    if (reply == consumer::Reply::consume) consumer_tag_ = text;
    BrokerClient::on_ok(channel, reply, text);
  }

  // Of all that is asked no more the group has one error.
  void error(Findings& findings, std::string text) const {
    if (!stopping_) findings.errors.push_back(std::move(text));
  }

  // ---- One thing each. True: it is there.

  bool queue_there(const std::string& queue, BrokerAnswer& answer) {
    answer = put(consumer::QueueDeclare{queue, {}, true});
    return answer.ok || answer.code == kLocked;
  }

  bool exchange_there(const std::string& exchange, BrokerAnswer& answer) {
    if (exchange.empty()) return true;
    consumer::ExchangeDeclare look;
    look.exchange.name = exchange;
    look.passive = true;
    answer = put(look);
    return answer.ok;
  }

  // What declaring it would come to, which is done at each start. `subject`: "queue 'orders'".
  Judgement declare_queue(const std::string& subject, const std::string& queue,
                          const DeclareSettings& declaration, Findings& findings) {
    const BrokerAnswer answer = put(harmless_declare(queue, declaration));
    const Judgement judgement = judge_queue(answer);
    tell_declaration(judgement, subject, answer, declaration_text(declaration), findings);
    return judgement;
  }

  Judgement declare_exchange(const std::string& subject, const ExchangeSettings& exchange,
                             Findings& findings) {
    const BrokerAnswer answer = put(harmless_declare(exchange));
    const Judgement judgement = judge_exchange(answer, exchange);
    tell_declaration(judgement, subject, answer, declaration_text(exchange), findings);
    return judgement;
  }

  void tell_declaration(Judgement judgement, const std::string& subject, const BrokerAnswer& answer,
                        const std::string& file, Findings& findings) const {
    switch (judgement) {
      case Judgement::there:
      case Judgement::missing: break;
      case Judgement::differs:
        error(findings, subject + " cannot be declared like this: the configuration says " + file +
                            "; the broker says " + answer.to_string());
        break;
      case Judgement::refused:
        error(findings, subject + " may not be declared: " + answer.to_string());
        break;
      case Judgement::unknown:
        error(findings, subject + " cannot be declared: " + answer.to_string());
        break;
    }
  }

  // "queue 'orders'" may not "be consumed from"; or whether it may has had no answer.
  void tell_permission(Judgement judgement, const std::string& subject, const std::string& what,
                       const BrokerAnswer& answer, Findings& findings) const {
    if (judgement == Judgement::refused) {
      error(findings, subject + " may not " + what + ": " + answer.to_string());
    } else if (!answer.ok && answer.code == 0) {
      error(findings,
            subject + ": whether it may " + what + " is not known: " + answer.to_string());
    }
  }

  void may_consume(const std::string& subject, const std::string& queue, Findings& findings) {
    const BrokerAnswer answer = put(harmless_consume(queue));
    if (answer.ok) put(consumer::Cancel{consumer_tag_});  // a broker that looks less closely
    tell_permission(judge_consume(answer), subject, "be consumed from", answer, findings);
  }

  // `harmless`: of the binding that is wanted.
  void may_bind(const std::string& subject, const consumer::Unbind& harmless, Findings& findings) {
    const BrokerAnswer answer = put(harmless);
    tell_permission(judge_unbind(answer), subject,
                    "be bound to exchange '" + escape(harmless.binding.exchange) + "'", answer,
                    findings);
  }

  // Asked once for each exchange.
  void may_publish(const std::string& subject, const std::string& exchange, Findings& findings) {
    auto known = publishable_.find(exchange);
    if (known == publishable_.end()) {
      known = publishable_.emplace(exchange, put(harmless_publication(exchange))).first;
    }
    const BrokerAnswer& answer = known->second;
    if (is_of_the_key(answer)) return;
    const std::string name =
        exchange.empty() ? "the default exchange" : "exchange '" + escape(exchange) + "'";
    tell_permission(judge_publication(answer), subject + ": " + name, "be published to", answer,
                    findings);
  }

  // ---- The delay queues

  void look_at_delays() {
    const bool retries = std::ranges::any_of(settings_.groups, [](const GroupSettings& group) {
      return group.retry.attempts > 1 && group.retry.delay.count() > 0 && !group.auto_ack;
    });
    if (!settings_.delays.relay && !retries) return;
    const std::string& prefix = settings_.delays.prefix;
    for (const consumer::Request& step : consumer::ladder_steps(prefix, 0)) {
      if (const auto* exchange = std::get_if<consumer::ExchangeDeclare>(&step)) {
        declare_exchange("delays: exchange '" + exchange->exchange.name + "'", exchange->exchange,
                         broker_);
      } else if (const auto* queue = std::get_if<consumer::QueueDeclare>(&step)) {
        declare_queue("delays: queue '" + queue->queue + "'", queue->queue, queue->declaration,
                      broker_);
      } else if (const auto* bind = std::get_if<consumer::QueueBind>(&step)) {
        may_bind("delays: queue '" + bind->queue + "'", harmless_unbind(*bind), broker_);
      } else if (const auto* chain = std::get_if<consumer::ExchangeBind>(&step)) {
        may_bind("delays: exchange '" + chain->destination + "'", harmless_unbind(*chain), broker_);
      }
    }
    may_publish("delays", consumer::ladder_entry(prefix, consumer::kLadderUnit).exchange, broker_);
    const std::string due = consumer::due_name(prefix);
    if (!settings_.delays.relay) {
      look_for_relay(due);
      return;
    }
    may_consume("delays: queue '" + due + "'", due, broker_);
    may_publish("delays", "", broker_);
  }

  // That another daemon relays can be seen only while it does, so this is no error.
  void look_for_relay(const std::string& due) {
    BrokerAnswer answer;
    consumers_ = 0;
    const bool there = queue_there(due, answer);
    if ((there && consumers_ > 0) || (!there && answer.code != kNotFound)) return;
    broker_.notes.push_back("delays: nobody relays now: delays.relay is false, and queue '" + due +
                            "' " + (there ? "has no consumer" : "is not there") +
                            ": until somebody does, no message comes back for an attempt that has "
                            "to wait");
  }

  // ---- A group

  void look_at(const GroupSettings& group, Findings& findings) {
    for (const QueueSettings& queue : group.queues) {
      look_at(group, queue, findings);
      if (stopping_) return;
    }
    if (group.dead_letter.to == DeadLetterSettings::To::exchange && !group.auto_ack) {
      look_at(group.dead_letter, findings);
    }
    if (group.retry.attempts > 1 && !group.auto_ack) may_publish("retry", "", findings);
    if (group.journal.on) look_at(group.journal, findings);
  }

  void look_at(const JournalSettings& journal, Findings& findings) {
    const std::string& exchange = journal.exchange;
    const bool declared = std::ranges::any_of(settings_.groups, [&](const GroupSettings& group) {
      return std::ranges::any_of(group.queues, [&](const QueueSettings& queue) {
        return queue.declare && will_be_declared(queue.declaration, exchange);
      });
    });
    BrokerAnswer answer;
    if (exchange_there(exchange, answer)) {
      may_publish("journal", exchange, findings);
    } else if (!declared) {
      error(findings, "journal: exchange '" + escape(exchange) +
                          "' is not there, and no group declares it: " + answer.to_string());
    }
  }

  void look_at(const GroupSettings& group, const QueueSettings& queue, Findings& findings) {
    const std::string subject = "queue '" + escape(queue.name) + "'";
    BrokerAnswer answer;
    const bool there = queue_there(queue.name, answer);
    if (queue.declare) {
      look_at(group, queue, subject, there, findings);
    } else if (!there) {
      error(findings, answer.code == kNotFound
                          ? no_queue(queue.name) + ", and the configuration does not declare it"
                          : subject + ": " + answer.to_string());
    }
    if (there || queue.declare) may_consume(subject, queue.name, findings);
    // What a stream's messages come to, its retry queue's do, which is looked at too.
    if (group.auto_ack || queue.stream || (!there && !queue.declare)) return;
    switch (group.dead_letter.to) {
      case DeadLetterSettings::To::exchange: break;
      case DeadLetterSettings::To::automatic:
      case DeadLetterSettings::To::broker:
        look_at_dead_letters(group, queue, subject, there, findings);
        break;
    }
  }

  // A queue that is declared, with what belongs to it.
  void look_at(const GroupSettings& group, const QueueSettings& queue, const std::string& subject,
               bool there, Findings& findings) {
    const DeclareSettings& declaration = queue.declaration;
    for (const ExchangeSettings& exchange : declaration.exchanges) {
      const std::string exchange_subject = subject + ": exchange '" + escape(exchange.name) + "'";
      if (declare_exchange(exchange_subject, exchange, findings) == Judgement::missing) {
        findings.notes.push_back(exchange_subject + " is not there: it will be declared");
      }
    }
    for (const BindingSettings& binding : declaration.bindings) {
      BrokerAnswer answer;
      if (!will_be_declared(declaration, binding.exchange) &&
          !exchange_there(binding.exchange, answer)) {
        error(findings, subject + ": it is bound to exchange '" + escape(binding.exchange) +
                            "': " + answer.to_string());
      }
    }
    if (declare_queue(subject, queue.name, declaration, findings) == Judgement::missing && !there) {
      findings.notes.push_back(subject + " is not there: it will be declared");
    }
    for (const BindingSettings& binding : declaration.bindings) {
      may_bind(subject, harmless_unbind(consumer::QueueBind{queue.name, binding}), findings);
    }
    if (declaration.type != "quorum") return;
    if (const AmqpValue* limit = argument(declaration, "x-delivery-limit"); limit != nullptr) {
      look_at_limit(group, queue, subject, *limit, findings);
    }
    if (argument(declaration, "x-dead-letter-exchange") != nullptr &&
        (text_of(declaration.arguments, "x-dead-letter-strategy") != "at-least-once" ||
         text_of(declaration.arguments, "x-overflow") != "reject-publish")) {
      findings.notes.push_back(
          subject +
          ": without x-dead-letter-strategy: at-least-once and x-overflow: reject-publish a dead "
          "letter may be lost on its way");
    }
  }

  static void look_at_limit(const GroupSettings& group, const QueueSettings& queue,
                            const std::string& subject, const AmqpValue& value,
                            Findings& findings) {
    const std::string limit = subject + ": x-delivery-limit " + to_json(value);
    if (queue.prefetch > 1) {
      findings.notes.push_back(
          limit + " with prefetch " + std::to_string(queue.prefetch) +
          ": a crash or a lost connection counts for every prefetched message");
    }
    const auto* number = std::get_if<std::int64_t>(&value.value);
    if (number == nullptr || *number < 0 || group.auto_ack) return;  // below 0: none
    std::string more;
    if (*number < group.retry.attempts) {
      more = "retry.attempts " + std::to_string(group.retry.attempts);
    }
    if (*number < group.crashes) {
      more += (more.empty() ? "" : " and ") + ("crashes " + std::to_string(group.crashes));
    }
    if (more.empty()) return;
    findings.notes.push_back(limit + " is less than " + more +
                             ": what comes back to the queue more often the broker gives up by "
                             "itself, before the group does");
  }

  static bool will_be_declared(const DeclareSettings& declaration, const std::string& exchange) {
    return std::ranges::find(declaration.exchanges, exchange, &ExchangeSettings::name) !=
           declaration.exchanges.end();
  }

  // Of a queue without `dead_letter`, or with `dead_letter: broker`.
  void look_at_dead_letters(const GroupSettings& group, const QueueSettings& queue,
                            const std::string& subject, bool there, Findings& findings) {
    using Has = DeadLetterProbe::Answer;
    Has has = Has::none;
    std::string exchange;
    if (queue.declare) {
      if (argument(queue.declaration, "x-dead-letter-exchange") != nullptr) {
        exchange = text_of(queue.declaration.arguments, "x-dead-letter-exchange");
        BrokerAnswer answer;
        has = will_be_declared(queue.declaration, exchange) || exchange_there(exchange, answer)
                  ? Has::there
                  : Has::missing;
      }
    } else if (there) {
      DeadLetterProbe probe(queue.name);
      while (true) {
        const BrokerAnswer answer = put(probe.next());
        if (answer.ok ? probe.on_ok() : probe.on_channel_closed(answer.code, answer.text)) break;
      }
      has = probe.answer();
      exchange = probe.exchange();
    }
    const bool by_broker = group.dead_letter.to == DeadLetterSettings::To::broker;
    const std::string missing = "its dead-letter exchange '" + escape(exchange) + "' is not there";
    std::string why;
    switch (has) {
      case Has::there: return;
      case Has::none: why = "it has no dead-letter exchange"; break;
      case Has::missing: why = missing; break;
      case Has::unknown:
        why = "the broker does not say whether it has a dead-letter exchange";
        break;
    }
    if (has == Has::missing && (by_broker || queue.declare)) {
      error(findings, subject + ": " + missing + ": the broker drops what is rejected");
    } else if (by_broker) {
      findings.notes.push_back(subject + ": " + why +
                               " of its own: unless a policy sets one, what is "
                               "rejected is dropped");
    } else {
      const std::string parking = consumer::parking_queue(queue.name);
      findings.notes.push_back(subject + ": " + why +
                               ", and dead_letter is not given: dead letters "
                               "go to queue '" +
                               escape(parking) + "'");
      may_park(subject, parking, findings);
    }
  }

  void may_park(const std::string& subject, const std::string& parking, Findings& findings) {
    BrokerAnswer answer;
    if (!queue_there(parking, answer)) {
      declare_queue(subject + ": queue '" + escape(parking) + "'", parking, {}, findings);
    }
    may_publish(subject, "", findings);
  }

  void look_at(const DeadLetterSettings& dead_letter, Findings& findings) {
    BrokerAnswer answer;
    if (dead_letter.exchange.empty()) {
      const std::string subject = "dead_letter: queue '" + escape(dead_letter.routing_key) + "'";
      if (dead_letter.declare) {
        if (declare_queue(subject, dead_letter.routing_key, {}, findings) == Judgement::missing) {
          findings.notes.push_back(subject + " is not there: it will be declared");
        }
      } else if (!queue_there(dead_letter.routing_key, answer)) {
        error(findings, subject + " is not there, and not declared: " + answer.to_string());
      }
      may_publish("dead_letter", "", findings);
      return;
    }
    const std::string subject = "dead_letter: exchange '" + escape(dead_letter.exchange) + "'";
    if (dead_letter.declare) {
      ExchangeSettings exchange;
      exchange.name = dead_letter.exchange;
      exchange.type = dead_letter.exchange_type;
      if (declare_exchange(subject, exchange, findings) == Judgement::missing) {
        findings.notes.push_back(subject + " is not there: it will be declared");
      }
    } else if (!exchange_there(dead_letter.exchange, answer)) {
      error(findings, subject + " is not there, and not declared: " + answer.to_string());
      return;
    }
    may_publish("dead_letter", dead_letter.exchange, findings);
  }

  // ---- Telling

  bool ok() const {
    return broker_.errors.empty() &&
           std::ranges::all_of(groups_, [](const Findings& group) { return group.errors.empty(); });
  }

  void print() {
    for (const std::string& error : broker_.errors) say(error);
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      for (const std::string& error : groups_[i].errors) {
        say("group '" + settings_.groups[i].name + "': " + error);
      }
    }
    std::fflush(stderr);
    for (const AddressReport& address : addresses_) {
      if (!address.error.empty()) continue;
      std::printf("broker %s: ok RabbitMQ %s\n", address.address.c_str(),
                  address.version.empty() ? "of unknown version" : escape(address.version).c_str());
    }
    for (const std::string& note : broker_.notes) std::printf("note: %s\n", note.c_str());
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      const std::string& name = settings_.groups[i].name;
      std::printf("group '%s': %s\n", name.c_str(),
                  !groups_[i].asked           ? "not asked"
                  : groups_[i].errors.empty() ? "ok on the broker"
                                              : "would fail on the broker");
      for (const std::string& note : groups_[i].notes) {
        std::printf("group '%s': note: %s\n", name.c_str(), note.c_str());
      }
    }
  }

  void print_json() {
    std::string json = std::string("{\"ok\":") + (address_ != nullptr && ok() ? "true" : "false") +
                       ",\"brokers\":[";
    for (const AddressReport& address : addresses_) {
      if (&address != &addresses_.front()) json += ",";
      json += "{\"address\":" + json_quote(address.address);
      if (address.error.empty()) {
        json += ",\"ok\":true,\"version\":" + json_quote(address.version) + "}";
      } else {
        json += ",\"ok\":false,\"error\":" + json_quote(address.error) + "}";
      }
    }
    json += "],\"errors\":" + json_list(broker_.errors) + ",\"notes\":" + json_list(broker_.notes) +
            ",\"groups\":[";
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      if (i > 0) json += ",";
      json += "{\"name\":" + json_quote(settings_.groups[i].name) +
              ",\"ok\":" + (groups_[i].errors.empty() ? "true" : "false") +
              ",\"errors\":" + json_list(groups_[i].errors) +
              ",\"notes\":" + json_list(groups_[i].notes) + "}";
    }
    std::printf("%s]}\n", json.c_str());
  }

  const Settings& settings_;
  const bool json_;
  const BrokerAddress* address_ = nullptr;  // the one that is asked
  std::vector<AddressReport> addresses_;
  bool open_ = false;  // the channel
  std::string consumer_tag_;
  std::uint32_t consumers_ = 0;  // of the queue that was looked for last
  std::map<std::string, BrokerAnswer> publishable_;
  Findings broker_;
  std::vector<Findings> groups_;
};

}  // namespace

int check_broker(const Settings& settings, bool json) { return BrokerCheck(settings, json).run(); }

}  // namespace lope::cli
