#include "supervisor/reload.h"

#include <algorithm>
#include <utility>

namespace lope::supervisor {

namespace {

constexpr std::size_t kProbesAtOnce = 4;

const GroupSettings* group_in(const Settings& settings, const std::string& name) {
  const auto found = std::ranges::find(settings.groups, name, &GroupSettings::name);
  return found == settings.groups.end() ? nullptr : &*found;
}

}  // namespace

Reload::Reload(EventLoop& loop, const Programs& programs, const std::string& config,
               const Settings& current, std::vector<std::string> environment, Done done)
    : loop_(loop),
      programs_(programs),
      only_handlers_(config.empty()),
      current_(current),
      environment_(std::move(environment)),
      done_(std::move(done)) {
  auto child = LoadChild::start(loop, programs.lope, config, current,
                                [this](const Result<LoadReport>& report) { on_loaded(report); });
  if (child) {
    loading_ = std::move(*child);
  } else {
    on_loaded(Error{child.error()});
  }
}

void Reload::on_loaded(const Result<LoadReport>& report) {
  if (!report) {
    verdict_.errors.push_back(report.error());
  } else {
    verdict_.errors = report->errors;
    verdict_.warnings = report->warnings;
    verdict_.settings = report->settings;
  }
  if (verdict_.errors.empty()) choose_probes();
  probe_some();
}

void Reload::choose_probes() {
  std::vector<GroupSettings>& groups = verdict_.settings.groups;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    GroupSettings& group = groups[i];
    const GroupSettings* const before = group_in(current_, group.name);
    const bool had_one = before != nullptr && before->handler_missing.empty();
    if (!group.handler_missing.empty() && had_one) {
      if (before->handler == group.handler && !before->handler_copy.empty()) {
        keep_old(i, group.handler_missing);
      } else {
        verdict_.errors.push_back("group '" + group.name + "': " + group.handler_missing);
      }
    }
    const bool same_schema = before != nullptr && before->content.schema == group.content.schema;
    if (!group.handler_missing.empty()) {  // a group that has none waits for it
      if (!same_schema && !group.content.schema.empty()) to_probe_.push_back(i);
      continue;
    }
    const bool same = had_one && before->handler == group.handler &&
                      before->handler_hash == group.handler_hash &&
                      before->options == group.options && same_schema &&
                      current_.handlers_dir == verdict_.settings.handlers_dir;
    if (!same) to_probe_.push_back(i);
  }
}

void Reload::probe_some() {
  while (verdict_.errors.empty() && probing_ < kProbesAtOnce && !to_probe_.empty()) {
    const std::size_t group = to_probe_.back();
    to_probe_.pop_back();
    auto probe = HandlerProbe::start(
        loop_, programs_.worker, verdict_.settings, verdict_.settings.groups[group], environment_,
        [this, group](const std::string& reason) { on_probed(group, reason); });
    if (!probe) {
      verdict_.errors.push_back(probe.error());
      break;
    }
    ++probing_;
    probes_.push_back(std::move(*probe));
  }
  if (probing_ == 0) finish();
}

void Reload::on_probed(std::size_t group, const std::string& reason) {
  --probing_;
  if (!reason.empty()) {
    if (only_handlers_) {
      keep_old(group, reason);
    } else {
      verdict_.errors.push_back(reason);
    }
  }
  probe_some();
}

void Reload::keep_old(std::size_t index, const std::string& reason) {
  GroupSettings& group = verdict_.settings.groups[index];
  const GroupSettings* const before = group_in(current_, group.name);
  verdict_.warnings.push_back(reason);
  if (before == nullptr) return;
  group.handler_hash = before->handler_hash;
  group.handler_copy = before->handler_copy;
  group.handler_missing = before->handler_missing.empty() ? std::string() : reason;
}

void Reload::finish() {
  if (std::exchange(over_, true)) return;
  const Done done = std::move(done_);
  done(verdict_);
}

}  // namespace lope::supervisor
