// The private broker that ./dev test starts: administration, publishing with confirms, and faults.
// Everything throws std::runtime_error on failure, so that a test fails where it stands.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/eventually.h"

namespace lope::test {

struct QueueOptions {
  bool durable = true;
  bool exclusive = false;
  bool auto_delete = false;
  std::vector<std::pair<std::string, std::string>> text_arguments =
      {};  // {"x-queue-type", "quorum"}
  std::vector<std::pair<std::string, std::int64_t>> number_arguments = {};  // {"x-max-length", 10}
};

struct ExchangeOptions {
  bool internal = false;  // nobody may publish to it
  std::vector<std::pair<std::string, std::string>> text_arguments =
      {};  // {"alternate-exchange", "lost"}
};

// A header of any AMQP kind, by its letter in the protocol: t b B s u I i l L (integers), f d
// (reals), T (a time), V (nothing), S x (texts), D (a decimal), A (an array, of the text if there
// is one), F (an empty table).
struct TypedHeader {
  std::string name;
  char kind = 'V';
  std::int64_t number = 0;
  double real = 0;
  std::string text = {};
};

struct Publication {
  std::string exchange = {};  // empty: the default exchange
  std::string routing_key = {};
  std::string body = {};
  std::string message_id = {};
  bool persistent = true;
  std::string content_type = {};
  std::string correlation_id = {};
  std::string reply_to = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
  std::vector<TypedHeader> typed_headers = {};
  std::string content_encoding = {};
  std::string type = {};
  std::string app_id = {};
  std::string user_id = {};
  std::string expiration = {};  // milliseconds
  int priority = -1;            // none
  std::uint64_t timestamp = 0;  // seconds; 0: none
};

// A message taken from a queue.
struct Received {
  std::string body;
  std::string message_id;
  std::string exchange;
  std::string routing_key;
  bool redelivered = false;
  bool persistent = false;
  std::string content_type;
  std::string content_encoding;
  std::string correlation_id;
  std::string reply_to;
  std::vector<std::pair<std::string, std::string>> headers;  // those whose value is text
  std::map<std::string, std::int64_t> numbers;               // those whose value is an integer
  std::vector<std::string> header_names;                     // of all of them
  std::string expiration;

