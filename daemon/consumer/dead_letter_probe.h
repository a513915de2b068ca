// Does a queue dead-letter what is rejected? AMQP has no question for it. But a broker that is
// asked to declare an existing queue with another argument refuses, and says what the queue has.
// The argument asked for is of a wrong type, so a queue that is not there is not made by this. A
// policy's dead-letter exchange is not seen. Pure: requests out, answers in.
#pragma once

#include <string>
#include <string_view>

#include "consumer/connection.h"

namespace lope::consumer {

class DeadLetterProbe {
 public:
  enum class Answer {
    unknown,  // the broker does not say
    none,
    missing,  // there is a name, and no exchange of that name: what is rejected is dropped
    there,
  };

  explicit DeadLetterProbe(std::string queue) : queue_(std::move(queue)) {}
  // The queue's is known: only whether it is there is asked.
  DeadLetterProbe(std::string queue, std::string exchange)
      : queue_(std::move(queue)), looking_for_exchange_(true), exchange_(std::move(exchange)) {}

  // To be asked next; after a closed channel on a new one.
  Request next() const;
  // What came of it. True: that was the last.
  bool on_ok();
  bool on_channel_closed(int code, std::string_view text);

  Answer answer() const { return answer_; }
  const std::string& exchange() const { return exchange_; }
  // The broker's words show that the queue is not a stream. False also when they do not say.
  bool is_no_stream() const { return no_stream_; }
  // They show that it is of a type that has to be said in a declaration, as a stream is.
  bool may_be_stream() const { return other_type_; }

 private:
  const std::string queue_;
  bool durable_ = true;
  bool auto_delete_ = false;
  bool looking_for_exchange_ = false;
  bool no_stream_ = false;
  bool other_type_ = false;
  int rounds_ = 0;
  Answer answer_ = Answer::unknown;
  std::string exchange_;
};

}  // namespace lope::consumer
