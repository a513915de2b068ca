// How long a Session waits for whom. The broker is a thread that answers what it is told to.
#include "consumer/session.h"

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/broker_url.h"
#include "common/fd.h"
#include "consumer/publisher.h"
#include "support/amqp_properties.h"
#include "support/eventually.h"
#include "support/loopback.h"

namespace lope::consumer {

using namespace lope::test;
using Catch::Contains;

namespace {

// The method of that class and id on that channel.
struct Asked {
  int channel, of_class, id;
  bool is(int other_class, int other_id) const { return of_class == other_class && id == other_id; }
};

// What a broker that has everything answers; nothing: only heartbeats come.
std::string usual_answer(const Asked& asked) {
  const int channel = asked.channel;
  if (asked.is(10, 50)) return method(0, 10, 51, "");
  if (asked.is(20, 10)) return method(channel, 20, 11, long_text(""));
  if (asked.is(50, 10)) {
    return method(channel, 50, 11, short_text("q") + number(0, 4) + number(0, 4));
  }
  if (asked.is(60, 10)) return method(channel, 60, 11, "");
  if (asked.is(60, 20)) return method(channel, 60, 21, short_text("tag"));
  if (asked.is(60, 30)) return method(channel, 60, 31, short_text("tag"));
  if (asked.is(85, 10)) return method(channel, 85, 11, "");
  return "";
}

class FakeBroker {
 public:
  using Answer = std::function<std::string(const Asked&)>;
  // `late`: each answer on that channel comes so much later.
  explicit FakeBroker(Answer answer, int slow_channel = -1, std::chrono::milliseconds late = 0ms)
      : answer_(std::move(answer)), slow_channel_(slow_channel), late_(late) {
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeBroker() {
    stop_ = true;
    thread_.join();
  }
  FakeBroker(const FakeBroker&) = delete;
  FakeBroker& operator=(const FakeBroker&) = delete;

  BrokerSettings settings(std::size_t addresses) const {
    BrokerSettings settings;
    const auto url = parse_broker_url("amqp://127.0.0.1:" + std::to_string(listener_.port));
    settings.addresses.assign(addresses, url->address);
    settings.heartbeat = std::chrono::seconds(1);
    return settings;
  }
  int connections() const { return connections_; }

 private:
  void serve() {
    while (!stop_) {
      std::vector<pollfd> wanted{{listener_.fd.get(), POLLIN, 0}};
      for (const auto& [fd, peer] : peers_) wanted.push_back({fd, POLLIN, 0});
      ::poll(wanted.data(), wanted.size(), 5);
      if (wanted.front().revents != 0) {
        UniqueFd fd(::accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
        ++connections_;
        const int number = fd.get();
        peers_[number].fd = std::move(fd);
        say(peers_[number], login(text_field("version", "3.12.0")));
      }
      for (std::size_t i = 1; i < wanted.size(); ++i) {
        if (wanted[i].revents != 0 && !receive(peers_[wanted[i].fd])) peers_.erase(wanted[i].fd);
      }
      for (auto& [fd, peer] : peers_) {
        if (peer.late.empty() || Clock::now() < peer.late_at) continue;
        say(peer, std::exchange(peer.late, {}));
      }
    }
  }

  struct Peer {
    UniqueFd fd;
    std::string received, late;
    bool greeted = false;
    TimePoint late_at{};
  };

  static void say(Peer& peer, const std::string& bytes) {
    (void)!::send(peer.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  bool receive(Peer& peer) {
    char bytes[4096];
    const ssize_t n = ::recv(peer.fd.get(), bytes, sizeof bytes, 0);
    if (n <= 0) return false;
    peer.received.append(bytes, static_cast<std::size_t>(n));
    if (!peer.greeted && peer.received.size() >= 8) {
      peer.greeted = true;
      peer.received.erase(0, 8);
    }
    const auto at = [&peer](std::size_t i, std::size_t size) {
      std::size_t value = 0;
      for (std::size_t end = i + size; i < end; ++i) {
        value = value << 8 | static_cast<unsigned char>(peer.received[i]);
      }
      return value;
    };
    while (peer.greeted && peer.received.size() >= 8 && peer.received.size() >= at(3, 4) + 8) {
      if (at(0, 1) == 8) say(peer, frame(8, 0, ""));
      if (at(0, 1) == 1) {
        const Asked asked{static_cast<int>(at(1, 2)), static_cast<int>(at(7, 2)),
                          static_cast<int>(at(9, 2))};
        if (asked.channel == slow_channel_) {
          peer.late += answer_(asked);
          peer.late_at = Clock::now() + late_;
        } else {
          say(peer, answer_(asked));
        }
      }
      peer.received.erase(0, at(3, 4) + 8);
    }
    return true;
  }

  const Answer answer_;
  const int slow_channel_;
  const std::chrono::milliseconds late_;
  const Listener listener_ = listen_on_loopback(10);
  std::map<int, Peer> peers_;
  std::atomic<int> connections_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

GroupSettings group_with(std::size_t queues) {
  GroupSettings group;
  group.name = "g";
  for (std::size_t i = 0; i < queues; ++i) {
    group.queues.emplace_back().name = "q" + std::to_string(i + 1);
  }
  return group;
}

struct Run {
  Run(const BrokerSettings& broker, const GroupSettings& group, bool probes = false) {
    auto made = EventLoop::create();
    REQUIRE(made.ok());
    loop = std::move(*made);
    Session::Events events;
    events.on_delivery = [](std::uint16_t, std::uint64_t, const IncomingDelivery&) {
      return static_cast<char*>(nullptr);
    };
    events.on_complete = [](std::uint16_t) {};
    events.on_channel_lost = [](std::uint16_t) {};
    events.on_change = [] {};
    if (probes) events.on_probed = [](std::uint16_t, const DeadLetterProbe&) {};
    auto created = Session::create(*loop, broker, "test", group, *board, std::move(events));
    REQUIRE(created.ok());
    session = std::move(*created);
    session->start();
  }

  // False: not within that time.
  bool until(std::chrono::milliseconds limit, const std::function<bool()>& reached) {
    for (const TimePoint end = Clock::now() + limit; Clock::now() < end;) {
      if (reached()) return true;
      REQUIRE(loop->run_once(10ms).ok());
      while (session->pump()) {
      }
      session->flush(true);
    }
    return false;
  }

  std::unique_ptr<GroupBoard> board = std::make_unique<GroupBoard>();
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Session> session;
};

struct PublisherRun {
  // Each need is a queue to be declared.
  explicit PublisherRun(const BrokerSettings& broker) {
    auto made = EventLoop::create();
    REQUIRE(made.ok());
    loop = std::move(*made);
    Publisher::Events events;
    events.on_fate = [](std::unique_ptr<Outbound>, Fate, const std::string&) {};
    events.steps_for = [](const std::string& need) {
      return std::vector<Request>{QueueDeclare{need, {}, false}};
    };
    auto created = Publisher::create(*loop, broker, "test", "g", std::move(events));
    REQUIRE(created.ok());
    publisher = std::move(*created);
  }

  void publish(const std::string& need = "") {
    auto outbound = std::make_unique<Outbound>();
    outbound->cause = 1;
    outbound->need = need;
    publisher->publish(std::move(outbound));
  }

  // Something that needs nothing is published each time. False: not within that time.
  bool until(std::chrono::milliseconds limit, const std::function<bool()>& reached,
             bool publishes = true) {
    for (const TimePoint end = Clock::now() + limit; Clock::now() < end;) {
      if (reached()) return true;
      if (publishes) publish();
      REQUIRE(loop->run_once(10ms).ok());
      while (publisher->pump()) {
      }
      publisher->flush();
    }
    return false;
  }

  std::unique_ptr<GroupBoard> board = std::make_unique<GroupBoard>();
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Publisher> publisher;
};

// Confirms what is published on the first channel, the first on each connection perhaps not.
class Confirming {
 public:
  explicit Confirming(bool first_too) : first_too_(first_too) {}
  std::string operator()(const Asked& asked) {
    if (asked.channel == 1 && asked.is(85, 10)) tag_ = 0;
    if (asked.channel != 1 || !asked.is(60, 40)) return usual_answer(asked);
    return ++tag_ > 1 || first_too_ ? method(1, 60, 80, number(tag_, 8) + number(0, 1)) : "";
  }

 private:
  const bool first_too_;
  std::uint64_t tag_ = 0;
};

}  // namespace

TEST_CASE("a broker that is only slow gets the time that it needs", "[unit][session]") {
  const FakeBroker broker(usual_answer, 1, 350ms);  // a quarter of the heartbeat: 250 ms
  Run run(broker.settings(2), group_with(1));
  CHECK(run.until(20s, [&] { return run.session->consuming(); }));
  CHECK(broker.connections() >= 3);  // each address at first, then again with twice the time
}

TEST_CASE("queues that are refused do not hide one that is silent", "[unit][session]") {
  // So many that one of them is always tried again.
  const FakeBroker broker([](const Asked& asked) {
    if (!asked.is(60, 20)) return usual_answer(asked);
    return asked.channel == 1
               ? ""
               : method(asked.channel, 20, 40,
                        number(404, 2) + short_text("NOT_FOUND") + number(60, 2) + number(20, 2));
  });
  Run run(broker.settings(2), group_with(200));
  CHECK(run.until(20s, [&] { return broker.connections() > 1; }));
}

TEST_CASE("many queues may be set up one after another", "[unit][session]") {
  const FakeBroker broker([](const Asked& asked) {
    if (asked.is(60, 20)) std::this_thread::sleep_for(25ms);
    return usual_answer(asked);
  });
  Run run(broker.settings(2), group_with(25));
  CHECK(run.until(20s, [&] { return run.session->consuming(); }));
  CHECK(broker.connections() == 1);
}

TEST_CASE("an answer that has come is read before it is missed", "[unit][session]") {
  std::atomic<bool> asked_to_consume = false;
  const FakeBroker broker([&](const Asked& asked) {
    if (asked.is(60, 20)) asked_to_consume = true;
    return usual_answer(asked);
  });
  Run run(broker.settings(2), group_with(1));
  REQUIRE(run.until(10s, [&] { return asked_to_consume.load(); }));
  std::this_thread::sleep_for(900ms);  // as when the machine is busy
  CHECK(run.until(10s, [&] { return run.session->consuming(); }));
  CHECK(broker.connections() == 1);
}

TEST_CASE("a queue that is silent at every address leaves the others their connection",
          "[unit][session]") {
  std::atomic<bool> answers = false;
  const FakeBroker broker([&](const Asked& asked) {
    return asked.channel == 2 && asked.is(60, 20) && !answers ? "" : usual_answer(asked);
  });
  Run run(broker.settings(2), group_with(3));
  REQUIRE(run.until(20s, [&] {
    return run.session->trouble() ==
           "queue 'q2': consume from queue 'q2': no answer at any address";
  }));
  CHECK_FALSE(run.session->consuming());
  const int connections = broker.connections();
  CHECK(connections == 3);  // each address was tried, and the first again
  CHECK_FALSE(run.until(2s, [&] { return broker.connections() > connections; }));

  SECTION("and does not keep the group from ending") {
    run.session->cancel();
    CHECK(run.until(10s, [&] { return run.session->cancelled(); }));
    run.session->close(Clock::now() + 10s);
    CHECK(run.until(10s, [&] { return run.session->closed(); }));
    CHECK(broker.connections() == connections);
  }
}

TEST_CASE("a queue that was consumed from and answers at no address is left to itself",
          "[unit][session]") {
  constexpr int kCheckOfSecond = 5;  // behind two queues and the probe
  const FakeBroker broker([&](const Asked& asked) {
    return asked.channel == kCheckOfSecond && asked.is(60, 20) ? "" : usual_answer(asked);
  });
  Run run(broker.settings(2), group_with(2));
  REQUIRE(run.until(30s, [&] {
    return run.session->trouble() == "queue 'q2': it does not answer at any address";
  }));
  CHECK(broker.connections() == 3);
  CHECK_FALSE(run.until(2s, [&] { return broker.connections() > 3; }));
}

TEST_CASE("handlers that run keep their connection while their queue is not consumed from",
          "[unit][session]") {
  bool fresh = false;  // the broker's thread's
  const FakeBroker broker([&](const Asked& asked) -> std::string {
    if (asked.channel == 2 && asked.is(60, 20)) return "";
    if (asked.channel == 1 && asked.is(20, 10)) fresh = true;
    if (asked.channel != 1 || !asked.is(60, 20)) return usual_answer(asked);
    // One delivery; and the consumer is cancelled each time.
    const std::string delivery = std::exchange(fresh, false) ? deliver(1, 1, 0) : "";
    return usual_answer(asked) + delivery + method(1, 60, 30, short_text("tag") + number(1, 1));
  });
  Run run(broker.settings(2), group_with(2));
  REQUIRE(run.until(20s, [&] { return broker.connections() == 3; }));
  CHECK_FALSE(run.until(3s, [&] { return broker.connections() > 3; }));
}

TEST_CASE("a queue that never answers keeps no group from a pause, at the cost of no connection",
          "[unit][session]") {
  std::atomic<bool> answers = false;
  const FakeBroker broker([&](const Asked& asked) {
    return asked.channel == 2 && asked.is(60, 20) && !answers ? "" : usual_answer(asked);
  });
  Run run(broker.settings(2), group_with(2));
  const bool left = GENERATE(true, false);
  if (left) {
    REQUIRE(run.until(20s, [&] { return run.session->trouble().ends_with("at any address"); }));
  } else {
    REQUIRE(run.until(20s, [&] { return run.session->trouble().starts_with("queue 'q2'"); }));
  }
  const int connections = broker.connections();
  run.session->pause();
  CHECK_FALSE(run.session->quiet());
  CHECK(run.until(5s, [&] { return run.session->quiet(); }));
  CHECK_FALSE(run.until(2s, [&] { return broker.connections() > connections; }));
  CHECK(run.session->quiet());
  run.session->resume();
  CHECK(run.until(5s, [&] { return run.session->trouble().starts_with("queue 'q2'"); }));
}

TEST_CASE("a queue that never answers keeps no group from its end", "[unit][session]") {
  const auto silent = GENERATE(as<std::pair<int, int>>{}, std::pair(60, 20), std::pair(60, 30));
  const FakeBroker broker([&](const Asked& asked) {
    return asked.channel == 2 && asked.is(silent.first, silent.second) ? "" : usual_answer(asked);
  });
  BrokerSettings settings = broker.settings(1);
  settings.heartbeat = std::chrono::seconds(0);
  Run run(settings, group_with(2));
  REQUIRE(run.until(20s, [&] {
    return silent.second == 20 ? run.session->trouble() == "queue 'q2': subscribing"
                               : run.session->consuming();
  }));
  run.session->cancel();
  CHECK(run.until(5s, [&] { return run.session->ending(); }));
  run.session->close(Clock::now() + 10s);
  CHECK(run.until(5s, [&] { return run.session->closed(); }));
}

TEST_CASE("a broker that answers nothing is left each time", "[unit][session]") {
  const FakeBroker broker([&](const Asked&) { return ""; });
  Run run(broker.settings(2), group_with(2));
  CHECK(run.until(30s, [&] { return broker.connections() >= 5; }));
}

TEST_CASE("queues in line for their probe are not taken for silent ones", "[unit][session]") {
  constexpr int kQueues = 8;
  // Each answer in time, all together much later than one may be.
  const FakeBroker broker(usual_answer, kQueues + 1, 120ms);
  Run run(broker.settings(2), group_with(kQueues), true);
  CHECK(run.until(20s, [&] { return run.session->consuming(); }));
  CHECK(broker.connections() == 1);
}

TEST_CASE("a probe that is not answered ends the connection", "[unit][session]") {
  const FakeBroker broker(
      [&](const Asked& asked) { return asked.channel == 3 ? "" : usual_answer(asked); });
  Run run(broker.settings(2), group_with(2), true);
  CHECK(run.until(20s, [&] { return broker.connections() >= 2; }));
}

TEST_CASE("a close that is not answered does not keep an ordered group", "[unit][session]") {
  const FakeBroker broker(
      [&](const Asked& asked) { return asked.is(10, 50) ? "" : usual_answer(asked); });
  GroupSettings group = group_with(1);
  group.order.by = OrderSettings::By::routing_key;
  Run run(broker.settings(1), group);
  REQUIRE(run.until(20s, [&] { return run.session->consuming(); }));
  run.session->renew();
  CHECK(run.until(20s, [&] { return broker.connections() >= 2 && run.session->consuming(); }));
}

TEST_CASE("a publisher leaves a node that does not make what it needs", "[unit][publisher]") {
  const FakeBroker broker(
      [&](const Asked& asked) { return asked.is(50, 10) ? "" : usual_answer(asked); });
  PublisherRun run(broker.settings(2));
  run.publish("q");
  CHECK(run.until(
      20s, [&] { return broker.connections() >= 2; }, false));
}

TEST_CASE("a need that was forgotten and comes again is looked for once", "[unit][publisher]") {
  std::atomic<int> declared = 0;
  Confirming confirms(true);
  const FakeBroker broker([&](const Asked& asked) {
    if (asked.is(50, 10)) ++declared;
    return confirms(asked);
  });
  PublisherRun run(broker.settings(1));
  run.publish("q");
  run.publisher->forget(1);
  run.publish("q");
  run.until(
      500ms, [] { return false; }, false);
  CHECK(declared == 1);
  CHECK(run.publisher->pending_bytes() == 0);
}

TEST_CASE("what is never confirmed has each address tried once, though others are confirmed",
          "[unit][publisher]") {
  const FakeBroker broker(Confirming(false));
  PublisherRun run(broker.settings(2));
  CHECK(run.until(20s, [&] { return broker.connections() == 3; }));
  CHECK_FALSE(run.until(3s, [&] { return broker.connections() > 3; }));
}

TEST_CASE("a need that is never met has each address tried once, though others are confirmed",
          "[unit][publisher]") {
  Confirming confirms(true);
  const FakeBroker broker(
      [&](const Asked& asked) { return asked.is(50, 10) ? "" : confirms(asked); });
  PublisherRun run(broker.settings(2));
  run.publish("q");
  CHECK(run.until(20s, [&] { return broker.connections() == 3; }));
  CHECK_FALSE(run.until(3s, [&] { return broker.connections() > 3; }));
}

TEST_CASE("a journal that is not confirmed has each address tried once", "[unit][publisher]") {
  const bool publishes = GENERATE(true, false);
  const FakeBroker broker(Confirming(true));
  JournalSettings settings;
  settings.confirmed = true;
  settings.routing_key = "journal";
  PublisherRun run(broker.settings(2));
  JournalLane journal(settings, "g", *run.board);
  run.publisher->carry(&journal);
  journal.add("event", 1, Clock::now());
  CHECK(run.until(
      20s, [&] { return broker.connections() == 3; }, publishes));
  CHECK_FALSE(run.until(
      3s, [&] { return broker.connections() > 3; }, publishes));
  CHECK(run.board->journal_dropped == 0);
}

TEST_CASE("a publisher stays where everything is confirmed", "[unit][publisher]") {
  const FakeBroker broker(Confirming(true));
  PublisherRun run(broker.settings(2));
  CHECK_FALSE(run.until(3s, [&] { return broker.connections() > 1; }));
}

}  // namespace lope::consumer
