// The handler exec: commands and co-processes that do what programs do, against a real broker.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/http.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"

using namespace lope::test;

namespace {

const std::string kAsked = "the handler asked for it: ";
constexpr const char* kAtOnce = "    retry: { delay: 0s, attempts: 2 }\n";

// A queue whose rejected messages go to another, and a group with the handler.
struct Executed {
  // `options` and `more` are lines of YAML.
  LopeOptions options(const std::string& options, const std::string& more = kAtOnce) const {
    return {.broker = broker.url(),
            .groups = "  exec:\n    queue: " + queue +
                      "\n    handler: exec\n    breaker: false\n    options: " + options + "\n" +
                      more,
            .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
  }
  // sh with a script, in which $1 is `file`; `more` are further options.
  LopeOptions script(const std::string& text, const std::string& more = {},
                     const std::string& group = kAtOnce) const {
    std::string quoted;
    for (const char c : text) quoted += c == '\'' ? std::string("''") : std::string(1, c);
    return options("{ command: [sh, -c, '" + quoted + "', sh, " + file + "]" +
                       (more.empty() ? "" : ", " + more) + " }",
                   group);
  }
  LopeOptions coprocess(const std::string& more = {}, const std::string& group = kAtOnce) const {
    return options("{ mode: coprocess, command: [/usr/bin/python3, " LOPE_SOURCE_DIR
                   "/tests/support/coprocess.py, " +
                       file + "]" + (more.empty() ? "" : ", " + more) + " }",
                   group);
  }
  // A co-process whose last lines are `text`.
  LopeOptions python(const std::string& text, const std::string& more = {},
                     const std::string& group = kAtOnce) const {
    const std::string program = files.write("program.py", R"(import json, os, signal, sys, time

def messages():
  return map(json.loads, sys.stdin)

def note(line):
  with open(sys.argv[1], "a") as file: file.write(line + "\n")

def answer(message):
  print(json.dumps({"id": message["id"], "outcome": "ack"}), flush=True)

def kill_worker_once(message):
  try:
    os.mkdir(sys.argv[1] + "." + message["message_id"])
  except FileExistsError:
    return
  os.kill(os.getppid(), signal.SIGKILL)
  while True: signal.pause()

)" + text);
    return options("{ mode: coprocess, command: [/usr/bin/python3, " + program + ", " + file + "]" +
                       (more.empty() ? "" : ", " + more) + " }",
                   group);
  }
  // Nothing ready, and nothing with a consumer.
  bool all_settled(std::chrono::milliseconds deadline = 20s) {
    return eventually(deadline, [&] { return broker.is_empty(queue); });
  }
  // The lines of the file that begin with `word`, without it.
  std::vector<std::string> lines(const std::string& word) const {
    std::vector<std::string> result;
    for (const std::string& line : lines_of_file(file)) {
      if (line.starts_with(word + " ")) result.push_back(line.substr(word.size() + 1));
    }
    return result;
  }
  std::vector<pid_t> pids(std::size_t count) const {
    std::vector<pid_t> result;
    if (!eventually(10s, [&] { return lines_of_file(file).size() >= count; })) return result;
    for (const std::string& line : lines_of_file(file)) result.push_back(std::stoi(line));
    return result;
  }
  std::string make_fifo() const {
    const std::string path = files.file("fifo");
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
    return path;
  }

  Broker broker;
  const std::string dead = broker.make_queue("dead");
  const std::string queue = broker.make_queue(
      "exec",
      {.text_arguments = {{"x-dead-letter-exchange", ""}, {"x-dead-letter-routing-key", dead}}});
  TempDir files;
  const std::string file = files.file("file");
};

// Until nobody waits at its other end any more.
void open_fifo(const std::string& path) { std::ofstream(path) << "go\n"; }

bool all_dead(const std::vector<pid_t>& pids) {
  return eventually(10s, [&] { return std::none_of(pids.begin(), pids.end(), is_alive); });
}

std::set<std::string> set_of(const std::multiset<std::string>& all) {
  return {all.begin(), all.end()};
}

std::vector<std::string> split(const std::string& text, char end) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t next = std::min(text.find(end, at), text.size());
    parts.push_back(text.substr(at, next - at));
    at = next + 1;
  }
  return parts;
}

void check_gone(Lope& lope) {
  CHECK(lope.stop() == exited(0));
  CHECK(lope.all_gone());
}

// 10,000 messages, of which some kill the worker that has them, once: each is handled, none is
// left. `options` make the program do so with those of the type "kill", and leave a folder for
// each.
void check_ledger(Executed& exec, const LopeOptions& options) {
  constexpr int kMessages = 10'000, kOneKills = 500;
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  Publisher publisher = exec.broker.publisher();
  publisher.publish_many(kMessages, [&](int i) {
    return Publication{.routing_key = exec.queue,
                       .body = "x",
                       .message_id = std::to_string(i),
                       .type = i % kOneKills == kOneKills / 2 ? "kill" : "live"};
  });
  CHECK(exec.all_settled(120s));
  CHECK(lope.stop() == exited(0));
  CHECK(lope.process().count_lines("how=SIGKILL") >= kMessages / kOneKills / 2);
  CHECK(exec.broker.message_count(exec.queue) == 0);
  CHECK(exec.broker.message_count(exec.dead) == 0);
  const LedgerReport report = compare_ledger(publisher.confirmed(), lines_of_file(exec.file));
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
}

}  // namespace

// ---- Commands

