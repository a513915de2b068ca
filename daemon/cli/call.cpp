#include "cli/call.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "cli/broker_client.h"
#include "cli/received.h"
#include "common/exit_code.h"
#include "common/units.h"
#include "common/uuid.h"

namespace lope::cli {

namespace {

using consumer::ChannelNumber;

constexpr const char* kCommand = "lope call";
constexpr ChannelNumber kChannel = 1;
// The broker makes an address of it that is this channel's own.
constexpr const char* kReplyTo = "amq.rabbitmq.reply-to";

class Calling final : private BrokerClient {
 public:
  Calling(const CallOptions& options, std::string_view body)
      : BrokerClient(kCommand),
        options_(options),
        target_(target_text(options.request.exchange, options.request.routing_key)),
        body_(body) {}

  int run() {
    if (!connect(options_.request.broker)) return kExitTemporary;
    catch_signals();
    if (begin(consumer::ChannelOpen{}) && begin(consumer::ConfirmSelect{}) &&
        begin(consumer::Consume{kReplyTo, "", {}, true}) && send()) {
      wait_for_reply();
    }
    close();
    if (!replied_) {
      say(error_);
      return kExitFailed;
    }
    if (options_.json) {
      std::printf("{\"properties\":%s,%s}\n", properties_json(reply_).c_str(),
                  body_json(reply_.body).c_str());
    } else {
      std::fwrite(reply_.body.data(), 1, reply_.body.size(), stdout);
    }
    return flush_output() ? kExitOk : kExitFailed;
  }

 private:
  bool begin(const consumer::Request& request) {
    const Answer answer = ask(kChannel, request);
    if (answer == Answer::no) fail(describe(request) + ": " + refusal().to_string());
    return answer == Answer::yes;
  }

  bool send() {
    const std::string expiration = std::to_string(options_.timeout.count());
    consumer::Publication publication;
    publication.exchange = options_.request.exchange;
    publication.routing_key = options_.request.routing_key;
    publication.persistent = false;  // nobody waits for the reply once the connection is gone
    publication.content_type = options_.request.content_type;
    publication.correlation_id = correlation_id_;
    publication.reply_to = kReplyTo;
    publication.message_id = correlation_id_;
    publication.expiration = expiration;
    publication.timestamp = unix_ns() / 1'000'000'000;
    publication.headers = options_.request.headers;
    publication.body = body_;
    const auto put = connection_->publish(kChannel, publication);
    return put || fail(target_ + ": " + put.error());
  }

  void wait_for_reply() {
    const TimePoint deadline = Clock::now() + options_.timeout;
    while (!replied_ && !stopping_) {
      if (auto written = connection_->write(); !written) {
        lost(written.error());
        return;
      }
      const bool dry = pump();
      if (connection_ == nullptr || replied_ || stopping_) return;
      if (Clock::now() >= deadline) {
        fail(target_ + ": no reply within " + duration_text(options_.timeout) +
             (blocked_      ? ": the broker blocks publishers (" + block_reason_ + ")"
              : !confirmed_ ? ", and the broker has not confirmed the request"
                            : ": does anybody consume from it, and reply?"));
        return;
      }
      if (dry) wait(deadline, connection_->unwritten() > 0);
    }
  }

  // ---- What the broker says

  // There is one request on this channel: a reply without a correlation id can only be its own.
  char* on_delivery(const consumer::IncomingDelivery& delivery) override {
    const auto id = delivery.view[TextProperty::correlation_id];
    if (replied_ || (!id.empty() && id != correlation_id_)) return nullptr;
    reply_ = received(delivery);
    reply_.body.resize(delivery.body_size);
    if (delivery.body_size == 0) replied_ = true;
    return reply_.body.data();
  }

  void on_body(ChannelNumber) override { replied_ = true; }

  void on_returned(const consumer::ReturnedPublication& returned) override {
    fail(unroutable(options_.request.exchange, options_.request.routing_key, returned));
  }

  void on_confirmed(ChannelNumber, std::uint64_t, bool, bool ack) override {
    confirmed_ = ack;
    if (!ack) fail(target_ + ": the broker refused the request (is the queue full?)");
  }

  void channel_lost(ChannelNumber, const Refusal& refusal) override {
    fail(target_ + ": " + refusal.to_string());
  }

  const CallOptions& options_;
  const std::string target_;  // for people
  const std::string_view body_;
  const std::string correlation_id_ = uuid();
  bool confirmed_ = false;
  bool replied_ = false;
  Received reply_;
};

}  // namespace

int call(const CallOptions& options) {
  auto bodies = Bodies::open(options.request, kCommand);
  if (!bodies) {
    std::fprintf(stderr, "%s: %s\n", kCommand, bodies.error().c_str());
    return kExitFailed;
  }
  return Calling(options, bodies->next().value_or("")).run();
}

}  // namespace lope::cli
