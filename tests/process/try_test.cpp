// `lope try` and `lope test`: real worker processes, no broker.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/exit_code.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/process.h"
#include "support/temp_dir.h"

using namespace lope;
using namespace lope::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

const std::string kScripted = LOPE_TEST_HANDLERS_DIR "/scripted.so";
const std::string kGather = LOPE_TEST_HANDLERS_DIR "/gather.so";

RunResult try_bodies(const std::string& handler, const std::vector<std::string>& bodies,
                     const std::vector<std::string>& more = {},
                     const ProcessOptions& options = {}) {
  std::vector<std::string> arguments = {"try", handler};
  for (const std::string& body : bodies) arguments.insert(arguments.end(), {"--body", body});
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_lope(arguments, options);
}

// The objects that --json prints, by message.
std::vector<Json> objects(const std::string& output) {
  std::vector<Json> list;
  for (const std::string& line : lines_with(output, "{")) list.push_back(Json::parse(line));
  std::sort(list.begin(), list.end(), [](const Json& a, const Json& b) {
    return a.value("message", 0) < b.value("message", 0);
  });
  return list;
}

std::vector<std::string> outcomes(const RunResult& result) {
  std::vector<std::string> list;
  for (const Json& each : objects(result.output)) {
    if (each.contains("outcome")) list.push_back(each["outcome"]);
  }
  return list;
}

}  // namespace

TEST_CASE("lope try shows each outcome, and ends with the worst", "[process][try]") {
  struct Row {
    std::string body;
    const char* shown;
    int code;
  };
  const auto row = GENERATE(values<Row>({
      {"ack", "message 1: ack, ", 0},
      {"retry:busy", ": busy; it comes again after 10s", 4},
      {"reject:not this", ": not this; it is a dead letter (rejected)", 5},
      {"none", ": the handler gave no outcome; it comes again after 10s", 4},
      {"unknown", ": the handler gave an unknown outcome, 77; ", 4},
      {"throw", ": thrown as told; ", 4},
      {"segv", "message 1: crash, ", 7},
      {"exit0", ": its worker died: exit 0; ", 7},
      {"log:said", "    info    said\n", 0},
      {"stdout:out", "    stdout  out\n", 0},
      {"stderr:err", "    stderr  err\n", 0},
      {"publish:next", R"(    publish {"exchange":"","routing_key":"next","message_id":")", 0},
  }));
  const RunResult result = try_bodies(kScripted, {row.body});
  INFO(result.output);
  CHECK(result.output.find(row.shown) != std::string::npos);
  CHECK(result.status == exited(row.code));
}

TEST_CASE("a message that ends its worker ends nothing else", "[process][try]") {
  const RunResult result = try_bodies(kScripted, {"ack", "segv", "reject", "hang", "ack"},
                                      {"--timeout", "300ms", "--json"});
  INFO(result.output);
  CHECK(outcomes(result) == std::vector<std::string>{"ack", "crash", "reject", "timeout", "ack"});
  CHECK(result.status == exited(7));
}

TEST_CASE("attempts are made by the retry policy, and not waited for", "[process][try]") {
  const TempDir dir;
  dir.write("lope.yaml", "broker: amqp://nobody.invalid\nhandlers_dir: " LOPE_TEST_HANDLERS_DIR
                         "\ngroups:\n  g:\n    handler: scripted\n    crashes: 2\n"
                         "    retry: { attempts: 4, delay: 1h, backoff: 3, max_delay: 5h }\n");
  const std::vector<std::string> group = {"--config", dir.file("lope.yaml"), "--group", "g",
                                          "--json",   "--attempts",          "100"};
  std::vector<std::string> arguments = {"try", "--body", "retry:no", "--body", "segv"};
  arguments.insert(arguments.end(), group.begin(), group.end());
  const RunResult result = run_lope(arguments);
  INFO(result.output);
  CHECK(result.status == exited(7));
  const auto objects_ = objects(result.output);
  REQUIRE(objects_.size() == 2);
  const Json& retried = objects_[0]["attempts"];
  REQUIRE(retried.size() == 4);
  const std::int64_t hour = 3'600'000;
  const std::int64_t at[] = {0, hour, 4 * hour, 9 * hour};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(retried[i]["attempt"] == i + 1);
    CHECK(retried[i]["at_ms"] == at[i]);
  }
  CHECK(retried[2]["again_after_ms"] == 5 * hour);
  CHECK(retried[3]["dead_letter"] == "attempts");
  REQUIRE(objects_[1]["attempts"].size() == 2);
  CHECK(objects_[1]["attempts"][1]["dead_letter"] == "crashes");
}