  // A header that is text; empty when there is none.
  std::string header(const std::string& name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
  // A header that is an integer; -1 when there is none.
  std::int64_t number(const std::string& name) const {
    const auto found = numbers.find(name);
    return found == numbers.end() ? -1 : found->second;
  }
  // Has it any header whose name begins so?
  bool has_header(std::string_view beginning) const {
    return std::any_of(header_names.begin(), header_names.end(),
                       [&](const std::string& name) { return name.starts_with(beginning); });
  }
};

// Their message ids, sorted.
inline std::vector<std::string> ids_of(const std::vector<Received>& messages) {
  std::vector<std::string> ids;
  for (const Received& message : messages) ids.push_back(message.message_id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

class AmqpConnection;  // broker.cpp: one connection with one channel

// Publishes with confirms, on a connection of its own. A message that no queue takes is an error.
class Publisher {
 public:
  explicit Publisher(const std::string& url);
  Publisher(Publisher&&) noexcept;
  ~Publisher();

  // Sends without waiting.
  void send(const Publication& publication);
  // Reads confirms that are there or arrive within `timeout`.
  void pump(std::chrono::milliseconds timeout);
  // Waits until nothing is unconfirmed.
  void wait_confirmed(std::chrono::milliseconds deadline = 30s);

  // Sends and waits for the confirm.
  void publish(const std::string& queue, const std::string& body,
               const std::string& message_id = "");
  void publish(const Publication& publication);
  // Sends make(0) to make(count - 1) with at most `window` unconfirmed, and waits for the last
  // confirm.
  void publish_many(int count, const std::function<Publication(int)>& make, int window = 1000);

  // The message ids the broker has taken, and those it has not answered for yet, in order.
  const std::vector<std::string>& confirmed() const { return confirmed_; }
  std::vector<std::string> unconfirmed() const;
  std::size_t unconfirmed_count() const { return pending_.size(); }

 private:
  void settle(std::uint64_t tag, bool multiple, bool acked);

  std::unique_ptr<AmqpConnection> connection_;
  std::uint64_t next_tag_ = 1;
  std::map<std::uint64_t, std::string> pending_;
  std::vector<std::string> confirmed_;
};

// Publishes at a steady rate in a thread of its own. When its connection breaks it connects again
// and goes on with the next message; what was unconfirmed then is never sent twice.
class RatePublisher {
 public:
  RatePublisher(std::string url, int per_second, std::chrono::seconds duration,
                std::function<Publication(int)> make);
  RatePublisher(const RatePublisher&) = delete;
  RatePublisher& operator=(const RatePublisher&) = delete;
  ~RatePublisher();

  // Any thread.
  bool running() const { return !done_; }
  int sent() const { return sent_; }

  // Sends no more, but still waits for what is unconfirmed.
  void stop() { stopping_ = true; }
  // Waits until everything is sent and confirmed. Throws what the thread failed with.
  void join();

  // After join(): ids the broker has confirmed, and ids whose fate is unknown because the
  // connection broke first.
  const std::vector<std::string>& confirmed() const { return confirmed_; }
  const std::vector<std::string>& unknown() const { return unknown_; }
  int reconnects() const { return reconnects_; }

 private:
  void run();

  const std::string url_;
  const int per_second_;
  const int total_;
  const std::function<Publication(int)> make_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> done_ = false;
  std::atomic<int> sent_ = 0;
  std::vector<std::string> confirmed_;
  std::vector<std::string> unknown_;
  int reconnects_ = 0;
  std::string failure_;
  std::thread thread_;
};

class Broker {
 public:
  // Fails the test when LOPE_TEST_AMQP_URL is not set.
  Broker();
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;
  // Deletes the queues and exchanges that are its own.
  ~Broker();

  const std::string& url() const { return url_; }  // amqp://guest:guest@127.0.0.1:PORT
  int port() const;

  // "PREFIX-<pid>-<number>", not used before. The queue or exchange, once somebody made it, is
  // deleted with this object.
  std::string unique_queue(const std::string& prefix = "test");
  std::string unique_exchange(const std::string& prefix = "test");
  // Declares a queue with a unique name.
  std::string make_queue(const std::string& prefix = "test", const QueueOptions& options = {});

  void declare_queue(const std::string& name, const QueueOptions& options = {});
  void delete_queue(const std::string& name);
  void purge_queue(const std::string& name);
  void declare_exchange(const std::string& name, const std::string& type,
                        const ExchangeOptions& options = {});
  void bind_queue(const std::string& queue, const std::string& exchange, const std::string& key);
  void bind_exchange(const std::string& to, const std::string& from, const std::string& key);
  bool queue_exists(const std::string& name);
  // Ready messages, and consumers, by a passive declare; nothing when there is no such queue.
  std::optional<int> message_count(const std::string& queue);
  std::optional<int> consumer_count(const std::string& queue);
  // Nothing in the queue, and nothing on its way: the node's own count of both, by list().
  bool is_empty(const std::string& queue);
  // Takes and acknowledges everything that is ready.
  std::vector<Received> drain(const std::string& queue);

  Publisher publisher() const { return Publisher(url_); }
  void publish(const std::string& queue, const std::string& body,
               const std::string& message_id = "");

  // rabbitmqctl with these arguments; its output. Throws when it fails.
  std::string ctl(const std::vector<std::string>& arguments);
  // The rows of a rabbitmqctl list command, one string a column:
  // list({"list_connections", "name", "client_properties"}).
  std::vector<std::vector<std::string>> list(std::vector<std::string> arguments);
  // The broker's names (process ids) of the connections whose client-given name contains `text`,
  // sorted: the same list means the same connections.
  std::vector<std::string> connections_named(std::string_view text);
  void close_all_connections();
  // The node goes down in good order, and serves again on the same port with its durable data.
  void stop_node();
  void start_node();
  void kill_node();

 private:
  AmqpConnection& connection();
  template <typename Function>
  auto with_connection(Function function);
  std::optional<std::pair<int, int>> passive_declare(const std::string& queue);
  std::string script(const std::string& verb, const std::vector<std::string>& arguments = {});

  std::string url_;
  std::string folder_;
  std::unique_ptr<AmqpConnection> connection_;
  std::vector<std::string> queues_;
  std::vector<std::string> exchanges_;
};

// A user who may do less than everything: nothing at first. Gone with this object.
class LimitedUser {
 public:
  explicit LimitedUser(Broker& broker) : broker_(broker) {
    broker_.ctl({"add_user", "limited", "hunter2"});
  }
  LimitedUser(const LimitedUser&) = delete;
  LimitedUser& operator=(const LimitedUser&) = delete;
  ~LimitedUser() { broker_.ctl({"delete_user", "limited"}); }
  // Regular expressions of the names it may do each with.
  void may(const std::string& configure, const std::string& write, const std::string& read) {
    broker_.ctl({"set_permissions", "limited", configure, write, read});
  }
  // With this topic exchange, these routing keys alone.
  void may_use_keys(const std::string& exchange, const std::string& keys) {
    broker_.ctl({"set_topic_permissions", "limited", exchange, keys, keys});
  }
  std::string url() const {
    return "amqp://limited:hunter2@127.0.0.1:" + std::to_string(broker_.port());
  }

 private:
  Broker& broker_;
};

}  // namespace lope::test
