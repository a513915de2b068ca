// `lope check`: the configuration, then each group's handler and the options it gets.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string_view>

#include "cli/commands.h"
#include "cli/inspect.h"
#include "common/exit_code.h"
#include "common/json.h"
#include "common/log.h"
#include "common/option_kind.h"
#include "common/spawn.h"
#include "common/text.h"

namespace lope::cli {

namespace {

using supervisor::ConfigPlace;
using supervisor::ConfigProblem;
using supervisor::GroupPlaces;
using supervisor::LoadedSettings;

// What came out for one group.
struct GroupReport {
  const GroupSettings* group = nullptr;
  Result<PluginDescription> plugin = Error{};
  std::vector<ConfigProblem> errors;
  std::vector<std::string> notes;
};

void check_options(const PluginDescription& plugin, const GroupPlaces& places,
                   GroupReport& report) {
  if (plugin.takes_any_option) return;
  const GroupSettings& group = *report.group;
  const auto error = [&](const ConfigPlace& place, const std::string& option,
                         const std::string& text) {
    report.errors.push_back(
        {place.file, place.line, place.column,
         "group '" + group.name + "': option '" + escape(option, 128) + "': " + text});
  };
  std::vector<std::string_view> known;
  for (const auto& option : plugin.options) known.emplace_back(option.name);
  for (std::size_t i = 0; i < group.options.size(); ++i) {
    const auto& [name, value] = group.options[i];
    const std::size_t place = option_for(known, name);
    if (place == known.size()) {
      const std::string near = nearest(name, known);
      error(places.options[i], name,
            "handler '" + escape(plugin.name, 128) + "' takes no such option" +
                (near.empty() ? "" : ": did you mean '" + escape(near, 128) + "'?"));
      continue;
    }
    const PluginDescription::Option& option = plugin.options[place];
    const std::string_view expected = expected_instead(option.kind, value);
    if (expected.empty()) continue;
    error(places.options[i], name,
          "expected " + std::string(expected) + ", found " +
              (option.secret ? "something else" : "'" + escape(value, 128) + "'"));
  }
  for (const auto& option : plugin.options) {
    if (!option.required) continue;
    const bool given = std::ranges::any_of(
        group.options, [&](const auto& entry) { return option_covers(option.name, entry.first); });
    if (!given)
      error(places.handler, option.name, "expected a value, found none: the handler requires it");
  }
}

// What the user gives up by choice, for each choice.
std::vector<std::string> notes_of(const GroupSettings& group) {
  std::vector<std::string> notes;
  if (group.auto_ack) {
    notes.emplace_back(
        "auto_ack: a message is acked when it is handed to a worker: if the handler fails or the "
        "worker dies it is lost");
  }
  int window = 0;
  for (const QueueSettings& queue : group.queues) window += queue.prefetch;
  if (window < group.workers * group.threads) {
    notes.push_back("prefetch " + std::to_string(window) + " is less than workers x threads, " +
                    std::to_string(group.workers * group.threads) +
                    ": no more messages than that are handled at a time");
  }
  if (window < group.batch_size) {
    notes.push_back("prefetch " + std::to_string(window) + " is less than batch.size, " +
                    std::to_string(group.batch_size) + ": no batch is larger than that");
  }
  for (const QueueSettings& queue : group.queues) {
    if (!queue.declare) continue;
    const std::string subject = "queue '" + escape(queue.name, 256) + "': ";
    const DeclareSettings& declaration = queue.declaration;
    if (declaration.auto_delete) {
      notes.push_back(
          subject +
          "auto_delete: the broker deletes it with all its messages when its last consumer goes");
    }
    if (declaration.exclusive) {
      notes.push_back(
          subject +
          "exclusive: the broker deletes it with all its messages when the connection closes");
    }
    if (!declaration.durable) {
      notes.push_back(subject +
                      "not durable: it and its messages do not survive a restart of the broker");
    }
    const bool has_exchange = find(declaration.arguments, "x-dead-letter-exchange") != nullptr;
    if (!has_exchange && group.dead_letter.to == DeadLetterSettings::To::automatic) {
      notes.push_back(subject + "no x-dead-letter-exchange: what is given up goes to queue '" +
                      escape(queue.name, 250) + ".dead'; dead_letter changes that");
    }
  }
  return notes;
}

std::string queue_names(const GroupSettings& group) {
  std::string text;
  for (const QueueSettings& queue : group.queues) {
    text += (text.empty() ? "" : ", ") + escape(queue.name, 256);
  }
  return text;
}

std::vector<GroupReport> judge_groups(const LoadedSettings& loaded, int worker_program_fd) {
  const Settings& settings = loaded.settings;
  const auto env = environment_without(settings.secret_env);
  // Groups that share a handler share its description.
  std::map<std::string, Result<PluginDescription>> plugins;
  std::map<std::string, Result<std::vector<std::string>>> schemas;
  std::vector<GroupReport> reports;
  for (std::size_t i = 0; i < settings.groups.size(); ++i) {
    const GroupSettings& group = settings.groups[i];
    const GroupPlaces& places = loaded.places[i];
    auto plugin = plugins.find(group.handler);
    if (plugin == plugins.end()) {
      plugin = plugins
                   .emplace(group.handler, inspect_plugin(worker_program_fd, settings.handlers_dir,
                                                          group.handler, env))
                   .first;
    }
    GroupReport report;
    report.group = &group;
    report.plugin = plugin->second;
    report.notes = notes_of(group);
    if (!group.content.schema.empty()) {
      auto judged = schemas.find(group.content.schema);
      if (judged == schemas.end()) {
        judged = schemas
                     .emplace(group.content.schema,
                              check_schema(worker_program_fd, group.content.schema, env))
                     .first;
      }
      const std::string subject = "validate: '" + escape(group.content.schema_file, 4096) + "': ";
      if (judged->second) {
        for (const std::string& note : *judged->second) report.notes.push_back(subject + note);
      } else {
        const ConfigPlace& place = places.schema;
        report.errors.push_back(
            {place.file, place.line, place.column,
             "group '" + group.name + "': " + subject + judged->second.error()});
      }
    }
    if (report.plugin) {
      check_options(*report.plugin, places, report);
      if (group.batch_size > 1 && !report.plugin->has_batch) {
        report.notes.emplace_back(
            "batch: the handler has no handle_batch(): it gets its messages one by one");
      }
    } else {
      report.errors.push_back({places.handler.file, places.handler.line, places.handler.column,
                               "group '" + group.name + "': " + report.plugin.error()});
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

const char* word_for(LogLevel level) {
  if (level == LogLevel::error) return "error: ";
  return level == LogLevel::warn ? "warning: " : "note: ";
}

void print_problem(const ConfigProblem& problem, LogLevel level) {
  ConfigProblem shown = problem;
  shown.file = escape(shown.file, 4096);
  shown.text = word_for(level) + shown.text;
  std::fprintf(stderr, "%s%s\n", journal_prefix(level).c_str(), shown.to_string().c_str());
}

void print_reports(const std::vector<GroupReport>& reports) {
  for (const GroupReport& report : reports) {
    for (const ConfigProblem& problem : report.errors) print_problem(problem, LogLevel::error);
  }
  std::fflush(stderr);
  for (const GroupReport& report : reports) {
    const std::string& name = report.group->name;
    if (!report.errors.empty()) {
      std::printf("group '%s': refused\n", name.c_str());
    } else {
      std::printf("group '%s': ok handler %s %s queue %s\n", name.c_str(),
                  escape(report.plugin->name, 128).c_str(),
                  escape(report.plugin->version, 64).c_str(), queue_names(*report.group).c_str());
    }
    for (const std::string& note : report.notes) {
      std::printf("group '%s': note: %s\n", name.c_str(), note.c_str());
    }
  }
}

template <typename T, typename Convert>
std::string json_list(const std::vector<T>& values, Convert convert) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? "," : "") + convert(value);
  return text + "]";
}

std::string problems_json(const std::vector<ConfigProblem>& problems) {
  return json_list(problems, [](const ConfigProblem& problem) {
    return "{\"file\":" + json_quote(problem.file) + ",\"line\":" + std::to_string(problem.line) +
           ",\"column\":" + std::to_string(problem.column) +
           ",\"text\":" + json_quote(problem.text) + "}";
  });
}

std::string report_json(const GroupReport& report) {
  return "{\"name\":" + json_quote(report.group->name) +
         ",\"ok\":" + (report.errors.empty() ? "true" : "false") + ",\"queues\":" +
         json_list(report.group->queues,
                   [](const QueueSettings& queue) { return json_quote(queue.name); }) +
         ",\"handler\":" + (report.plugin ? to_json(*report.plugin) : "null") + ",\"notes\":" +
         json_list(report.notes, [](const std::string& note) { return json_quote(note); }) + "}";
}

void print_json(const LoadedSettings& loaded, const std::vector<GroupReport>& reports) {
  std::vector<ConfigProblem> errors = loaded.errors;
  for (const GroupReport& report : reports) {
    errors.insert(errors.end(), report.errors.begin(), report.errors.end());
  }
  std::printf("{\"ok\":%s,\"errors\":%s,\"warnings\":%s,\"notes\":%s,\"groups\":%s}\n",
              errors.empty() ? "true" : "false", problems_json(errors).c_str(),
              problems_json(loaded.warnings).c_str(), problems_json(loaded.notes).c_str(),
              json_list(reports, report_json).c_str());
}

}  // namespace

void print_problems(const LoadedSettings& loaded) {
  for (const ConfigProblem& problem : loaded.errors) print_problem(problem, LogLevel::error);
  for (const ConfigProblem& problem : loaded.warnings) print_problem(problem, LogLevel::warn);
  for (const ConfigProblem& problem : loaded.notes) print_problem(problem, LogLevel::info);
}

int check_command(const std::string& config_path, bool json, bool broker) {
  const LoadedSettings loaded = supervisor::load_settings(
      config_path, broker ? supervisor::Passwords::read : supervisor::Passwords::of_service);
  if (!json) print_problems(loaded);
  std::vector<GroupReport> reports;
  if (loaded.errors.empty()) {
    const auto program = open_worker_program();
    if (!program) {
      std::fprintf(stderr, "lope: %s\n", program.error().c_str());
      return kExitFailed;
    }
    reports = judge_groups(loaded, program->get());
    if (!json) print_reports(reports);
  }
  if (json) print_json(loaded, reports);
  const bool refused =
      !loaded.errors.empty() || std::ranges::any_of(reports, [](const GroupReport& report) {
        return !report.errors.empty();
      });
  return refused ? kExitRefused : kExitOk;
}

}  // namespace lope::cli