TEST_CASE("the next attempt comes with what the first has left", "[process][try]") {
  const TempDir dir;
  dir.write("m.json",
            R"({"body":"retry 3 500 ack","message_id":"m","exchange":"e","routing_key":"k",)"
            R"("headers":{"mine":1}})");
  // The courier's own ledger tells attempt and lateness as it sees them.
  const RunResult result =
      run_lope({"try", LOPE_TEST_HANDLERS_DIR "/courier.so", dir.file("m.json"), "--attempts", "9",
                "-o", "file=" + dir.file("ledger"), "--json"});
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK(lines_with(read_file(dir.file("ledger")), "end ") ==
        std::vector<std::string>{"end m 1 retry", "end m 2 retry", "end m 3 retry", "end m 4 ack"});
}

TEST_CASE("messages that a handler keeps are settled, flushed, or shown as kept",
          "[process][try]") {
  const TempDir dir;
  const RunResult result =
      try_bodies(kGather, {"hold", "hold", "later:50", "keep", "ack"},
                 {"-o", "file=" + dir.file("gather"), "--json", "--batch", "1"});
  INFO(result.output);
  CHECK(outcomes(result) == std::vector<std::string>{"ack", "ack", "ack", "hold", "ack"});
  CHECK(result.status == exited(3));
}

TEST_CASE("of a batch that ends its worker only the guilty one is charged", "[process][try]") {
  const TempDir dir;
  const RunResult result =
      try_bodies(kGather, {"ack", "retry", "segv", "ack", "reject"},
                 {"-o", "file=" + dir.file("gather"), "--json", "--batch", "5"});
  INFO(result.output);
  CHECK(outcomes(result) == std::vector<std::string>{"ack", "retry", "crash", "ack", "reject"});
}

