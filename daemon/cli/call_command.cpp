// `lope call`: its command line.
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "cli/broker_choice.h"
#include "cli/call.h"
#include "cli/client_commands.h"
#include "common/units.h"

namespace lope::cli {

namespace {

using namespace std::chrono_literals;

constexpr const char* kCommand = "lope call";

constexpr const char* kHelp =
    R"(The reply's body is written as it came. The reply comes straight to this connection, no queue is
made for it; what replies must take reply-to and the correlation id from the request. A request
that nobody has taken within the timeout is dropped by its queue. )";
constexpr const char* kExitCodes = R"(

Exit codes: 0 a reply came, 1 none came, 2 command line not understood, 75 no broker could be
logged in to, 78 configuration refused.
)";

struct CallCommand {
  CallOptions options;
  BrokerChoice broker;
  MessageChoice message;
  std::string timeout;
};

void describe(CLI::App& app, CallCommand& command) {
  app.footer(std::string(kHelp) + kBrokerHelp + kExitCodes);
  add_message_options(app, command.message);
  app.add_option("--timeout", command.timeout, "Wait so long for the reply (5s)")
      ->option_text("DURATION");
  add_broker_options(app, command.broker);
  app.add_option("--content-type", command.options.request.content_type, "Such as application/json")
      ->option_text("TEXT");
  app.add_flag("--json", command.options.json,
               "Print an object with the reply's properties and body");
}

int call_command(const CLI::App& app, CallCommand& command) {
  CallOptions& options = command.options;
  PublishOptions& request = options.request;
  if (auto taken = take_message(app, command.message, request); !taken) {
    return usage_error(kCommand, taken.error());
  }
  if (app.count("--timeout") > 0) {
    const auto timeout = parse_duration(command.timeout);
    if (!timeout) return usage_error(kCommand, "--timeout: " + timeout.error());
    if (*timeout < 1ms || *timeout > 24h) {
      return usage_error(kCommand,
                         "--timeout: expected 1ms to 1d, found '" + command.timeout + "'");
    }
    options.timeout = *timeout;
  }
  if (auto checked = check(request); !checked) return usage_error(kCommand, checked.error());

  auto found = find_broker(command.broker, kCommand);
  if (const int* code = std::get_if<int>(&found)) return *code;
  request.broker = std::move(std::get<ChosenBroker>(found).broker);
  return call(options);
}

}  // namespace

RunCommand add_call(CLI::App& app) {
  auto command = std::make_shared<CallCommand>();
  describe(app, *command);
  return [&app, command] { return call_command(app, *command); };
}

}  // namespace lope::cli
