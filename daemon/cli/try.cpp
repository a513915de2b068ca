#include "cli/try.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <utility>

#include "common/exit_code.h"
#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"

namespace lope::cli {

namespace {

constexpr const char* kCommand = "lope try";

// From the best to the worst.
constexpr std::pair<TrialOutcome, int> kExitCodes[] = {
    {TrialOutcome::ack, kExitOk}, {TrialOutcome::hold, 3},    {TrialOutcome::retry, 4},
    {TrialOutcome::reject, 5},    {TrialOutcome::expired, 5}, {TrialOutcome::too_large, 5},
    {TrialOutcome::refused, 5},   {TrialOutcome::timeout, 6}, {TrialOutcome::crash, 7},
};

std::string time_text(std::chrono::nanoseconds time) {
  char text[40];
  const auto ns = static_cast<double>(time.count());
  if (ns < 1e6) {
    std::snprintf(text, sizeof text, "%.3g us", ns / 1e3);
  } else if (ns < 1e9) {
    std::snprintf(text, sizeof text, "%.3g ms", ns / 1e6);
  } else {
    std::snprintf(text, sizeof text, "%.3g s", ns / 1e9);
  }
  return text;
}

std::string fate_text(const TrialAttempt& attempt) {
  if (attempt.again_after) {
    return attempt.again_after->count() == 0
               ? "; it comes again at once"
               : "; it comes again after " + duration_text(*attempt.again_after);
  }
  return attempt.dead_code.empty() ? "" : "; it is a dead letter (" + attempt.dead_code + ")";
}

constexpr std::size_t kSourceColumns = 8;

std::string lines_text(const std::vector<TrialAttempt::Line>& lines) {
  std::string text;
  for (const auto& line : lines) {
    std::string start = "    " + line.source;
    for (std::size_t at = 0; at <= line.text.size();) {
      const std::size_t end = std::min(line.text.find('\n', at), line.text.size());
      start.resize(4 + kSourceColumns, ' ');
      text += start + harmless(std::string_view(line.text).substr(at, end - at)) + "\n";
      start.clear();
      at = end + 1;
    }
  }
  return text;
}

std::string attempt_text(std::size_t message, const TrialAttempt& attempt) {
  std::string text = "message " + std::to_string(message + 1);
  if (attempt.number > 1) text += ", attempt " + std::to_string(attempt.number);
  if (attempt.at.count() > 0) text += ", " + duration_text(attempt.at) + " later";
  text += std::string(": ") + to_string(attempt.outcome);
  if (attempt.took.count() > 0) text += ", " + time_text(attempt.took);
  if (!attempt.reason.empty()) text += ": " + escape(attempt.reason);
  text += fate_text(attempt) + "\n";
  if (attempt.is_first_of_call) text += lines_text(attempt.lines);
  for (const auto& publication : attempt.publications) {
    text += (publication.reply ? "    reply   " : "    publish ") + publication.json + "\n";
  }
  return text;
}

std::string lines_json(const std::vector<TrialAttempt::Line>& lines) {
  std::string json = "[";
  for (const auto& line : lines) {
    json += (json.size() > 1 ? "," : "") + std::string("{\"source\":\"") + line.source +
            "\",\"text\":" + json_quote(line.text) + "}";
  }
  return json + "]";
}

std::string result_json(const TrialResult& result) {
  std::string json = "{\"message\":" + std::to_string(result.message + 1) + ",\"outcome\":\"" +
                     to_string(result.attempts.back().outcome) + "\",\"attempts\":[";
  for (std::size_t i = 0; i < result.attempts.size(); ++i) {
    json += (i > 0 ? "," : "") + attempt_json(result.attempts[i]);
  }
  return json + "]}";
}

double percentile_us(const std::vector<std::uint64_t>& sorted, double fraction) {
  if (sorted.empty()) return 0;
  const auto index = static_cast<std::size_t>(fraction * static_cast<double>(sorted.size()));
  return static_cast<double>(sorted[std::min(index, sorted.size() - 1)]) / 1e3;
}

void print_rate(const TrialRate& rate, bool json) {
  const double seconds = std::chrono::duration<double>(rate.elapsed).count();
  const double per_second = seconds > 0 ? static_cast<double>(rate.messages) / seconds : 0;
  std::string outcomes;
  for (const auto& [outcome, count] : rate.outcomes) {
    outcomes += (outcomes.empty() ? "" : json ? "," : ", ");
    outcomes += json ? "\"" + std::string(to_string(outcome)) + "\":" + std::to_string(count)
                     : std::to_string(count) + " " + to_string(outcome);
  }
  const double p50 = percentile_us(rate.took_ns, 0.5), p90 = percentile_us(rate.took_ns, 0.9),
               p99 = percentile_us(rate.took_ns, 0.99), most = percentile_us(rate.took_ns, 1);
  std::printf(json ? "{\"messages\":%llu,\"seconds\":%.3f,\"per_second\":%.0f,\"took_us\":{"
                     "\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"most\":%.2f},\"outcomes\":{%s}}\n"
                   : "%llu messages in %.3f s: %.0f/s, with one handler instance\n"
                     "in the handler, us: p50 %.2f, p90 %.2f, p99 %.2f, most %.2f\n"
                     "outcomes: %s\n",
              static_cast<unsigned long long>(rate.messages), seconds, per_second, p50, p90, p99,
              most, outcomes.c_str());
}

int worse(int one, int other) { return std::max(one, other); }

}  // namespace

std::string attempt_json(const TrialAttempt& attempt) {
  char took[40];
  std::snprintf(took, sizeof took, "%.2f", static_cast<double>(attempt.took.count()) / 1e3);
  std::string json = "{\"attempt\":" + std::to_string(attempt.number) +
                     ",\"at_ms\":" + std::to_string(attempt.at.count()) + ",\"outcome\":\"" +
                     to_string(attempt.outcome) + "\",\"reason\":" + json_quote(attempt.reason) +
                     ",\"took_us\":" + took;
  if (attempt.again_after) {
    json += ",\"again_after_ms\":" + std::to_string(attempt.again_after->count());
  }
  if (!attempt.dead_code.empty()) json += ",\"dead_letter\":\"" + attempt.dead_code + "\"";
  std::string published, replied;
  for (const auto& each : attempt.publications) {
    std::string& list = each.reply ? replied : published;
    list += (list.empty() ? "" : ",") + each.json;
  }
  return json + ",\"publications\":[" + published + "],\"replies\":[" + replied +
         "],\"lines\":" + lines_json(attempt.lines) + "}";
}

int exit_code_of(TrialOutcome outcome) {
  for (const auto& [each, code] : kExitCodes) {
    if (each == outcome) return code;
  }
  return kExitFailed;
}

int try_handler(TryOptions options) {
  // What a handler leaves behind is ended, and not worth a line here.
  if (auto opened =
          open_log({.level = LogLevel::error, .format = LogFormat::text, .file = {}}, "lope");
      !opened) {
    std::fprintf(stderr, "%s: %s\n", kCommand, opened.error().c_str());
    return kExitFailed;
  }
  auto trial = Trial::create(std::move(options.settings));
  if (!trial) {
    std::fprintf(stderr, "%s: %s\n", kCommand, trial.error().c_str());
    return kExitFailed;
  }
  int code = kExitOk;
  int write_error = 0;
  std::optional<Trial::Failure> failure;
  if (options.repeat > 0) {
    TrialRate rate;
    failure = (*trial)->repeat(std::move(options.messages), options.repeat, rate);
    if (!failure || rate.messages > 0) print_rate(rate, options.json);
    for (const auto& [outcome, count] : rate.outcomes) code = worse(code, exit_code_of(outcome));
  } else {
    failure = (*trial)->run(std::move(options.messages), [&](const TrialResult& result) {
      code = worse(code, exit_code_of(result.attempts.back().outcome));
      std::string text;
      if (options.json) {
        text = result_json(result) + "\n";
      } else {
        for (const auto& attempt : result.attempts) text += attempt_text(result.message, attempt);
      }
      const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
      if (!written || std::fflush(stdout) != 0) {
        write_error = errno;
        (*trial)->stop();
      }
    });
  }
  const auto& other = (*trial)->other_lines();
  if (!other.empty() && !options.json)
    std::printf("without a message\n%s", lines_text(other).c_str());
  if (options.json && !other.empty()) std::printf("{\"lines\":%s}\n", lines_json(other).c_str());
  if (std::fflush(stdout) != 0 && write_error == 0) write_error = errno;
  if (write_error != 0) {
    std::fprintf(stderr, "%s: %s\n", kCommand, errno_text("standard output", write_error).c_str());
    return kExitFailed;
  }
  if (failure) {
    std::fprintf(stderr, "%s: %s\n", kCommand, escape(failure->reason, 4096).c_str());
    if (failure->interrupted) return 128 + SIGINT;
    return failure->refused ? kExitRefused : kExitFailed;
  }
  if (const std::string& trouble = (*trial)->ending_trouble(); !trouble.empty()) {
    std::fprintf(stderr, "%s: the handler does not end well: %s\n", kCommand, trouble.c_str());
    return worse(code, exit_code_of(TrialOutcome::crash));
  }
  return code;
}

}  // namespace lope::cli
