// Messages as nobody means them: whatever the broker lets through is handled, retried or a dead
// letter, and changes nothing about the daemon. In the campaign 5,000 for each kind of group.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "support/amqp_properties.h"
#include "support/broker.h"
#include "support/http.h"
#include "support/ladder.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/raw_publisher.h"
#include "support/talk.h"
#include "support/web_server.h"

using namespace lope::test;
using Bytes = std::string;
using namespace std::string_literals;

namespace {

// ---- The messages

class Hostile {
 public:
  explicit Hostile(unsigned seed) : random_(seed) {}

  struct Message {
    std::string properties, body;
  };
  Message next(int number) {
    // A few that are as large as can be, or cannot even be read.
    if (number % 125 == 7) return {as_large_as_can_be(), body()};
    if (number % 125 == 9) return {broken(), body()};
    return {properties(), body()};
  }

 private:
  std::size_t below(std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_);
  }
  template <std::size_t size>
  Bytes one_of(const Bytes (&choices)[size]) {
    return choices[below(size)];
  }
  bool maybe(std::size_t one_in) { return below(one_in) == 0; }

  // Of 255 bytes at most.
  Bytes text() {
    static const Bytes kTexts[] = {""s,
                                   "\0"s,
                                   "a\0b"s,
                                   Bytes(255, 'x'),
                                   Bytes(255, '\xff'),
                                   Bytes(255, '\0'),
                                   "\x1b[31m\x1b]0;title\x07"s,
                                   "one\r\ntwo\nthree"s,
                                   "X: y\r\nInjected: yes\r\n\r\nbody"s,
                                   R"(","a":[{"b":"}])"s,
                                   "{message_id}{header.x|{body}}{{}}%s%n%d"s,
                                   "../../../../etc/passwd"s,
                                   "'; rm -rf /; echo $(id) `id` \""s,
                                   "\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80"s,  // no UTF-8
                                   "\xe2\x80\xa8\xef\xbb\xbf\xe2\x80\xae"s,  // of the odd kind
                                   "\xc2\x85\x7f\xc2\x9b"s,
                                   "-1"s,
                                   "18446744073709551616"s,
                                   "gr\xc3\xbc\xc3\x9f"s,
                                   "amq.rabbitmq.trace"s};
    if (!maybe(4)) return one_of(kTexts);
    Bytes bytes(below(64), '\0');
    for (char& each : bytes) each = static_cast<char>(below(256));
    return bytes;
  }

  Bytes integer(int bytes) {
    static const std::uint64_t kNumbers[] = {
        0,          1,          0x7F,       0x80,       0xFF,       0x7FFF, 0xFFFF,
        0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, ~0ull >> 1, 1ull << 63, ~0ull,  1'700'000'000};
    return number(kNumbers[below(std::size(kNumbers))], bytes);
  }

  // The kind's letter and the value's bytes. Deeper tables have fewer tables in them.
  Bytes value(int depth) {
    static const char kKinds[] = "tbBsuIilfdTVSxDAFSSll";
    const char kind = kKinds[below(depth > 5 ? 15 : sizeof kKinds - 1)];
    switch (kind) {
      case 't':
      case 'b':
      case 'B': return kind + integer(1);
      case 's':
      case 'u': return kind + integer(2);
      case 'I':
      case 'i':
      case 'f': return kind + integer(4);
      case 'l':
      case 'd':
      case 'T': return kind + integer(8);
      case 'D': return kind + integer(1) + integer(4);
      case 'A': {
        Bytes elements;
        for (std::size_t i = below(6); i > 0; --i) elements += value(depth + 1);
        return kind + long_text(elements);
      }
      case 'F': return kind + long_text(table(depth + 1, 6));
      case 'S':
      case 'x': return kind + long_text(maybe(20) ? Bytes(below(5000), 'y') : text());
      default: return Bytes(1, 'V');
    }
  }

  Bytes table(int depth, std::size_t most) {
    Bytes fields;
    for (std::size_t i = below(most + 1); i > 0; --i) fields += short_text(name()) + value(depth);
    return fields;
  }

  // What means something to Lope or to a broker, more often than not.
  Bytes name() {
    static const Bytes kNames[] = {"x-lope-attempt",
                                   "x-lope-crashes",
                                   "x-lope-first-seen",
                                   "x-lope-history",
                                   "x-lope-due",
                                   "x-lope-expiration",
                                   "x-lope-expires",
                                   "x-lope-failing",
                                   "x-lope-exchange",
                                   "x-lope-routing-key",
                                   "x-lope-to-exchange",
                                   "x-lope-to-key",
                                   "x-lope-transient",
                                   "x-lope-unroutable",
                                   "x-lope-reason",
                                   "x-lope-parent-id",
                                   "x-lope-trace-id",
                                   "x-lope-check",
                                   "x-lope-dead-reason",
                                   "x-lope-dead-code",
                                   "x-lope-dead-queue",
                                   "x-lope-dead-time",
                                   "x-lope-dead-attempts",
                                   "x-lope-dead-crashes",
                                   "x-lope-dead-group",
                                   "x-lope-dead-handler",
                                   "x-lope-dead-host",
                                   "x-lope-",
                                   "x-death",
                                   "x-first-death-queue",
                                   "x-first-death-reason",
                                   "x-last-death-exchange",
                                   "x-delivery-count",
                                   "x-stream-offset",
                                   "x-retries",
                                   "timestamp_in_ms",
                                   "traceparent",
                                   "content-length",
                                   "host"};
    return maybe(4) ? text() : one_of(kNames);
  }

  Bytes properties() {
    Properties it;
    const auto perhaps = [this](std::optional<std::string>& property) {
      if (maybe(3)) property = text();
    };
    perhaps(it.content_type);
    perhaps(it.content_encoding);
    perhaps(it.correlation_id);
    perhaps(it.message_id);
    perhaps(it.type);
    perhaps(it.app_id);
    perhaps(it.cluster_id);
    if (maybe(3)) it.reply_to = "no-such-queue" + text().substr(0, 200);
    if (maybe(6)) it.content_type = "application/json";
    if (maybe(10)) it.content_type = "text/plain; charset=" + text().substr(0, 200);
    if (maybe(10)) it.content_encoding = "gzip";
    if (maybe(3)) it.delivery_mode = static_cast<int>(below(256));
    if (maybe(3)) it.priority = static_cast<int>(below(256));
    if (maybe(3)) it.timestamp = std::uint64_t{below(3)} * (~0ull / 2) + below(2);
    if (maybe(15)) it.user_id = maybe(3) ? "somebody else" : "guest";
    if (maybe(15)) {
      static const Bytes kExpirations[] = {"abc", "-1",     "4294967295", "99999999999999999999",
                                           "1e9", "600000", " 1",         "0x10"};
      it.expiration = one_of(kExpirations);
    }
    if (!maybe(4)) it.headers = table(0, 12);
    if (maybe(8)) {
      static const Bytes kCopies[] = {"CC", "BCC"};
      const Bytes keys = 'S' + long_text("hostile-cc");
      *(it.headers ? &*it.headers : &it.headers.emplace()) +=
          field(one_of(kCopies), 'A', long_text(keys));
    }
    return it.encode();
  }

  Bytes as_large_as_can_be() {
    Properties it;
    Bytes fields;
    switch (below(4)) {
      case 0:  // deep
        for (std::size_t depth = 500 + below(12'000); depth > 0; --depth) {
          fields = field("d", 'F', long_text(fields));
        }
        break;
      case 1:  // deep, of lists
        fields = short_text(maybe(2) ? "x-lope-history" : "list");
        for (std::size_t depth = 500 + below(25'500); depth > 0; --depth) {
          fields += 'A' + number(5 * (depth - 1), 4);
        }
        break;
      case 2:  // wide
        while (fields.size() < 120'000) fields += field(std::to_string(fields.size()), 'V', "");
        break;
      default: fields = text_field("large", Bytes(kFrameMax - 300 + below(200), '\xfe'));
    }
    it.headers = fields;
    return it.encode();
  }

  Bytes broken() {
    Bytes bytes = properties();
    switch (below(6)) {
      case 0: return bytes.substr(0, 2 + below(bytes.size() - 1));
      case 1: return number(0xFFFF, 2) + bytes.substr(2);  // more flags follow
      case 2: return number(0x2000, 2) + number(0x7FFFFFFF, 4) + "x";
      case 3: return number(0x2000, 2) + long_text(short_text("n") + "?");  // of no kind
      case 4: return number(0x8000, 2) + "\xff" + "short";
      default: return bytes + text();  // and more
    }
  }

  Bytes body() {
    static const std::size_t kSizes[] = {0, 1, 2, 100, 4096};
    static const std::size_t kLarge[] = {32 * 1024 - 1, 32 * 1024,     kFrameMax - 9,
                                         kFrameMax - 8, kFrameMax - 7, 2 * (kFrameMax - 8)};
    Bytes bytes = text();
    if (maybe(3)) return bytes;
    bytes.resize(maybe(12) ? kLarge[below(std::size(kLarge))] : kSizes[below(std::size(kSizes))],
                 static_cast<char>(below(256)));
    return bytes;
  }

  std::mt19937 random_;
};

// ---- The groups

// What becomes of each message. An expiration that is forged makes any a dead letter.
enum class Ends { dead, either };

struct Kind {
  std::string name;
  std::string group;  // its lines, with QUEUE, URL and FILES
  Ends ends;
};

const std::string kAtOnce = "    retry: { attempts: 2, delay: 0s }\n";

// Every kind of group that hostile messages are sent through.
const std::vector<Kind> kKinds = {
    {"ack", "    handler: hostile\n    options: { does: ack }\n", Ends::either},
    {"reject", "    handler: hostile\n    options: { does: reject }\n", Ends::dead},
    {"throw", "    handler: hostile\n    options: { does: throw }\n" + kAtOnce, Ends::dead},
    // A forged attempt may be the last there is.
    {"retry",
     "    handler: hostile\n    options: { does: retry }\n    retry: { attempts: 5, delay: 0s }\n",
     Ends::either},
    {"ladder",
     "    handler: hostile\n    options: { does: retry }\n"
     "    retry: { attempts: 5, delay: 125ms, backoff: 1, jitter: 0 }\n",
     Ends::either},
    {"copy", "    handler: hostile\n    options: { does: copy, to: QUEUE.to }\n" + kAtOnce,
     Ends::either},
    {"batch",
     "    handler: hostile\n    options: { does: ack }\n    batch: { size: 20, wait: 100ms }\n",
     Ends::either},
    {"http",
     "    handler: http\n    options: { url: 'URL{header.x-lope-reason}{message_id}', "
     "pass_headers: ['*'], pass_properties: [type, correlation_id], "
     "headers: { X-Odd: '{app_id}' } }\n" +
         kAtOnce,
     Ends::either},
    {"forward",
     "    handler: forward\n    options: { routing_key: QUEUE.to, set_headers: { odd: '{type}' } "
     "}\n" +
         kAtOnce,
     Ends::either},
    {"exec",
     "    handler: exec\n    options: { mode: coprocess, command: [/usr/bin/python3, "
     "FILES/coprocess.py] }\n" +
         kAtOnce,
     Ends::either},
    {"python", "    handler: python\n    options: { file: FILES/look.py }\n" + kAtOnce,
     Ends::either},
};

const char* const kCoprocess = R"(import json, sys
for line in sys.stdin:
    message = json.loads(line)
    print(json.dumps({"id": message["id"], "outcome": "ack"}), flush=True)
)";

const char* const kPython = R"(import json
def handle(message):
    json.dumps([repr(message.headers), repr(message.properties), repr(message.body),
                message.message_id, message.timestamp, message.expiration, message.reply_to])
    message.payload
)";

std::string filled_in(std::string text, const std::map<std::string, std::string>& values) {
  for (const auto& [name, value] : values) {
    for (std::size_t at; (at = text.find(name)) != std::string::npos;) {
      text.replace(at, name.size(), value);
    }
  }
  return text;
}

std::size_t resident_kib(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmRSS:")) return std::stoul(line.substr(6));
  }
  return 0;
}

// Every process of the daemon, by its id: how much memory it has.
std::map<pid_t, std::size_t> memory_of(const Lope& daemon) {
  std::map<pid_t, std::size_t> all;
  for (const char* name : {"lope-consumer", "lope-relay", "lope-monitor", "lope-worker"}) {
    for (const pid_t pid : descendants_named(daemon.pid(), name)) all[pid] = resident_kib(pid);
  }
  all[daemon.pid()] = resident_kib(daemon.pid());
  return all;
}

// JSON may have DEL in it as it is.
bool is_clean(std::string_view text, bool json = false) {
  return std::all_of(text.begin(), text.end(), [json](char each) {
    const auto byte = static_cast<unsigned char>(each);
    return byte == '\n' || (byte >= ' ' && (json || byte != 0x7F));
  });
}

}  // namespace

TEST_CASE("hostile messages are handled, retried or dead letters, and the daemon is as before",
          "[broker][hostile]") {
  const int count = std::getenv("LOPE_CAMPAIGN") != nullptr ? 5000 : 500;
  Broker broker;
  const Ladder ladder(broker);
  HttpServer server;
  TempDir files;
  files.write("coprocess.py", kCoprocess);
  files.write("look.py", kPython);
  // Handlers that come with Lope, and one of the tests'.
  const std::string handlers = files.file("handlers");
  std::filesystem::create_directory(handlers);
  for (const char* name : {"http", "forward", "exec", "python"}) {
    std::filesystem::copy_file(LOPE_HANDLERS_BUILD_DIR "/"s + name + ".so",
                               handlers + "/" + name + ".so");
  }
  std::filesystem::copy_file(LOPE_TEST_HANDLERS_DIR "/hostile.so", handlers + "/hostile.so");

  const std::string exchange = broker.unique_exchange("hostile");
  broker.declare_exchange(exchange, "fanout");
  const std::string cc = "hostile-cc";
  broker.declare_queue(cc);
  std::map<std::string, std::string> queues;  // by the kind's name
  std::string groups;
  for (const Kind& kind : kKinds) {
    const std::string queue = queues[kind.name] = broker.make_queue("hostile-" + kind.name);
    broker.declare_queue(queue + ".to");
    broker.bind_queue(queue, exchange, "");
    groups +=
        "  " + kind.name + ":\n    queue: " + queue + "\n    breaker: false\n    prefetch: 50\n" +
        filled_in(kind.group, {{"QUEUE", queue}, {"URL", server.url()}, {"FILES", files.path()}});
  }
  Lope daemon(
      {.broker = broker.url(),
       .groups = groups,
       .top = "monitor: { listen: 0 }\nlog: { level: debug, format: json }\n" + ladder.top(),
       .handlers_dir = handlers});
  REQUIRE(daemon.wait_for_line("\"event\":\"ready\"", 60s));
  RawPublisher publisher(broker.port());
  Hostile hostile(20'261);
  int number = 0;
  int taken = 0, closed = 0, cut = 0;
  const auto publish = [&](int up_to) {
    while (taken < up_to) {
      const Hostile::Message message = hostile.next(number++);
      switch (publisher.publish(exchange, message.properties, message.body)) {
        case RawPublisher::Answer::confirmed: ++taken; break;
        case RawPublisher::Answer::channel_closed: ++closed; break;
        case RawPublisher::Answer::connection_closed: ++cut; break;
      }
    }
  };
  const auto all_settled = [&] {
    return eventually(120s, [&] {
      for (const auto& [kind, queue] : queues) {
        if (!broker.is_empty(queue)) return false;
      }
      for (const auto& row : broker.list({"list_queues", "name", "messages"})) {
        if (row[0].starts_with(ladder.prefix) && row[1] != "0" &&
            !row[0].ends_with(".undeliverable")) {
          return false;
        }
      }
      return true;
    });
  };
  const auto trouble = [&] {
    std::string text = told(daemon, {"status"});
    for (const char* level : {"\"level\":\"error\"", "\"level\":\"warn\""}) {
      const auto lines = lines_with(daemon.log(), level);
      for (std::size_t i = 0; i < std::min<std::size_t>(lines.size(), 30); ++i) {
        text += lines[lines.size() - 1 - i] + "\n";
      }
    }
    return text;
  };
  publish(count / 5);
  if (!all_settled()) FAIL(trouble());
  const auto before = memory_of(daemon);
  publish(count);
  if (!all_settled()) FAIL(trouble());
  const auto after = memory_of(daemon);
  WARN(taken << " messages in each of " << kKinds.size() << " groups; the broker refused " << closed
             << ", and could not read " << cut);

  // The daemon: the same processes, with about as much memory.
  for (const auto& [pid, kib] : before) {
    INFO(pid << ": " << kib << " KiB before");
    REQUIRE(after.contains(pid));
    CHECK(after.at(pid) < kib + 32 * 1024);
  }
  CHECK(after.size() == before.size());

  // Each message has come to one end.
  const Json status = status_of(daemon);
  for (const Kind& kind : kKinds) {
    const std::string& queue = queues.at(kind.name);
    const int dead = broker.message_count(queue + ".dead").value_or(0);
    const int copies = broker.message_count(queue + ".to").value_or(0);
    const Json group = group_of(daemon, kind.name);
    INFO(kind.name << ": " << dead << " dead, " << copies << " copies, " << group.dump());
    CHECK(group["dead_lettered"] == dead);
    CHECK(group["crashes"] == 0);
    CHECK(group["worker_deaths"] == 0);
    if (kind.ends == Ends::dead) CHECK(dead == taken);
    CHECK(group["acked"].get<int>() - group["retried"].get<int>() >= taken - dead);
    CHECK(dead < taken + (kind.ends == Ends::dead ? 1 : 0));
    if (kind.name == "copy" || kind.name == "forward") CHECK(copies + dead == taken);
  }
  CHECK(broker.message_count(cc) == 0);
  CHECK(broker.message_count(ladder.prefix + ".undeliverable").value_or(0) == 0);

  // What it says of itself can be read.
  const std::string address = status["monitor"][0]["address"];
  const int port = std::stoi(address.substr(address.rfind(':') + 1));
  for (const char* path : {"/metrics", "/readyz", "/api/status", "/"}) {
    const HttpReply reply = http_get(port, path);
    CHECK(reply.status == 200);
    CHECK(is_clean(reply.body, true));
    if (path == "/api/status"s) CHECK_FALSE(Json::parse(reply.body)["groups"].empty());
  }
  CHECK(is_clean(told(daemon, {"status"})));

  // Its dead letters can be looked at, and sent through once more.
  const std::string dead = queues.at("reject") + ".dead";
  const auto dlq = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "dlq");
    arguments.insert(arguments.end(), {"--broker", broker.url()});
    RunResult result = run_lope(std::move(arguments), {}, 120s);
    INFO(result.output.substr(0, 3000));
    CHECK(result.status == exited(0));
    return result.output;
  };
  const std::string listed = dlq({"list", dead, "--json", "--limit", std::to_string(2 * taken)});
  std::istringstream lines(listed);
  int letters = 0, without_reason = 0;
  for (std::string line; std::getline(lines, line); ++letters) {
    INFO(line);
    REQUIRE(is_clean(line, true));
    if (Json::parse(line)["reason"].get<std::string>().empty()) ++without_reason;
  }
  CHECK(letters == taken);
  CHECK(without_reason <= number / 125 + 1);  // with headers so large that there is no room for it
  CHECK(is_clean(dlq({"list", dead})));
  for (const int which : {1, taken / 2, taken}) {
    CHECK(is_clean(dlq({"show", dead, std::to_string(which)})));
    const std::string shown = dlq({"show", dead, std::to_string(which), "--json"});
    CHECK(Json::parse(shown)["number"] == which);
  }
  dlq({"replay", dead, "--queue", queues.at("reject")});
  CHECK(all_settled());
  CHECK(eventually(60s, [&] { return broker.message_count(dead) == taken; }));

  CHECK(daemon.stop() == exited(0));
  CHECK(daemon.all_gone());
  const std::string log = daemon.log();
  CHECK(is_clean(log, true));
  std::istringstream entries(log);
  for (std::string line; std::getline(entries, line);) {
    INFO(line);
    REQUIRE(Json::accept(line));
  }
  for (const auto& [kind, queue] : queues) {
    for (const char* end : {".to", ".dead"}) {
      if (broker.queue_exists(queue + end)) broker.delete_queue(queue + end);
    }
  }
  broker.delete_queue(cc);
}

TEST_CASE("a stream's offset that is forged refuses no group", "[broker][hostile]") {
  Broker broker;
  const std::string type = GENERATE(as<std::string>{}, "classic", "quorum");
  const std::string more = GENERATE(
      as<std::string>{}, "", "    dead_letter: { exchange: amq.fanout }\n", "    auto_ack: true\n");
  CAPTURE(type, more);
  const std::string queue =
      broker.make_queue("offset", {.text_arguments = {{"x-queue-type", type}}});
  Lope daemon({.broker = broker.url(),
               .groups = "  g:\n    queue: " + queue +
                         "\n    handler: hostile\n    options: { does: ack }\n" + more});
  REQUIRE(daemon.wait_ready());
  Publisher publisher = broker.publisher();
  for (const char kind : {'l', 'I', 'S', 'V'}) {
    publisher.publish({.routing_key = queue,
                       .body = "x",
                       .typed_headers = {{.name = "x-stream-offset", .kind = kind, .number = 5}}});
  }
  CHECK(eventually(20s, [&] { return group_of(daemon)["acked"] == 4; }));
  CHECK(daemon.process().count_lines("refused") == 0);
  CHECK(daemon.stop() == exited(0));
}

TEST_CASE("nor where the broker does not say what a queue is, once a message has come",
          "[broker][hostile]") {
  Broker broker;
  LimitedUser user(broker);
  user.may("^$", ".*", ".*");
  const std::string queue = broker.make_queue("offset");
  Lope daemon({.broker = user.url(),
               .groups = "  g:\n    queue: " + queue +
                         "\n    handler: hostile\n    options: { does: ack }\n",
               .top = "delays: { relay: false }\n"});
  REQUIRE(daemon.wait_ready());
  Publisher publisher = broker.publisher();
  publisher.publish({.routing_key = queue, .body = "x"});
  publisher.publish({.routing_key = queue,
                     .body = "x",
                     .typed_headers = {{.name = "x-stream-offset", .kind = 'l', .number = 5}}});
  CHECK(eventually(20s, [&] { return group_of(daemon)["acked"] == 2; }));
  CHECK(daemon.process().count_lines("refused") == 0);
  CHECK(daemon.stop() == exited(0));
}
