// The real `lope check` and `lope run` on good and bad configurations, and the command line itself.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "common/exit_code.h"
#include "support/lope.h"

using namespace lope;
using namespace lope::test;

namespace {

const std::string kHandlers = "handlers_dir: " LOPE_HANDLERS_BUILD_DIR "\n";
const std::string kTestHandlers = "handlers_dir: " LOPE_TEST_HANDLERS_DIR "\n";

// What is promised; a sanitizer may take longer.
std::chrono::milliseconds in_no_time() { return std::string(LOPE_SANITIZE).empty() ? 1s : 20s; }

std::string repeated(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

RunResult check(const std::string& path, ProcessOptions options = {}) {
  return run_lope({"check", "--config", path}, std::move(options));
}

// What `lope check` says of `text`, without the folder before the file's name.
struct Checked {
  int code = -1;
  std::string output;
};
Checked check_text(const std::string& text, ProcessOptions options = {}) {
  const TempDir dir;
  options.directory = dir.path();
  dir.write("lope.yaml", text);
  const RunResult result = run_lope({"check", "--config", "lope.yaml"}, std::move(options));
  REQUIRE(result.status.has_value());
  REQUIRE(result.status->exited);
  return {result.status->code, result.output};
}

}  // namespace

TEST_CASE("every kind of bad configuration is refused with its place, in no time",
          "[process][config]") {
  struct Row {
    const char* what;
    std::string text, place;
  };
  const std::string good = "groups:\n  a: { handler: log }\n";
  const auto row = GENERATE_COPY(values<Row>({
      {"a bad type", good + "log: 5\n", "lope.yaml:3:6: error: "},
      {"an unknown key", good + "brokr: x\n", "lope.yaml:3:1: error: "},
      {"a duplicate key", good + good, "lope.yaml:3:1: error: "},
      {"a missing key", "groups:\n  a: {}\n", "lope.yaml:2:3: error: "},
      {"out of range", good + "defaults: { workers: 0 }\n", "lope.yaml:3:22: error: "},
      {"a bad URL", good + "broker: localhost\n", "lope.yaml:3:9: error: "},
      {"not there yet", good + "defaults: { rate: 5 }\n", "lope.yaml:3:13: error: "},
      {"an alias bomb",
       good + "a: &a [x]\nb: &b [" + repeated("*a,", 10) + "]\nc: &c [" + repeated("*b,", 10) +
           "]\n",
       "lope.yaml:3:4: error: "},
      {"an alias cycle", "groups: &g\n  a: *g\n", "lope.yaml:1:9: error: "},
      {"10,000 levels", "groups: " + repeated("{a: ", 10'000), "lope.yaml:1:133: error: "},
      {"10,000 levels of dashes", "groups:\n" + repeated("- ", 10'000), "lope.yaml:2:63: error: "},
      {"10 MiB", good + "#" + std::string(10 << 20, 'x'), "lope.yaml: error: "},
      {"a NUL byte", good + std::string(1, '\0'), "lope.yaml:3:1: error: "},
      {"two documents", good + "---\n" + good, "lope.yaml:3:1: error: "},
      {"empty", "", "lope.yaml: error: "},
      {"no YAML", "groups: }{\n", "lope.yaml:1:9: error: "},
  }));
  const TempDir dir;
  dir.write("lope.yaml", row.text);
  for (const std::string command : {"check", "run"}) {
    ProcessOptions options;
    options.directory = dir.path();
    const RunResult result = run_lope({command, "--config", "lope.yaml"}, options, in_no_time());
    INFO(command << " with " << row.what << ": " << result.output.substr(0, 2000));
    CHECK(result.status == exited(kExitRefused));
    CHECK(result.output.find(row.place) != std::string::npos);
  }
}

TEST_CASE("what is no configuration file is refused", "[process][config]") {
  const TempDir dir;
  const std::string fifo = dir.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  struct Row {
    std::string path, problem;
  };
  for (const Row& row : {Row{dir.file("none"), "expected a file, found none"},
                         Row{dir.path(), "expected a regular file, found a folder"},
                         Row{fifo, "expected a regular file, found a fifo"}}) {
    for (const std::string command : {"check", "run"}) {
      const RunResult result = run_lope({command, "--config", row.path}, {}, in_no_time());
      CHECK(result.status == exited(kExitRefused));
      CHECK(result.output == row.path + ": error: " + row.problem + "\n");
    }
  }
}

TEST_CASE("check tells every problem of a file in one run", "[process][config]") {
  const Checked checked = check_text(
      "broker: { url: amqps://app:hunter2@mq }\n"
      "groups:\n"
      "  a: { handlr: log, prefetch: 0 }\n"
      "shutdown_timeout: 30\n");
  CHECK(checked.code == kExitRefused);
  CHECK(checked.output ==
        "lope.yaml:3:3: error: groups.a: expected 'handler', found none\n"
        "lope.yaml:3:8: error: groups.a: unknown key 'handlr': did you mean 'handler'?\n"
        "lope.yaml:3:31: error: groups.a.prefetch: expected a whole number from 1 to 65535, found "
        "0: 0 would be "
        "no limit, and all messages of the queue would come at once\n"
        "lope.yaml:4:19: error: shutdown_timeout: expected a duration with a unit (ms, s, m, h, "
        "d), from 0s to 1d, "
        "found 30: write the unit, as in 30s\n"
        "lope.yaml:1:16: warning: broker.url: URL: a password stands in this file: better "
        "broker.password with "
        "{credential: NAME}, {file: PATH} or {env: NAME}\n");
}

TEST_CASE("check names each group's handler and queues", "[process][config]") {
  const Checked checked = check_text(kHandlers +
                                     "groups:\n"
                                     "  hello: { handler: log }\n"
                                     "  tasks: { handler: dots, queues: [one, two] }\n");
  CHECK(checked.code == kExitOk);
  CHECK(checked.output ==
        "group 'hello': ok handler log 1.0.0 queue hello\n"
        "group 'tasks': ok handler dots 1.0.0 queue one, two\n");
}

TEST_CASE("the shipped configurations pass the check", "[process][config]") {
  const TempDir dir;
  for (const std::string name : {"lope.yaml", "small.yaml"}) {
    const std::string path =
        dir.write(name, kHandlers + read_file(LOPE_SOURCE_DIR "/config/" + name));
    const RunResult result = check(path);
    INFO(result.output);
    CHECK(result.status == exited(kExitOk));
    CHECK_THAT(result.output,
               Catch::StartsWith("group 'hello': ok handler log 1.0.0 queue hello\n"));
  }
}

TEST_CASE("check holds options against the handler's table", "[process][config]") {
  struct Row {
    std::string group, problem;
  };
  const auto row = GENERATE(values<Row>({
      {"{ handler: log, options: { max_bdy: 5 } }",
       "lope.yaml:3:33: error: group 'a': option 'max_bdy': handler 'log' takes no such option: "
       "did you mean 'max_body'?"},
      {"{ handler: log, options: { x: { y: [1] } } }",
       "lope.yaml:3:38: error: group 'a': option 'x.y.0': handler 'log' takes no such option"},
      {"{ handler: log, options: { max_body: lots } }",
       "lope.yaml:3:33: error: group 'a': option 'max_body': expected an integer of at least 0, "
       "found 'lots'"},
      {"{ handler: log, options: { max_body: -1 } }",
       "lope.yaml:3:33: error: group 'a': option 'max_body': expected an integer of at least 0, "
       "found '-1'"},
      {"{ handler: \"null\", options: { x: 1 } }",
       "lope.yaml:3:36: error: group 'a': option 'x': handler 'null' takes no such option"},
  }));
  const Checked checked = check_text(kHandlers + "groups:\n  a: " + row.group + "\n");
  CHECK(checked.code == kExitRefused);
  CHECK(checked.output == row.problem + "\ngroup 'a': refused\n");
}

TEST_CASE("check misses required options and shows no secret ones", "[process][config]") {
  const Checked missing = check_text(kTestHandlers + "groups:\n  a: { handler: append_id }\n");
  CHECK(missing.code == kExitRefused);
  CHECK_THAT(missing.output,
             Catch::StartsWith(
                 "lope.yaml:3:17: error: group 'a': option 'file': expected a value, found none"));
  const Checked secret = check_text(
      kTestHandlers + "groups:\n  a: { handler: frozen_1_0, options: { pin: hunter2 } }\n");
  CHECK(secret.code == kExitRefused);
  CHECK_THAT(
      secret.output,
      Catch::Contains("option 'pin': expected an integer of at least 0, found something else"));
  CHECK_THAT(secret.output, !Catch::Contains("hunter2"));
}

TEST_CASE("a group whose handler is refused does not hide the others", "[process][config]") {
  struct Row {
    std::string handler, problem;
  };
  const auto row = GENERATE(values<Row>({
      {"no_such_file", "expected a file, found none"},
      {"../frozen_1_0", "expected a plain file name"},
      {"no_symbol", "expected the symbol lope_plugin_v1"},
      {"newer_minor", "expected a handler for host ABI 1."},
      {"aborting_constructor", "expected a file that loads, found SIGABRT while loading it"},
      {"throwing_constructor", "expected constructors that return"},
  }));
  const Checked checked = check_text(kTestHandlers + "groups:\n  a: { handler: " + row.handler +
                                     " }\n  b: { handler: frozen_1_0 }\n");
  INFO(checked.output);
  CHECK(checked.code == kExitRefused);
  CHECK_THAT(checked.output, Catch::Contains("lope.yaml:3:17: error: group 'a': handler '"));
  CHECK_THAT(checked.output, Catch::Contains(row.problem));
  CHECK_THAT(
      checked.output,
      Catch::Contains("\ngroup 'a': refused\ngroup 'b': ok handler frozen_1_0 1.0.0 queue b\n"));
}

TEST_CASE("check says what the user gives up by choice", "[process][config]") {
  const Checked checked = check_text(
      kHandlers +
      "groups:\n"
      "  a: { handler: log, auto_ack: true, declare: { exclusive: true, auto_delete: true, "
      "durable: false } }\n"
      "  b: { handler: log, declare: { arguments: { x-dead-letter-exchange: dead } } }\n");
  CHECK(checked.code == kExitOk);
  CHECK_THAT(checked.output,
             Catch::Contains("group 'a': note: auto_ack: a message is acked when it is handed"));
  CHECK_THAT(checked.output, Catch::Contains("group 'a': note: queue 'a': auto_delete: "));
  CHECK_THAT(checked.output, Catch::Contains("group 'a': note: queue 'a': exclusive: "));
  CHECK_THAT(checked.output, Catch::Contains("group 'a': note: queue 'a': not durable: "));
  CHECK_THAT(checked.output,
             Catch::Contains("group 'a': note: queue 'a': no x-dead-letter-exchange: "));
  CHECK_THAT(checked.output, !Catch::Contains("group 'b': note"));
}

TEST_CASE("check --json is one object with everything in it", "[process][config]") {
  const TempDir dir;
  const auto check_json = [&](const std::string& text) {
    const RunResult result =
        run_lope({"check", "--json", "--config", dir.write("lope.yaml", text)});
    INFO(result.output);
    auto json = nlohmann::json::parse(result.output);
    CHECK(result.status == exited(json.at("ok") == true ? kExitOk : kExitRefused));
    return json;
  };
  const auto good = check_json(
      kHandlers + "broker: amqp://app:x@mq\ngroups: { a: { handler: log, auto_ack: true } }");
  CHECK(good.at("ok") == true);
  CHECK(good.at("errors").empty());
  CHECK(good.at("warnings").at(0).at("line") == 2);
  CHECK(good.at("groups").at(0).at("name") == "a");
  CHECK(good.at("groups").at(0).at("ok") == true);
  CHECK(good.at("groups").at(0).at("queues") == nlohmann::json{"a"});
  CHECK(good.at("groups").at(0).at("handler").at("version") == "1.0.0");
  CHECK(good.at("groups").at(0).at("notes").size() == 1);

  const auto refused = check_json(
      kHandlers + "groups: { a: { handler: log, options: { x: 1 } }, b: { handler: y } }");
  CHECK(refused.at("ok") == false);
  REQUIRE(refused.at("errors").size() == 2);
  CHECK(refused.at("errors").at(0).at("file") == dir.file("lope.yaml"));
  CHECK(refused.at("errors").at(0).at("column") == 41);
  CHECK(refused.at("groups").at(1).at("handler").is_null());

  const auto broken = check_json("groups: [");
  CHECK(broken.at("ok") == false);
  CHECK(broken.at("errors").at(0).at("line") == 1);
  CHECK(broken.at("groups").empty());
}

TEST_CASE("a handler does not see the variable that held the password", "[process][config]") {
  const TempDir dir;
  dir.write("lope.yaml", kTestHandlers +
                             "broker: { user: app, password: { env: LOPE_TEST_PASSWORD } }\n"
                             "groups: { a: { handler: hanging_constructor } }\n");
  ProcessOptions options;
  options.env = {{"LOPE_TEST_PASSWORD", "hunter2"}, {"LOPE_TEST_OTHER", "seen"}};
  Process process({LOPE_BIN_DIR "/lope", "check", "--config", dir.file("lope.yaml")}, options);
  std::string environment;
  REQUIRE(eventually(10s, [&] {
    for (const ProcessInfo& child : children_of(process.pid())) {
      if (child.command.find("--inspect") == std::string::npos) continue;
      environment = read_file("/proc/" + std::to_string(child.pid) + "/environ");
    }
    return !environment.empty();
  }));
  CHECK(environment.find("LOPE_TEST_OTHER=seen") != std::string::npos);
  CHECK(environment.find("LOPE_TEST_PASSWORD") == std::string::npos);
  CHECK(environment.find("hunter2") == std::string::npos);
}

TEST_CASE("lope check needs no credential, and lope check --broker does", "[process][config]") {
  const TempDir dir;
  dir.write("lope.yaml", kHandlers +
                             "broker: { user: app, password: { credential: broker-password } }\n"
                             "groups: { a: { handler: log } }\n");
  ProcessOptions options;
  options.directory = dir.path();
  const RunResult checked = run_lope({"check", "--config", "lope.yaml"}, options);
  CHECK(checked.status == exited(kExitOk));
  CHECK_THAT(checked.output,
             Catch::StartsWith("lope.yaml:2:46: note: broker.password: the credential "
                               "'broker-password' is there for the service alone: it was not "
                               "read\ngroup 'a': ok handler log "));
  const RunResult asked = run_lope({"check", "--broker", "--config", "lope.yaml"}, options);
  CHECK(asked.status == exited(kExitRefused));
  CHECK_THAT(asked.output, Catch::Contains("expected $CREDENTIALS_DIRECTORY"));
}

TEST_CASE("the examples of the manual are as it says", "[process][config]") {
  const std::string manual = read_file(LOPE_SOURCE_DIR "/docs/configuration.md");
  const auto block = [&](const std::string& before, const std::string& fence) {
    const std::size_t start = manual.find(fence, manual.find(before)) + fence.size();
    return manual.substr(start, manual.find("```", start) - start);
  };
  const TempDir dir;
  ProcessOptions options;
  options.directory = dir.path();
  dir.write("bad.yaml", block("With this `bad.yaml`", "```yaml\n"));
  const RunResult bad = run_lope({"check", "--config", "bad.yaml"}, options);
  CHECK(bad.status == exited(kExitRefused));
  CHECK("$ lope check --config bad.yaml\n" + bad.output == block("`lope check` says", "```text\n"));

  // Its handlers are the reader's own: only the configuration is judged.
  dir.write("broker-password", "x");
  dir.write("fuller.yaml", block("## A fuller one", "```yaml\n"));
  const RunResult fuller = run_lope({"check", "--config", "fuller.yaml"}, options);
  CHECK_THAT(fuller.output, Catch::Contains("group 'login-sync': "));
  CHECK_THAT(fuller.output, Catch::Contains("group 'mail': "));

  dir.write("smallest.yaml", kHandlers + block("## The smallest", "```yaml\n"));
  CHECK(run_lope({"check", "--config", "smallest.yaml"}, options).status == exited(kExitOk));
}

// ---- The command line ----------------------------------------------------------------------

TEST_CASE("help and version answer on standard output", "[process][config]") {
  const auto output = [](std::vector<std::string> arguments) {
    std::vector<std::string> argv = {"/bin/sh", "-c", "exec \"$@\" 2>/dev/null", "sh",
                                     LOPE_BIN_DIR "/lope"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    const RunResult result = run(argv);
    CHECK(result.status == exited(kExitOk));
    return result.output;
  };
  CHECK_THAT(output({"--version"}), Catch::Matches("lope [0-9]+\\.[0-9]+\\.[0-9]+\n"));
  const std::string help = output({"--help"});
  for (const char* command : {"run", "check", "inspect", "publish"}) {
    CHECK_THAT(help, Catch::Contains("\n  " + std::string(command) + " "));
    CHECK_THAT(output({command, "--help"}), Catch::Contains("Usage: "));
  }
  CHECK_THAT(output({"run", "--help"}), Catch::Contains("/etc/lope/lope.yaml"));
}

TEST_CASE("a command line that is not understood has an exit code of its own",
          "[process][config]") {
  struct Row {
    std::vector<std::string> arguments;
    const char* text;
  };
  const auto row = GENERATE(values<Row>({
      {{}, "subcommand is required"},
      {{"chek"}, "unknown command 'chek': did you mean 'check'?"},
      {{"publsh"}, "did you mean 'publish'?"},
      {{"xyz"}, "unknown command 'xyz'; see lope --help"},
      {{"check", "extra"}, "extra"},
      {{"run", "--confg", "x"}, "--confg"},
      {{"inspect"}, "file is required"},
      {{"new"}, "name is required"},
  }));
  const RunResult result = run_lope(row.arguments);
  INFO(result.output);
  CHECK(result.status == exited(kExitUsage));
  CHECK_THAT(result.output, Catch::Contains(row.text));
}

TEST_CASE("inspect prints JSON too", "[process][config]") {
  const RunResult good = run_lope({"inspect", "--json", LOPE_HANDLERS_BUILD_DIR "/log.so"});
  CHECK(good.status == exited(kExitOk));
  CHECK(nlohmann::json::parse(good.output).at("name") == "log");
}
