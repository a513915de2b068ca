#include "cli/peek.h"

#include <utility>

#include "cli/broker_client.h"
#include "common/exit_code.h"

namespace lope::cli {

namespace {

using consumer::ChannelNumber;

constexpr ChannelNumber kChannel = 1;  // what is taken on it goes back when it closes
constexpr int kNotFound = 404;

class Peek final : private BrokerClient {
 public:
  Peek(const std::string& command, const std::string& queue)
      : BrokerClient(command), queue_(queue) {}

  Peeked run(const BrokerSettings& broker, std::uint64_t count) {
    if (!connect(broker)) return {kExitTemporary, {}};
    catch_signals();
    take(count);
    close();
    if (interrupted_ && error_.empty()) error_ = "interrupted";
    if (error_.empty()) return {kExitOk, std::move(messages_)};
    say(error_);
    return {kExitFailed, {}};
  }

 private:
  bool begin(const consumer::Request& request) {
    const Answer answer = ask(kChannel, request);
    if (answer == Answer::no) {
      fail(refusal().code == kNotFound ? no_queue(queue_)
                                       : describe(request) + ": " + refusal().to_string());
    }
    return answer == Answer::yes;
  }

  void take(std::uint64_t count) {
    if (!begin(consumer::ChannelOpen{}) || !begin(consumer::QueueDeclare{queue_, {}, true})) return;
    for (empty_ = false; messages_.size() < count && !empty_;) {
      if (!wait_for_room()) return;
      expect_answer();
      if (auto sent = connection_->get(kChannel, queue_); !sent) {
        lost(sent.error());
        return;
      }
      const Answer answer = wait_for_answer(kChannel, "get a message");
      if (answer == Answer::no) fail("get a message: " + refusal().to_string());
      if (answer != Answer::yes) return;
    }
  }

  char* on_delivery(const consumer::IncomingDelivery& delivery) override {
    messages_.push_back(received(delivery));
    Received& message = messages_.back();
    message.body.resize(delivery.body_size);
    if (delivery.body_size == 0) answered();
    return message.body.data();
  }
  void on_body(ChannelNumber) override { answered(); }
  void on_ok(ChannelNumber, consumer::Reply reply, std::string_view) override {
    if (reply == consumer::Reply::get_empty) empty_ = true;
    answered();
  }
  void channel_lost(ChannelNumber, const Refusal& refusal) override { fail(refusal.to_string()); }

  const std::string queue_;
  std::vector<Received> messages_;
  bool empty_ = false;
};

}  // namespace

Peeked peek(const std::string& command, const BrokerSettings& broker, const std::string& queue,
            std::uint64_t count) {
  return Peek(command, queue).run(broker, count);
}

}  // namespace lope::cli