TEST_CASE("lope try takes messages from where they are", "[process][try]") {
  const TempDir dir;
  dir.write("one.json", R"({"body":"log:from a file"})");
  const std::string large = "log:" + std::string(100'000, 'x');
  dir.write("large.json", Json{{"body", large}}.dump());
  ProcessOptions lines;
  lines.standard_input = "log:first\nlog:second\n";
  CHECK(lines_with(run_lope({"try", kScripted}, lines).output, "    info").size() == 2);
  const RunResult mixed = run_lope(
      {"try", kScripted, dir.file("one.json"), "-", "-b", "log:x", dir.file("large.json")}, lines);
  INFO(mixed.output);
  CHECK(mixed.status == exited(0));
  CHECK(lines_with(mixed.output, "message ").size() == 5);
  CHECK(mixed.output.find("    info    from a file\n") != std::string::npos);
}

TEST_CASE("what lope try cannot use it refuses", "[process][try]") {
  struct Row {
    std::vector<std::string> arguments;
    const char* told;
    int code;
  };
  const auto row = GENERATE(values<Row>({
      {{"try"}, "expected a handler, or --config and --group, found neither", kExitUsage},
      {{"try", "nothere", "-b", "x"}, "nothere.so': expected a file, found none", kExitRefused},
      {{"try", kScripted, "-b", "x", "-o", "fil=1"}, "did you mean 'file'?", kExitRefused},
      {{"try", kScripted, "-b", "x", "-o", "fil"}, "expected KEY=VALUE, found 'fil'", kExitUsage},
      {{"try", kScripted, "/nothing/there.json"}, "/nothing/there.json", kExitFailed},
      {{"try", kScripted}, "expected a message, found none", kExitFailed},
      {{"try", LOPE_TEST_HANDLERS_DIR "/create_invalid.so", "-b", "x"},
       "create() failed",
       kExitRefused},
      {{"try", LOPE_TEST_HANDLERS_DIR "/create_failed.so", "-b", "x"},
       "create() failed",
       kExitFailed},
      {{"try", LOPE_TEST_HANDLERS_DIR "/create_aborts.so", "-b", "x"},
       "found its worker dead by SIGABRT while in the",
       kExitFailed},
      {{"try", kScripted, "-b", "x", "--group", "g"}, "expected --config with it", kExitUsage},
  }));
  const RunResult result = run_lope(row.arguments);
  INFO(result.output);
  CHECK(result.output.find(row.told) != std::string::npos);
  CHECK(result.status == exited(row.code));
}

TEST_CASE("a message file that is wrong is told by name", "[process][try]") {
  const TempDir dir;
  const RunResult result = run_lope({"try", kScripted, dir.write("bad.json", "{\"bdy\":1}")});
  INFO(result.output);
  CHECK(result.output.find("bad.json': 'bdy': no such member of a message") != std::string::npos);
  CHECK(result.status == exited(kExitFailed));
}

TEST_CASE("lope try measures how fast a handler is", "[process][try]") {
  const RunResult result = try_bodies(kScripted, {"ack", "reject"}, {"--repeat", "5000", "--json"});
  INFO(result.output);
  CHECK(result.status == exited(5));
  const Json rate = Json::parse(result.output);
  CHECK(rate["messages"] == 5000);
  CHECK(rate["outcomes"] == Json{{"ack", 2500}, {"reject", 2500}});
  CHECK(rate["took_us"]["p50"] <= rate["took_us"]["most"]);
  // Kept and in batches, with one now and then that ends the worker.
  const TempDir dir;
  const RunResult kept = try_bodies(kGather, {"hold", "ack", "segv"},
                                    {"-o", "file=" + dir.file("f"), "--repeat", "300", "--json"});
  INFO(kept.output);
  CHECK(Json::parse(kept.output)["messages"] == 300);
}

TEST_CASE("lope try needs no network and leaves nothing behind", "[process][try]") {
  const TempDir home, work;
  ProcessOptions options;
  options.env = {{"HOME", home.path().string()},
                 {"TMPDIR", home.path().string()},
                 {"XDG_RUNTIME_DIR", home.path().string()}};
  options.directory = work.path().string();
  std::vector<std::string> command = {
      LOPE_BIN_DIR "/lope", "try", kScripted, "-b", "fork",     "-b",
      "bare-fork",          "-b",  "segv",    "-b", "publish:x"};
  if (::geteuid() == 0) command.insert(command.begin(), {"unshare", "--net", "--"});
  Process process(command, options);
  const auto status = process.wait_exit(20s);
  INFO(process.output());
  REQUIRE(status == exited(7));
  CHECK(fs::is_empty(home.path().string()));
  CHECK(fs::is_empty(work.path().string()));
  // Children of the handler, too: they have ended with it.
  CHECK(descendants_named(::getpid(), "lope-worker").empty());
  CHECK(::kill(-process.pid(), 0) == -1);
}

TEST_CASE("lope try that is interrupted ends at once, with all it has started", "[process][try]") {
  Process process({LOPE_BIN_DIR "/lope", "try", kScripted, "-b", "hang"});
  REQUIRE(
      eventually(10s, [&] { return !descendants_named(process.pid(), "lope-worker").empty(); }));
  process.signal_group(SIGINT);
  CHECK(process.wait_exit(5s) == exited(128 + SIGINT));
  CHECK(::kill(-process.pid(), 0) == -1);
}

TEST_CASE("lope test tells what passed and what did not", "[process][try]") {
  const TempDir dir;
  dir.write("cases.yaml", "handler: " + kScripted +
                              "\n"
                              "cases:\n"
                              "  - name: passes\n"
                              "    message: { body: 'reject:bad' }\n"
                              "    expect: { outcome: reject, reason: bad }\n"
                              "  - name: crashes\n"
                              "    message: { body: segv }\n"
                              "  - name: hangs\n"
                              "    message: { body: hang }\n"
                              "    timeout: 200ms\n"
                              "  - name: comes after <them> & \"passes\"\n"
                              "    message: { body: 'log:here' }\n"
                              "    expect: { logs: [ { info: here } ] }\n");
  const RunResult result =
      run_lope({"test", dir.path().string(), "--junit", dir.file("report.xml")});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK(result.output.find("2 passed, 2 failed\n") != std::string::npos);
  CHECK(result.output.find("outcome: expected ack, found crash: its worker died: SIGSEGV") !=
        std::string::npos);
  CHECK(result.output.find("outcome: expected ack, found timeout") != std::string::npos);
  const RunResult xml = run({"python3", "-c",
                             "import sys, xml.etree.ElementTree as tree\n"
                             "for case in tree.parse(sys.argv[1]).iter('testcase'):\n"
                             "    print(case.get('name'), len(case.findall('failure')))",
                             dir.file("report.xml")});
  CHECK(xml.output == "passes 0\ncrashes 1\nhangs 1\ncomes after <them> & \"passes\" 0\n");

  CHECK(run_lope({"test", dir.path().string(), "--filter", "passes"}).status == exited(0));
  CHECK(run_lope({"test", dir.file("nothing")}).status == exited(kExitUsage));
  const TempDir empty;
  CHECK(run_lope({"test", empty.path().string()}).status == exited(kExitUsage));
}

TEST_CASE("a test case with a handler that cannot be used fails alone", "[process][try]") {
  const TempDir dir;
  dir.write("cases.yaml",
            "cases:\n"
            "  - name: refused\n"
            "    handler: " LOPE_TEST_HANDLERS_DIR
            "/create_invalid.so\n"
            "    message: {}\n"
            "  - name: not there\n"
            "    handler: nothere.so\n"
            "    message: {}\n"
            "  - name: fine\n"
            "    handler: " +
                kScripted + "\n    message: { body: ack }\n");
  const RunResult result = run_lope({"test", dir.file("cases.yaml")});
  INFO(result.output);
  CHECK(result.status == exited(1));
  CHECK(result.output.find("1 passed, 2 failed\n") != std::string::npos);
  CHECK(result.output.find("create() failed") != std::string::npos);
  CHECK(result.output.find("nothere.so': expected a file, found none") != std::string::npos);
}

TEST_CASE("the test cases in the documentation pass", "[process][try]") {
  const std::string page = read_file(LOPE_SOURCE_DIR "/docs/testing.md");
  const std::string mark = "<!-- example: lope test -->\n```yaml\n";
  const TempDir dir;
  int examples = 0;
  for (std::size_t at = page.find(mark); at != std::string::npos; at = page.find(mark, at)) {
    at += mark.size();
    dir.write(std::to_string(++examples) + ".yaml", page.substr(at, page.find("```", at) - at));
  }
  CHECK(examples == 2);
  const RunResult result = run_lope({"test", dir.path().string()});
  INFO(result.output);
  CHECK(result.status == exited(0));
  CHECK(result.output.find("5 passed, 0 failed\n") != std::string::npos);
}

TEST_CASE("a message that has expired or is too large does not reach its handler",
          "[process][try]") {
  const TempDir dir;
  const std::string expired =
      dir.write("e.json", R"({"body":"segv","headers":{"x-lope-expires":1000}})");
  const RunResult alone = run_lope({"try", kScripted, expired});
  INFO(alone.output);
  CHECK(alone.status == exited(5));
  CHECK(alone.output.find("expired: it came after its expiration") != std::string::npos);
  CHECK(run_lope({"try", kScripted, expired, "--repeat", "10"}).status == exited(5));
  // Between its attempts, too.
  dir.write("cases.yaml",
            "handler: " + kScripted +
                "\n"
                "cases:\n"
                "  - message: { body: retry, expiration: '15000' }\n"
                "    attempts: 5\n"
                "    expect: { outcome: expired, dead_letter: expired, attempts: 3 }\n");
  const RunResult later = run_lope({"test", dir.path().string()});
  INFO(later.output);
  CHECK(later.status == exited(0));

  dir.write("lope.yaml",
            "broker: { url: amqp://me@nobody.invalid, password: { file: /not/there } }\n"
            "handlers_dir: " LOPE_TEST_HANDLERS_DIR
            "\ngroups:\n  g: { handler: scripted, max_body: 1KiB }\n");
  const RunResult large = run_lope(
      {"try", "-c", dir.file("lope.yaml"), "-g", "g", "-b", "ack" + std::string(2000, ' ')});
  INFO(large.output);
  CHECK(large.output.find("too-large: its body is larger than max_body") != std::string::npos);
  CHECK(large.status == exited(5));
}

TEST_CASE("a handler may keep far more than fits a worker's window", "[process][try]") {
  ProcessOptions options;
  for (int i = 0; i < 20'000; ++i) options.standard_input += "hold\n";
  const RunResult result =
      run_lope({"try", kGather, "-o", "file=/dev/null", "--json"}, options, 60s);
  CHECK(result.status == exited(0));
  CHECK(lines_with(result.output, "\"outcome\":\"ack\",\"attempts\"").size() == 20'000);
}

TEST_CASE("one that a worker died with is run alone, and may be kept again", "[process][try]") {
  const RunResult result =
      try_bodies(kGather, {"hold", "segv", "ack"}, {"-o", "file=/dev/null", "--json"});
  INFO(result.output);
  CHECK(outcomes(result) == std::vector<std::string>{"ack", "crash", "ack"});
  const RunResult many = try_bodies(kGather, {"hold", "hold", "hold", "segv"},
                                    {"-o", "file=/dev/null", "--repeat", "400", "--json"});
  INFO(many.output);
  CHECK(Json::parse(many.output)["outcomes"] == Json{{"ack", 300}, {"crash", 100}});
}

TEST_CASE("a delay is the one that the handler asked for", "[process][try]") {
  const RunResult result =
      try_bodies(LOPE_TEST_HANDLERS_DIR "/courier.so", {"later 250 publish q 1 sleep 300 ack"},
                 {"-o", "file=/dev/null", "--json"});
  INFO(result.output);
  CHECK(objects(result.output)[0]["attempts"][0]["publications"][0]["delay_ms"] == 250);
}

TEST_CASE("a handler tried has no password of the configuration in reach", "[process][try]") {
  const TempDir dir;
  dir.write("lope.yaml",
            "broker: { url: amqp://me@nobody.invalid, password: { env: MY_PASSWORD } }\n"
            "handlers_dir: " LOPE_TEST_HANDLERS_DIR "\ngroups:\n  g: { handler: scripted }\n");
  ProcessOptions options;
  options.env = {{"MY_PASSWORD", "hunter2"}};
  Process process(
      {LOPE_BIN_DIR "/lope", "try", "-c", dir.file("lope.yaml"), "-g", "g", "-b", "hang"}, options);
  std::vector<pid_t> workers;
  REQUIRE(eventually(10s, [&] {
    workers = descendants_named(process.pid(), "lope-worker");
    return !workers.empty() &&
           read_file("/proc/" + std::to_string(workers[0]) + "/environ").find("LOPE_WORKER_ID=") !=
               std::string::npos;
  }));
  CHECK(read_file("/proc/" + std::to_string(workers[0]) + "/environ").find("hunter2") ==
        std::string::npos);
  process.signal_group(SIGHUP);
  CHECK(process.wait_exit(5s) == exited(128 + SIGINT));
}

TEST_CASE("output that cannot be written is a failure", "[process][try]") {
  CHECK(run({"/bin/sh", "-c", LOPE_BIN_DIR "/lope try " + kScripted + " -b log:x >/dev/full"})
            .status == exited(1));
  const TempDir dir;
  dir.write("cases.yaml", "handler: " + kScripted + "\ncases: [ { message: { body: ack } } ]\n");
  CHECK(run({"/bin/sh", "-c", LOPE_BIN_DIR "/lope test " + dir.file("cases.yaml") + " >/dev/full"})
            .status == exited(1));
}

TEST_CASE("no expression and no output takes the test runner down", "[process][try]") {
  const TempDir dir;
  dir.write(
      "cases.yaml", "handler: " + kScripted +
                        "\ncases:\n"
                        "  - message: { body: 'log:" +
                        std::string(60, 'a') +
                        "' }\n    expect: { logs: [ { matches: '^(a+)+$b' } ] }\n"
                        "  - message: { body: 'retry:" +
                        std::string(300, 'e') + "' }\n    expect: { reason: \"" +
                        [] {
                          std::string text;
                          for (int i = 0; i < 300; ++i) text += "é";
                          return text;
                        }() +
                        "\" }\n");
  const RunResult result = run_lope({"test", dir.path().string(), "--junit", dir.file("r.xml")});
  INFO(result.output);
  CHECK(result.output.find("0 passed, 2 failed\n") != std::string::npos);
  CHECK(run({"python3", "-c", "import sys, xml.dom.minidom as x; x.parse(sys.argv[1])",
             dir.file("r.xml")})
            .status == exited(0));
}

TEST_CASE("a property of the command line is the message's", "[process][try]") {
  const RunResult result = try_bodies(
      LOPE_TEST_HANDLERS_DIR "/courier.so", {"reply there ack"},
      {"-o", "file=/dev/null", "--json", "-p", "reply_to=answers", "-p", "correlation_id=7"});
  INFO(result.output);
  const Json reply = objects(result.output)[0]["attempts"][0]["replies"][0];
  CHECK(reply["routing_key"] == "answers");
  CHECK(reply["correlation_id"] == "7");
}