TEST_CASE("a command has the body on its input and the message in its environment",
          "[broker][exec]") {
  Executed exec;
  const std::string variables = exec.files.file("environment");
  LopeOptions options =
      exec.script("cat > $1; env -0 > " + variables + ".new; mv " + variables + ".new " + variables,
                  "env: { CUSTOMER: \"<{header.x-shop}>\", PLAIN: 1 }");
  options.env = {{"LOPE_TYPE", "inherited"}, {"INHERITED", "yes"}};
  Lope lope(options);
  REQUIRE(lope.wait_ready());
  const std::string body("first\0second\n\xff", 14);
  exec.broker.publisher().publish(
      {.routing_key = exec.queue,
       .body = body,
       .message_id = "id7",
       .content_type = "text/plain",
       .headers = {{"x-shop", "a b"}, {"we ird.\xc3\xa9", "1"}, {"WE-IRD...", "hidden"}},
       .typed_headers = {{.name = "n", .kind = 'l', .number = -5},
                         {.name = "nul", .kind = 'x', .text = std::string("a\0b", 3)}},
       .timestamp = 1'700'000'000});
  REQUIRE(exec.all_settled());
  CHECK(read_file(exec.file) == body);
  const auto all = split(read_file(variables), '\0');
  const std::set<std::string> set(all.begin(), all.end());
  for (const std::string& expected :
       {std::string("LOPE_MESSAGE_ID=id7"), "LOPE_ROUTING_KEY=" + exec.queue,
        "LOPE_QUEUE=" + exec.queue, std::string("LOPE_ATTEMPT=1"),
        std::string("LOPE_CONTENT_TYPE=text/plain"), std::string("LOPE_TIMESTAMP=1700000000"),
        std::string("LOPE_REDELIVERED=false"), std::string("LOPE_GROUP=exec"),
        std::string("LOPE_HEADER_X_SHOP=a b"), std::string("LOPE_HEADER_WE_IRD___=1"),
        std::string("LOPE_HEADER_N=-5"), std::string("LOPE_LEFT_OUT=1"),
        std::string("CUSTOMER=<a b>"), std::string("PLAIN=1"), std::string("INHERITED=yes")}) {
    INFO(expected);
    CHECK(set.contains(expected));
  }
  CHECK(set.size() == all.size());
  CHECK(std::none_of(all.begin(), all.end(),
                     [](const std::string& each) { return each.starts_with("LOPE_TYPE="); }));
  CHECK(lope.wait_for_line("left out: LOPE_HEADER_NUL"));
  check_gone(lope);
}

TEST_CASE("a command without the worker's environment, in a folder of its own", "[broker][exec]") {
  Executed exec;
  Lope lope(exec.script("set > $1.new; pwd >> $1.new; mv $1.new $1",
                        "inherit_env: false, env: { PATH: /usr/bin }, cwd: /usr/share"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "x", "one");
  REQUIRE(exec.all_settled());
  const std::string text = read_file(exec.file);
  CHECK(text.find("\n/usr/share\n") != std::string::npos);
  CHECK(text.find("PATH='/usr/bin'") != std::string::npos);
  CHECK(text.find("LOPE_MESSAGE_ID='one'") != std::string::npos);
  CHECK(text.find("HOME=") == std::string::npos);
  check_gone(lope);
}

TEST_CASE("arguments are templates that no shell sees", "[broker][exec]") {
  Executed exec;
  Lope lope(
      exec.options("{ command: [python3, -c, 'import sys; open(sys.argv[1], \"w\")."
                   "write(\"\\0\".join(sys.argv[2:]))', " +
                   exec.file +
                   ", \"{header.evil}\", \"a 'b' {{c}} {message_id}\", --, \"{body}\", "
                   "\"{header.none|}\"] }"));
  REQUIRE(lope.wait_ready());
  const std::string evil = "x'; touch \"$(echo pwned)\" `id`\n*; rm -rf /nothing & \\";
  exec.broker.publisher().publish({.routing_key = exec.queue,
                                   .body = "-rf two\nlines",
                                   .message_id = "one",
                                   .headers = {{"evil", evil}}});
  REQUIRE(exec.all_settled());
  CHECK(split(read_file(exec.file) + '\0', '\0') ==
        std::vector<std::string>{evil, "a 'b' {c} one", "--", "-rf two\nlines", ""});
  // What no argument can be is refused once, and not tried again.
  exec.broker.publisher().publish({.routing_key = exec.queue,
                                   .body = std::string("a\0b", 3),
                                   .message_id = "nul",
                                   .headers = {{"evil", evil}}});
  exec.broker.publisher().publish({.routing_key = exec.queue,
                                   .body = std::string(200'000, 'x'),
                                   .message_id = "large",
                                   .headers = {{"evil", evil}}});
  exec.broker.publish(exec.queue, "no header", "lacking");
  REQUIRE(eventually(10s, [&] { return exec.broker.message_count(exec.dead) == 3; }));
  check_gone(lope);
  CHECK(fields_of(lope.log(), "message rejected", "message_id") ==
        std::multiset<std::string>{"lacking", "large", "nul"});
  CHECK(lines_with(lope.log(), "without a NUL").size() == 1);
  CHECK(lines_with(lope.log(), "belongs on standard input").size() == 1);
}

TEST_CASE("what is too large for an environment is left out of it", "[broker][exec]") {
  Executed exec;
  Lope lope(exec.script(
      "echo $LOPE_LEFT_OUT $(printenv LOPE_HEADER_SMALL LOPE_HEADER_LARGE | wc -c) > $1",
      "env: { BODY: \"{body}\" }"));
  REQUIRE(lope.wait_ready());
  exec.broker.publisher().publish(
      {.routing_key = exec.queue,
       .body = std::string(3'000'000, 'x'),
       .message_id = "large",
       .headers = {{"large", std::string(120'000, 'x')}, {"small", std::string(1000, 'x')}}});
  REQUIRE(exec.all_settled());
  CHECK(read_file(exec.file) == "1 121002\n");
  CHECK(
      lope.wait_for_line("large: too large for the environment, or with a NUL, and left out: "
                         "BODY"));
  check_gone(lope);
}

TEST_CASE("exit codes become outcomes", "[broker][exec]") {
  struct Case {
    std::string options;
    std::vector<std::string> acked, rejected, retried;
  };
  const Case each = GENERATE(
      Case{"log_lines: 10", {"0"}, {"65"}, {"75", "1", "127"}},
      Case{"preset: rabbitmq-cli-consumer", {"0"}, {"3", "5"}, {"4", "6", "1"}},
      Case{"ack: [0, 3], reject: [64, 65], otherwise: retry", {"0", "3"}, {"64", "65"}, {"75"}},
      Case{"retry: [7], otherwise: reject", {"0"}, {"65", "75", "1"}, {"7"}});
  CAPTURE(each.options);
  Executed exec;
  Lope lope(exec.script("read code; echo noise >&2; echo why $code >&2; exit $code", each.options));
  REQUIRE(lope.wait_ready());
  for (const auto* codes : {&each.acked, &each.rejected, &each.retried}) {
    for (const std::string& code : *codes) exec.broker.publish(exec.queue, code + "\n", code);
  }
  const std::size_t failing = each.rejected.size() + each.retried.size();
  REQUIRE(eventually(
      20s, [&] { return exec.broker.message_count(exec.dead) == static_cast<int>(failing); }));
  REQUIRE(exec.all_settled());
  check_gone(lope);
  const std::string log = lope.log();
  CHECK(set_of(fields_of(log, "message retried", "message_id")) ==
        std::set<std::string>(each.retried.begin(), each.retried.end()));
  for (const std::string& code : each.rejected) {
    CHECK(lines_with(log, "exit " + code + ": why " + code).size() == 1);
  }
  std::vector<std::string> expected = each.rejected;
  expected.insert(expected.end(), each.retried.begin(), each.retried.end());
  std::sort(expected.begin(), expected.end());
  CHECK(ids_of(exec.broker.drain(exec.dead)) == expected);
}

TEST_CASE("a command that crashes is retried, with the signal as the reason", "[broker][exec]") {
  Executed exec;
  Lope lope(exec.script("test $LOPE_ATTEMPT = 2 || kill -SEGV $$; echo $LOPE_ATTEMPT > $1"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "x", "one");
  REQUIRE(exec.all_settled());
  CHECK(read_file(exec.file) == "2\n");
  check_gone(lope);
  const auto retried = lines_with(lope.log(), "message retried");
  REQUIRE(retried.size() == 1);
  CHECK(field(retried[0], "reason") == kAsked + "SIGSEGV");
  CHECK(lope.process().count_lines("worker ended") == 1);
}

TEST_CASE("megabytes in and out neither block nor flood", "[broker][exec]") {
  Executed exec;
  // 10 MB that it does not read, and 8 MB on both streams in lines, then in one.
  Lope lope(
      exec.script("yes 'a line of output' | head -c 8000000; yes 'an error' | head -c 8000000 "
                  ">&2; head -c 4000000 /dev/zero | tr '\\0' x; echo; echo >&2; echo the last >&2; "
                  "echo done >> $1; exit $(($LOPE_ATTEMPT - 1))",
                  "ack: [1], retry: [0], log_lines: 20"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, std::string(10'000'000, 'x'), "one");
  REQUIRE(exec.all_settled());
  CHECK(lines_of_file(exec.file).size() == 2);
  check_gone(lope);
  CHECK(lines_with(lope.log(), "one: a line of output").size() == 40);
  CHECK(lines_with(lope.log(), "one: an error").size() == 40);
  CHECK(lines_with(lope.log(), "more lines").size() == 4);
  const auto retried = lines_with(lope.log(), "message retried");
  REQUIRE(retried.size() == 1);
  CHECK(field(retried[0], "reason") == kAsked + "exit 0: the last");
}

TEST_CASE("a body of 10 MB is read to its end", "[broker][exec]") {
  Executed exec;
  Lope lope(exec.script("sha256sum > $1"));
  REQUIRE(lope.wait_ready());
  std::string body(10'000'000, 'x');
  std::minstd_rand random(7);
  for (char& c : body) c = static_cast<char>(random());
  const std::string copy = exec.files.write("copy", body);
  exec.broker.publish(exec.queue, body);
  REQUIRE(exec.all_settled());
  CHECK(read_file(exec.file).substr(0, 64) == run({"sha256sum", copy}).output.substr(0, 64));
  check_gone(lope);
}

TEST_CASE("what can never run is refused at the start", "[broker][exec]") {
  Executed exec;
  const auto& [options, said] = GENERATE_COPY(table<std::string, std::string>({
      {"{ command: [/no/such] }", "found '/no/such': No such file or directory"},
      {"{ command: [no-such-program] }", "found 'no-such-program', which is not on PATH"},
      {"{ command: [/etc/passwd] }", "found '/etc/passwd': Permission denied"},
      {"{ command: [/usr] }", "found '/usr': no regular file"},
      {"{ command: [\"/bin/{body}\"] }",
       "option 'command.0': expected a program, which no message"},
      {"{ command: [echo, \"{nothing}\"] }", "option 'command.1': expected one of"},
      {"{ command: [echo], cwd: /no/such }", "option 'cwd': expected a folder"},
      {"{ command: [echo], ack: [256] }", "option 'ack': expected exit codes from 0 to 255"},
      {"{ command: [echo], reject: [0] }", "0 for the second time"},
      {"{ command: [echo], output: file }", "option 'output': expected 'log', 'publish'"},
      {"{ command: [echo], output: publish }", "expected an exchange or a routing_key"},
      {"{ command: [echo], time_limit: 30 }", "option 'time_limit': expected a time with a unit"},
      {"{ command: [echo], env: { LOPE_GROUP: x } }", "option 'env.LOPE_GROUP': expected a name"},
      {"{ command: [echo, \"{body}\"], mode: coprocess }", "expected no braces with mode"},
      {"{ command: [echo], env: { A: \"{s3cret}\" } }",
       "option 'env.A': expected a template, with what a message carries between braces, found "
       "something else"},
      {"{ command: [echo], mode: coprocess, env: { A: \"s3cret{body}\" } }",
       "option 'env.A': expected no braces"},
  }));
  CAPTURE(options);
  Lope lope(exec.options(options));
  CHECK(lope.wait_for_line(said));
  lope.stop();
  CHECK(lope.log().find("s3cret") == std::string::npos);
}

TEST_CASE("a program that is gone by now is a retry that says so", "[broker][exec]") {
  const std::string mode = GENERATE("command", "coprocess");
  CAPTURE(mode);
  Executed exec;
  const std::string program = exec.files.write("program", "#!/bin/sh\nexit 0\n");
  REQUIRE(::chmod(program.c_str(), 0700) == 0);
  Lope lope(exec.options("{ command: [" + program + "], time_limit: 300ms, mode: " + mode + " }"));
  REQUIRE(lope.wait_ready());
  REQUIRE(::unlink(program.c_str()) == 0);
  if (mode == "coprocess") REQUIRE(lope.wait_for_line("cannot run it: No such file"));
  exec.broker.publish(exec.queue, "x", "one");
  REQUIRE(eventually(10s, [&] { return exec.broker.message_count(exec.dead) == 1; }));
  check_gone(lope);
  CHECK(set_of(fields_of(lope.log(), "message retried", "reason")) ==
        std::set<std::string>{kAsked + program + ": cannot run it: No such file or directory"});
}

TEST_CASE("commands are counted and timed", "[broker][exec]") {
  Executed exec;
  LopeOptions options = exec.script("read code; exit $code");
  options.top = "monitor: { listen: 0 }\n";
  Lope lope(options);
  const auto line = lope.wait_for_line("monitor started");
  REQUIRE(line);
  const int port = std::stoi(line->substr(line->rfind(':') + 1));
  REQUIRE(lope.wait_ready());
  for (const char* code : {"0\n", "0\n", "65\n", "1\n"}) exec.broker.publish(exec.queue, code);
  REQUIRE(exec.all_settled());
  const auto has = [&](const std::string& sample) {
    return eventually(10s, [&] {
      return http_get(port, "/metrics").body.find("\nlope_handler_exec_" + sample + "\n") !=
             std::string::npos;
    });
  };
  CHECK(has("acked_total{group=\"exec\"} 2"));
  CHECK(has("rejected_total{group=\"exec\"} 1"));
  CHECK(has("retried_total{group=\"exec\"} 2"));
  CHECK(has("starts_total{group=\"exec\"} 5"));
  CHECK(has("time_limits_total{group=\"exec\"} 0"));
  CHECK(http_get(port, "/metrics")
            .body.find("\nlope_handler_exec_seconds_count{group=\"exec\"} 5\n") !=
        std::string::npos);
  check_gone(lope);
}

TEST_CASE("kill -TERM of the group lets a command finish", "[broker][exec]") {
  Executed exec;
  const std::string fifo = exec.make_fifo();
  Lope lope(exec.script("echo begun >> $1; read x < " + fifo + "; echo done >> $1"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "x", "one");
  REQUIRE(eventually(10s, [&] { return lines_of_file(exec.file).size() == 1; }));
  lope.process().signal_group(SIGTERM);
  REQUIRE(lope.wait_for_line("stopping signal=15"));
  open_fifo(fifo);
  CHECK(lope.process().wait_exit(20s) == exited(0));
  CHECK(lines_of_file(exec.file) == std::vector<std::string>{"begun", "done"});
  CHECK(exec.broker.message_count(exec.queue) == 0);
  CHECK(lines_with(lope.log(), "ledger finished=1 handed_back=0 killed=0").size() == 1);
}

TEST_CASE("the time limit ends a command with all its children", "[broker][exec]") {
  Executed exec;
  const bool deaf = GENERATE(true, false);
  const std::string trap = deaf ? "trap '' TERM; " : "";
  Lope lope(exec.script(trap + "(sh -c \"" + trap +
                            "echo \\$\\$ >> $1; read x < $1.fifo\") & echo $$ >> $1; "
                            "while :; do wait; read x < $1.fifo; done",
                        "time_limit: 500ms, grace: 200ms",
                        "    retry: { delay: 0s, attempts: 1 }\n"));
  REQUIRE(::mkfifo((exec.file + ".fifo").c_str(), 0600) == 0);
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "x", "one");
  const std::vector<pid_t> pids = exec.pids(2);
  REQUIRE(pids.size() == 2);
  CHECK(all_dead(pids));
  CHECK(lope.wait_for_line(std::string("time_limit is up: ") + (deaf ? "SIGKILL" : "SIGTERM")));
  CHECK(eventually(10s, [&] { return exec.broker.message_count(exec.dead) == 1; }));
  check_gone(lope);
}

TEST_CASE("what a command leaves behind goes when it ends", "[broker][exec]") {
  Executed exec;
  REQUIRE(::mkfifo((exec.file + ".fifo").c_str(), 0600) == 0);
  // The child holds all of its streams.
  Lope lope(exec.script("(read x < $1.fifo) & echo $! >> $1; echo said"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "x", "one");
  REQUIRE(exec.all_settled());
  CHECK(lope.wait_for_line("one: said"));
  const std::vector<pid_t> pids = exec.pids(1);
  REQUIRE(pids.size() == 1);
  CHECK(all_dead(pids));
  check_gone(lope);
}

TEST_CASE("a command does not outlive its worker, nor do its children", "[broker][exec]") {
  Executed exec;
  REQUIRE(::mkfifo((exec.file + ".fifo").c_str(), 0600) == 0);
  // One child in its group, and one that has left it; in an environment that is empty.
  Lope lope(
      exec.script("test $LOPE_ATTEMPT = 1 || exit 0; sh -c 'echo $$ >> $0; read x < $0.fifo' "
                  "$1 & setsid sh -c 'echo $$ >> $0; read x < $0.fifo' $1 & echo $$ >> $1; "
                  "read x < $1.fifo",
                  "inherit_env: false, env: { PATH: /usr/bin }"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "x", "one");
  const std::vector<pid_t> pids = exec.pids(3);
  REQUIRE(pids.size() == 3);
  const auto workers = lope.workers();
  REQUIRE(workers.size() == 1);
  ::kill(workers[0], SIGKILL);
  CHECK(all_dead(pids));
  CHECK(exec.all_settled());
  check_gone(lope);
}

TEST_CASE("the output can be a publication, a reply or nothing", "[broker][exec]") {
  Executed exec;
  const std::string to = exec.broker.make_queue("to");
  SECTION("published, where a template says") {
    Lope lope(exec.script("tr a-z A-Z; exit $LOPE_HEADER_CODE",
                          "output: publish, publish: { routing_key: \"{header.to}\" }, "
                          "content_type: text/x-loud, output_limit: 100B"));
    REQUIRE(lope.wait_ready());
    Publisher publisher = exec.broker.publisher();
    publisher.publish({.routing_key = exec.queue, .body = "hello", .headers = {{"to", to}}});
    publisher.publish({.routing_key = exec.queue, .body = "", .headers = {{"to", to}}});
    publisher.publish({.routing_key = exec.queue,
                       .body = "failed",
                       .message_id = "failed",
                       .headers = {{"to", to}, {"code", "65"}}});
    publisher.publish({.routing_key = exec.queue,
                       .body = std::string(101, 'x'),
                       .message_id = "large",
                       .headers = {{"to", to}}});
    REQUIRE(exec.all_settled());
    check_gone(lope);
    const auto got = exec.broker.drain(to);
    REQUIRE(got.size() == 1);
    CHECK(got[0].body == "HELLO");
    CHECK(got[0].content_type == "text/x-loud");
    CHECK(ids_of(exec.broker.drain(exec.dead)) == std::vector<std::string>{"failed", "large"});
    CHECK(lines_with(lope.log(), "expected an output of at most 100 bytes").size() == 1);
  }
  SECTION("not run, when it could not be published") {
    Lope lope(exec.script("echo ran >> $1; echo said",
                          "output: publish, publish: { routing_key: \"{header.to}\" }"));
    REQUIRE(lope.wait_ready());
    exec.broker.publisher().publish({.routing_key = exec.queue,
                                     .message_id = "long",
                                     .headers = {{"to", std::string(256, 'x')}}});
    REQUIRE(eventually(10s, [&] { return exec.broker.message_count(exec.dead) == 1; }));
    check_gone(lope);
    CHECK(lines_with(lope.log(), "expected at most 255 bytes, found 256").size() == 1);
    CHECK(lines_of_file(exec.file).empty());
  }
  SECTION("rejected, when the host refuses it") {
    LopeOptions options = exec.script("head -c 2000 /dev/zero",
                                      "output: publish, publish: { routing_key: " + to + " }");
    options.broker = "{ url: \"" + options.broker + "\", max_message_size: 1kB }";
    Lope lope(options);
    REQUIRE(lope.wait_ready());
    exec.broker.publish(exec.queue, "x", "one");
    REQUIRE(eventually(10s, [&] { return exec.broker.message_count(exec.dead) == 1; }));
    check_gone(lope);
    CHECK(lines_with(lope.log(), "its output cannot be sent: ").size() == 1);
  }
  SECTION("the reply, also when it is empty") {
    Lope lope(exec.script("cat", "output: reply"));
    REQUIRE(lope.wait_ready());
    Publisher publisher = exec.broker.publisher();
    for (const char* body : {"question", ""}) {
      publisher.publish(
          {.routing_key = exec.queue, .body = body, .correlation_id = "c", .reply_to = to});
    }
    exec.broker.publish(exec.queue, "nobody asks", "alone");
    REQUIRE(exec.all_settled());
    check_gone(lope);
    const auto got = exec.broker.drain(to);
    REQUIRE(got.size() == 2);
    CHECK(got[0].body == "question");
    CHECK(got[0].correlation_id == "c");
    CHECK(got[1].body.empty());
    CHECK(ids_of(exec.broker.drain(exec.dead)) == std::vector<std::string>{"alone"});
  }
  SECTION("none") {
    Lope lope(exec.script("yes unheard | head -c 1000000; echo heard >&2", "output: none"));
    REQUIRE(lope.wait_ready());
    exec.broker.publish(exec.queue, "x", "one");
    REQUIRE(exec.all_settled());
    check_gone(lope);
    CHECK(lines_with(lope.log(), "one: heard").size() == 1);
    CHECK(lines_with(lope.log(), "one: unheard").empty());
  }
}

TEST_CASE("commands lose nothing while workers are killed", "[broker][exec]") {
  Executed exec;
  check_ledger(exec,
               exec.script("if test $LOPE_TYPE = kill && mkdir $1.$LOPE_MESSAGE_ID 2> /dev/null; "
                           "then kill -KILL $PPID; fi; echo $LOPE_MESSAGE_ID >> $1",
                           {},
                           "    workers: 2\n    threads: 2\n    prefetch: 50\n    retry: { delay: "
                           "0s }\n"));
}

// ---- Co-processes

TEST_CASE("a co-process gets messages and answers them", "[broker][exec]") {
  Executed exec;
  const std::string to = exec.broker.make_queue("to");
  Lope lope(exec.coprocess());
  REQUIRE(lope.wait_ready());
  Publisher publisher = exec.broker.publisher();
  publisher.publish({.routing_key = exec.queue,
                     .body = "show \"quoted\"\n\\\t\x01 \xc3\xa9",
                     .message_id = "one",
                     .headers = {{"text", "\xc3\xa9"}, {"twice", "1"}, {"twice", "2"}},
                     .typed_headers = {{.name = "n", .kind = 'l', .number = -5},
                                       {.name = "yes", .kind = 't', .number = 1},
                                       {.name = "nothing", .kind = 'V'},
                                       {.name = "table", .kind = 'F'}}});
  exec.broker.publish(exec.queue, std::string("\xff\0\x10\x80", 4), "two");
  exec.broker.publish(exec.queue, "publish " + to, "three");
  publisher.publish(
      {.routing_key = exec.queue, .body = "reply yes", .message_id = "four", .reply_to = to});
  exec.broker.publish(exec.queue, "reject why not", "five");
  exec.broker.publish(exec.queue, "retry too early", "six");
  exec.broker.publish(exec.queue, "partial", "seven");
  REQUIRE(exec.all_settled());
  check_gone(lope);
  REQUIRE(exec.lines("shown").size() == 1);
  const std::string shown = exec.lines("shown")[0];
  for (
      const std::string& part :
      {std::string(R"("body": "show \"quoted\"\n\\\t\u0001 \u00e9")"),
       std::string(R"("attempt": 1)"), std::string(R"("redelivered": false)"),
       std::string(R"("message_id": "one")"), "\"queue\": \"" + exec.queue + "\"",
       std::string(
           R"("headers": {"n": -5, "nothing": null, "text": "\u00e9", "twice": "1", "yes": true})")}) {
    CAPTURE(shown, part);
    CHECK(shown.find(part) != std::string::npos);
  }
  CHECK(exec.lines("bytes") == std::vector<std::string>{"ff001080"});
  std::multiset<std::string> bodies;
  for (const Received& each : exec.broker.drain(to)) bodies.insert(each.body);
  CHECK(bodies == std::multiset<std::string>{"one", std::string("two\0", 4), "yes"});
  CHECK(ids_of(exec.broker.drain(exec.dead)) == std::vector<std::string>{"five", "six"});
  CHECK(lines_with(lope.log(), "why not").size() == 1);
  CHECK(set_of(fields_of(lope.log(), "message retried", "reason")) ==
        std::set<std::string>{kAsked + "too early"});
  // One process did it all, and was told to end.
  CHECK(exec.lines("start").size() == 1);
  CHECK(lines_of_file(exec.file).back() == "end");
}

TEST_CASE("the co-process in the README answers", "[broker][exec]") {
  Executed exec;
  const std::string readme = read_file(LOPE_SOURCE_DIR "/plugins/exec/README.md");
  const std::string fence = "```python\n";
  const std::size_t begin = readme.find(fence) + fence.size();
  REQUIRE(begin < readme.size());
  const std::string program =
      exec.files.write("mails.py", readme.substr(begin, readme.find("```", begin) - begin));
  const std::string to = exec.broker.make_queue("to");
  Lope lope(exec.options("{ mode: coprocess, command: [python3, " + program + "] }"));
  REQUIRE(lope.wait_ready());
  exec.broker.publisher().publish(
      {.routing_key = exec.queue, .body = "ping", .correlation_id = "c", .reply_to = to});
  exec.broker.publish(exec.queue, "what is it", "untyped");
  REQUIRE(exec.all_settled());
  check_gone(lope);
  const auto got = exec.broker.drain(to);
  REQUIRE(got.size() == 1);
  CHECK(got[0].body == "pong");
  CHECK(got[0].correlation_id == "c");
  CHECK(ids_of(exec.broker.drain(exec.dead)) == std::vector<std::string>{"untyped"});
}

TEST_CASE("a co-process that dies is started again, and what it had is retried", "[broker][exec]") {
  Executed exec;
  const auto& [body, reason] = GENERATE(table<std::string, std::string>(
      {{"crash", "its co-process ended: SIGSEGV: about to crash"},
       {"exit", "its co-process ended: exit 7"},
       {"hang", "its co-process ended: SIGKILL (time_limit of a message is up)"},
       {"silent", "its co-process ended: SIGTERM (time_limit of a message is up)"},
       {"deaf", "its co-process ended: SIGTERM (it has closed its input)"},
       {"long 3000", "its co-process ended: SIGTERM (it wrote a line over output_limit)"},
       {"long 3000000", "its co-process ended: SIGTERM (it wrote a line over output_limit)"}}));
  CAPTURE(body);
  Lope lope(exec.coprocess("time_limit: 1s, grace: 200ms, output_limit: 2000B"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, body, "guilty");
  exec.broker.publish(exec.queue, "ack", "other");
  REQUIRE(exec.all_settled());
  exec.broker.publish(exec.queue, "ack", "later");
  REQUIRE(exec.all_settled());
  check_gone(lope);
  CHECK(exec.lines("start").size() == 2);
  CHECK(set_of(fields_of(lope.log(), "message retried", "reason")) ==
        std::set<std::string>{kAsked + reason});
  const auto got = exec.lines("got");
  CHECK(std::count(got.begin(), got.end(), "guilty 2") == 1);
  CHECK(exec.broker.message_count(exec.dead) == 0);
}

TEST_CASE("answers that are none are said, and change nothing", "[broker][exec]") {
  Executed exec;
  const auto& [body, said] = GENERATE(table<std::string, std::string>(
      {{"answer {\"id\":ID,\"outcome\":\"fine\"}", "expected ack, retry or reject, found 'fine'"},
       {"answer {\"id\":ID}", "'outcome': expected ack, retry or reject, found none"},
       {"answer {\"id\":ID,\"outcome\":\"ack\",\"publsh\":[]}", "'publsh': there is no such thing"},
       {"answer {\"id\":ID,\"outcome\":\"ack\",\"reply\":{\"body\":\"x\"}}", "its answer: reply: "},
       {"answer {\"id\":ID,\"outcome\":\"ack\",\"publish\":[{\"priority\":256}]}",
        "'priority': expected 0 to 255"},
       {"answer {\"id\":ID,\"outcome\":\"ack\",\"publish\":[{\"body_base64\":\"*\"}]}",
        "'body_base64': expected base64"}}));
  CAPTURE(body);
  Lope lope(exec.coprocess());
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, body, "one");
  REQUIRE(exec.broker.message_count(exec.queue).has_value());
  REQUIRE(lope.wait_for_line("message retried"));
  REQUIRE(exec.all_settled());
  check_gone(lope);
  CHECK_FALSE(lines_with(lope.log(), said).empty());
  CHECK(exec.lines("start").size() == 1);
}

TEST_CASE("garbage, unknown ids and second answers are ignored, and counted", "[broker][exec]") {
  Executed exec;
  Lope lope(exec.coprocess("time_limit: 1s", "    retry: { delay: 0s, attempts: 9 }\n"));
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "twice", "one");
  REQUIRE(lope.wait_for_line("expected the id of a message that waits for its answer, found"));
  // Those that leave their message without an answer until it has come again.
  exec.broker.publish(exec.queue, "answer {\"id\":123456789,\"outcome\":\"ack\"}", "two");
  REQUIRE(lope.wait_for_line("found 123456789"));
  exec.broker.publish(exec.queue, "answer hello", "three");
  REQUIRE(lope.wait_for_line("expected a JSON object a line, found 'hello'"));
  exec.broker.publish(exec.queue, "noise 50000", "four");
  REQUIRE(exec.all_settled());
  check_gone(lope);
  CHECK(exec.broker.message_count(exec.dead) == 0);
  CHECK(lines_with(lope.log(), "]: noise").size() <= 300);
  CHECK_FALSE(lines_with(lope.log(), "more lines").empty());
}

TEST_CASE("a co-process is drained: answers are waited for, then its input ends",
          "[broker][exec]") {
  Executed exec;
  const std::string fifo = exec.make_fifo();
  Lope lope(exec.coprocess());
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "ack", "one");
  exec.broker.publish(exec.queue, "wait " + fifo, "two");
  REQUIRE(eventually(10s, [&] { return exec.lines("got").size() == 2; }));
  lope.process().signal_group(SIGTERM);
  REQUIRE(lope.wait_for_line("stopping signal=15"));
  open_fifo(fifo);
  CHECK(lope.process().wait_exit(20s) == exited(0));
  CHECK(exec.broker.message_count(exec.queue) == 0);
  CHECK(lines_of_file(exec.file).back() == "end");
  CHECK(lope.process().count_lines("its co-process ended: exit 0") == 1);
}

TEST_CASE("no more than `window` messages are with a co-process", "[broker][exec]") {
  Executed exec;
  const std::string fifo = exec.make_fifo();
  Lope lope(exec.coprocess("window: 3"));
  REQUIRE(lope.wait_ready());
  // The first keeps it busy; it dies with those it has, and the others are not charged.
  exec.broker.publish(exec.queue, "wait " + fifo, "first");
  exec.broker.publish(exec.queue, "crash", "second");
  for (int i = 0; i < 6; ++i) exec.broker.publish(exec.queue, "ack", std::to_string(i));
  open_fifo(fifo);
  REQUIRE(exec.all_settled());
  check_gone(lope);
  const auto retried = fields_of(lope.log(), "message retried", "message_id");
  CHECK(retried.count("second") == 1);
  CHECK(retried.size() <= 3);
}

TEST_CASE("time_limit begins anew with each answer", "[broker][exec]") {
  Executed exec;
  // Each is quick, but all together take longer than one may.
  Lope lope(
      exec.python("for message in messages():\n"
                  "  time.sleep(0.2)\n"
                  "  answer(message)\n",
                  "time_limit: 1s"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 10; ++i) exec.broker.publish(exec.queue, "x", std::to_string(i));
  REQUIRE(exec.all_settled());
  check_gone(lope);
  CHECK(lines_with(lope.log(), "message retried").empty());
  CHECK(lope.process().count_lines("its co-process ended: exit 0") == 1);
}

TEST_CASE("what a co-process was not sent by its end is not charged", "[broker][exec]") {
  Executed exec;
  const std::string fifo = exec.make_fifo();
  Lope lope(exec.coprocess());
  REQUIRE(lope.wait_ready());
  exec.broker.publish(exec.queue, "wait " + fifo, "first");
  exec.broker.publish(exec.queue, "crash", "second");
  // More than its pipe takes.
  const std::string large = "ack " + std::string(100'000, 'x');
  for (int i = 0; i < 8; ++i) exec.broker.publish(exec.queue, large, std::to_string(i));
  REQUIRE(eventually(10s, [&] { return exec.broker.message_count(exec.queue) == 0; }));
  open_fifo(fifo);
  REQUIRE(exec.all_settled());
  check_gone(lope);
  const auto retried = fields_of(lope.log(), "message retried", "message_id");
  CHECK(retried.count("second") == 1);
  CHECK(retried.size() <= 5);
  CHECK(exec.broker.message_count(exec.dead) == 0);
}

TEST_CASE("a co-process that has closed its output is sent nothing more", "[broker][exec]") {
  Executed exec;
  Lope lope(
      exec.python("for message in messages():\n"
                  "  note(str(message['attempt']))\n"
                  "  if message['attempt'] == 1 and message['type'] == 'close':\n"
                  "    os.close(1)\n"
                  "    note('closed')\n"
                  "  else:\n"
                  "    answer(message)\n",
                  "grace: 300ms"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = exec.broker.publisher();
  publisher.publish({.routing_key = exec.queue, .message_id = "one", .type = "close"});
  REQUIRE(eventually(10s, [&] { return lines_of_file(exec.file).size() == 2; }));
  publisher.publish({.routing_key = exec.queue, .message_id = "two", .type = "live"});
  REQUIRE(exec.all_settled());
  check_gone(lope);
  CHECK(fields_of(lope.log(), "message retried", "message_id") ==
        std::multiset<std::string>{"one"});
  CHECK(lines_of_file(exec.file).size() == 4);
}

TEST_CASE("at a drain what a co-process was not sent goes back", "[broker][exec]") {
  Executed exec;
  const std::string fifo = exec.make_fifo();
  Lope lope(
      exec.python("all = messages()\n"
                  "both = [next(all), next(all)]\n"
                  "note('both')\n"
                  "open('" +
                      fifo +
                      "').read()\n"
                      "for message in both: answer(message)\n"
                      "for message in all: answer(message)\n",
                  "window: 2"));
  REQUIRE(lope.wait_ready());
  for (int i = 0; i < 5; ++i) exec.broker.publish(exec.queue, "x", std::to_string(i));
  REQUIRE(eventually(10s, [&] { return lines_of_file(exec.file).size() == 1; }));
  REQUIRE(eventually(10s, [&] { return exec.broker.message_count(exec.queue) == 0; }));
  lope.process().signal_group(SIGTERM);
  CHECK(lope.wait_for_line("3 messages that were not sent to the co-process go back"));
  open_fifo(fifo);
  CHECK(lope.process().wait_exit(20s) == exited(0));
  CHECK(exec.broker.message_count(exec.queue) == 3);
  CHECK(lines_with(lope.log(), "ledger finished=2 handed_back=3 killed=0").size() == 1);
}

TEST_CASE("a message that was taken back while it waited is not sent to a co-process",
          "[broker][exec]") {
  Executed exec;
  const std::string fifo = exec.make_fifo();
  Lope lope(
      exec.python("for message in messages():\n"
                  "  note(message['message_id'] + ' ' + str(message['attempt']))\n"
                  "  if message['type'] == 'wait' and message['attempt'] == 1: open('" +
                      fifo +
                      "').read()\n"
                      "  answer(message)\n",
                  "window: 1, time_limit: 0s",
                  "    timeout: 1500ms\n    retry: { delay: 0s, attempts: 100 }\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = exec.broker.publisher();
  publisher.publish({.routing_key = exec.queue, .message_id = "one", .type = "wait"});
  REQUIRE(eventually(10s, [&] { return lines_of_file(exec.file).size() == 1; }));
  publisher.publish({.routing_key = exec.queue, .message_id = "two", .type = "live"});
  REQUIRE(eventually(20s, [&] {
    return fields_of(lope.log(), "message retried", "message_id").count("two") >= 2;
  }));
  open_fifo(fifo);
  REQUIRE(exec.all_settled());
  check_gone(lope);
  const auto lines = lines_of_file(exec.file);
  CHECK(std::count(lines.begin(), lines.end(), "two 1") == 0);
}

TEST_CASE("co-processes lose nothing while workers are killed", "[broker][exec]") {
  Executed exec;
  check_ledger(exec,
               exec.python("for message in messages():\n"
                           "  if message['type'] == 'kill': kill_worker_once(message)\n"
                           "  note(message['message_id'])\n"
                           "  answer(message)\n",
                           {}, "    workers: 2\n    prefetch: 100\n    retry: { delay: 0s }\n"));
}
