#include "cli/trial.h"

#include <sys/epoll.h>
#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "cli/message_json.h"
#include "cli/programs.h"
#include "common/clock.h"
#include "common/content_type.h"
#include "common/json.h"
#include "common/log.h"
#include "common/scoreboard.h"
#include "common/spawn.h"
#include "common/text.h"
#include "common/units.h"
#include "common/worker_settings.h"
#include "consumer/copies.h"
#include "consumer/orphans.h"
#include "consumer/retry_policy.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

using namespace std::chrono_literals;
using consumer::Delivery;
namespace header = consumer::header;

constexpr auto kAbortGrace = 1s;    // from SIGABRT, which leaves a backtrace, to SIGKILL
constexpr auto kLinkGrace = 200ms;  // an ending process closes its link a little before it is gone
constexpr auto kEndingGrace = 5s;   // for destroy()
constexpr std::size_t kWindow = 256;  // given ahead while repeating, and at most so many bytes
constexpr std::size_t kWindowBytes = 64 << 20;
constexpr std::size_t kMostLines = 1000;  // kept of one attempt
constexpr int kMostDeathsInVain = 10;

// The numbers of the ABI, as they travel.
constexpr std::int32_t kAck = 1, kRetry = 2, kReject = 3;

std::string header_json(const HeaderView& header) {
  switch (header.kind) {
    case HeaderKind::boolean: return header.bits != 0 ? "true" : "false";
    case HeaderKind::int64: return std::to_string(static_cast<std::int64_t>(header.bits));
    case HeaderKind::uint64:
    case HeaderKind::timestamp: return std::to_string(header.bits);
    case HeaderKind::real: {
      double real = 0;
      std::memcpy(&real, &header.bits, sizeof real);
      return to_json(AmqpValue{real});
    }
    case HeaderKind::text:
    case HeaderKind::bytes: return json_quote(header.value);
    case HeaderKind::null:
    case HeaderKind::other: break;
  }
  return "null";
}

// `payload`: of a publish frame.
TrialAttempt::Publication publication_of(const std::string& payload, const Received& cause) {
  TrialAttempt::Publication made;
  const auto decoded = decode_publication(payload);
  if (!decoded) {
    made.json = "{\"error\":" + json_quote(decoded.error()) + "}";
    return made;
  }
  const PublicationView& view = *decoded;
  made.reply = view[TextProperty::exchange].empty() && !cause.reply_to.empty() &&
               view[TextProperty::routing_key] == cause.reply_to;
  made.json = "{\"exchange\":" + json_quote(view[TextProperty::exchange]) +
              ",\"routing_key\":" + json_quote(view[TextProperty::routing_key]);
  const auto text = [&](const char* name, TextProperty property) {
    if (!view[property].empty()) {
      made.json += ",\"" + std::string(name) + "\":" + json_quote(view[property]);
    }
  };
  const auto number = [&](const char* name, std::uint64_t value) {
    if (value > 0) made.json += ",\"" + std::string(name) + "\":" + std::to_string(value);
  };
  text("message_id", TextProperty::message_id);
  text("content_type", TextProperty::content_type);
  text("content_encoding", TextProperty::content_encoding);
  text("correlation_id", TextProperty::correlation_id);
  text("reply_to", TextProperty::reply_to);
  text("type", TextProperty::type);
  number("priority", view.priority);
  number("expiration_ms", view.expiration_ms);
  number("delay_ms", view.delay_ms);
  if ((view.flags & kPublicationTransient) != 0) made.json += ",\"persistent\":false";
  if ((view.flags & kPublicationMayBeUnroutable) != 0 && !made.reply) {
    made.json += ",\"may_be_unroutable\":true";
  }
  std::string headers;
  std::string_view rest = view.headers;
  while (const auto each = next_header(rest)) {
    headers += (headers.empty() ? "" : ",") + json_quote(each->name) + ":" + header_json(*each);
  }
  if (!headers.empty()) made.json += ",\"headers\":{" + headers + "}";
  made.json += "," + body_json(view.body) + "}";
  return made;
}

// Not negative: that would be for ever.
std::chrono::microseconds time_to(TimePoint when) {
  const auto left = std::chrono::ceil<std::chrono::microseconds>(when - Clock::now());
  return std::max(left, std::chrono::microseconds(0));
}

}  // namespace

const char* to_string(TrialOutcome outcome) {
  switch (outcome) {
    case TrialOutcome::ack: return "ack";
    case TrialOutcome::retry: return "retry";
    case TrialOutcome::reject: return "reject";
    case TrialOutcome::hold: return "hold";
    case TrialOutcome::crash: return "crash";
    case TrialOutcome::timeout: return "timeout";
    case TrialOutcome::expired: return "expired";
    case TrialOutcome::too_large: return "too-large";
    case TrialOutcome::refused: return "refused";
  }
  return "?";
}

// ---- Beginning -----------------------------------------------------------------------------

Trial::Trial(TrialSettings settings) : settings_(std::move(settings)), began_unix_ms_(unix_ms()) {}

Result<std::unique_ptr<Trial>> Trial::create(TrialSettings settings) {
  std::unique_ptr<Trial> trial(new Trial(std::move(settings)));
  if (auto set = trial->set_up(); !set) return Error{set.error()};
  return trial;
}

Result<void> Trial::set_up() {
  const auto worker = program_path("lope-worker");
  if (!worker) return Error{worker.error()};
  auto program = open_program(settings_.under.empty() ? *worker : "/usr/bin/env");
  if (!program) return Error{program.error()};
  program_ = std::move(*program);
  auto wake = make_eventfd();
  if (!wake) return Error{wake.error()};
  wake_ = std::move(*wake);
  auto loop = EventLoop::create();
  if (!loop) return Error{loop.error()};
  loop_ = std::move(*loop);
  auto source = loop_->watch_fd(wake_.get(), EPOLLIN | EPOLLET, [](std::uint32_t) {});
  if (!source) return Error{source.error()};
  wake_source_ = std::move(*source);
  const auto watch = [this](int signal, EventSource& kept,
                            std::function<void(int, int)> callback) -> Result<void> {
    auto made = loop_->watch_signal(signal, std::move(callback));
    if (!made) return Error{made.error()};
    kept = std::move(*made);
    return {};
  };
  // A debugger on our terminal has its own use for SIGINT.
  const bool debugs = !settings_.under.empty() && settings_.under.front() == "gdb";
  const auto interrupt = [this, debugs](int signal, int) {
    if (!debugs || signal != SIGINT) interrupted_ = true;
  };
  if (auto set = watch(SIGINT, interrupt_source_, interrupt); !set) return set;
  if (auto set = watch(SIGTERM, terminate_source_, interrupt); !set) return set;
  if (auto set = watch(SIGHUP, hang_up_source_, interrupt); !set) return set;
  if (auto set = watch(SIGCHLD, child_source_, [](int, int) {}); !set) return set;
  // Whoever reads what we write may go: then what was started is still to be ended.
  std::signal(SIGPIPE, SIG_IGN);
  // What a handler leaves behind comes to us.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  return {};
}

Trial::~Trial() {
  if (process_ == nullptr) return;
  process_->kill(SIGKILL);
  bury_worker();
}

bool Trial::start_worker() {
  WorkerSettings worker =
      worker_settings(settings_.group, settings_.handlers_dir, settings_.max_message_bytes, 0);
  worker.threads = 1;
  consumer::WorkerProcess::Start start;
  start.program_fd = program_.get();
  start.wake_fd = wake_.get();
  start.title = settings_.group.name + "/0";
  start.settings_json = to_json(worker);
  std::vector<std::string> kept_back = settings_.secret_env;
  for (const char* const each :
       {consumer::kWorkerIdVariable, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
    kept_back.emplace_back(each);
  }
  start.environment = environment_without(kept_back);
  start.log_level = settings_.log_level;
  if (!settings_.under.empty()) {
    start.under = {"env"};
    start.under.insert(start.under.end(), settings_.under.begin(), settings_.under.end());
    start.under.push_back(program_path("lope-worker").value());
  }
  ready_ = exited_ = flush_asked_ = probing_ = said_refused_ = false;
  ended_.clear();
  link_trouble_.clear();
  said_failed_.clear();
  kill_at_ = TimePoint::max();
  lines_.reset();
  auto started = consumer::WorkerProcess::start(
      *loop_, start,
      {.on_ready =
           [this](const consumer::HandlerIdentity& identity) {
             handler_ = identity;
             ready_ = true;
             ready_due_ = TimePoint::max();
             process_->set_can_flush(identity.has_flush);
           },
       .on_failed =
           [this](bool refused, std::string_view reason) {
             said_refused_ = refused;
             said_failed_ = reason;
           },
       .on_log = [this](LogLevel level, std::string_view text) { hear(level_name(level), text); },
       .on_keep_alive =
           [this](std::uint64_t sequence) {
             if (Delivery* held = table_.find(sequence)) held->alive = Clock::now();
           },
       .on_output = [this](bool is_stderr,
                           std::string_view line) { hear(is_stderr ? "stderr" : "stdout", line); },
       .on_link_lost =
           [this](std::string_view reason) {
             if (process_->link_closed()) return;
             link_trouble_ = reason;
             const auto grace = said_failed_.empty() ? Milliseconds(kLinkGrace) : kEndingGrace;
             kill_at_ = std::min(kill_at_, Clock::now() + grace);
           },
       .on_exit = [this] { exited_ = true; }});
  if (!started) {
    fail(false, started.error());
    return false;
  }
  process_ = std::move(*started);
  ready_due_ = has_limits() ? Clock::now() + settings_.group.start_timeout : TimePoint::max();
  return true;
}

void Trial::fail(bool refused, std::string reason) {
  if (!failure_) failure_ = Failure{refused, false, std::move(reason)};
}

void Trial::hear(std::string source, std::string_view text) {
  if (rate_ != nullptr) return;
  auto& lines = lines_ != nullptr ? *lines_ : other_lines_;
  if (lines.size() > kMostLines) return;
  if (lines.size() == kMostLines) {
    lines.push_back({"lope", "… and more lines, which are not kept"});
    return;
  }
  lines.push_back({std::move(source), std::string(text)});
}

std::uint64_t Trial::unix_now_ms() const {
  return began_unix_ms_ + static_cast<std::uint64_t>(now_.count());
}

// ---- The loop ------------------------------------------------------------------------------

std::optional<Trial::Failure> Trial::run(std::vector<Received> messages,
                                         const OnResult& on_result) {
  on_result_ = on_result;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    entries_.push_back(std::make_unique<Entry>());
    Entry& entry = *entries_.back();
    entry.message = std::move(messages[i]);
    entry.result.message = i;
    queue_.emplace(now_, &entry);
  }
  unfinished_ = entries_.size();
  return go_on([this] { return unfinished_ == 0; }, [this] { feed(); });
}

std::optional<Trial::Failure> Trial::repeat(std::vector<Received> messages, std::uint64_t count,
                                            TrialRate& rate) {
  rate_ = &rate;
  std::uint64_t given = 0;
  TimePoint began{};
  const std::size_t batch =
      settings_.group.batch_size > 1 ? static_cast<std::size_t>(settings_.group.batch_size) : 1;
  std::size_t largest = 1;
  for (const Received& message : messages) largest = std::max(largest, message.body.size());
  // As many entries as are given ahead, again and again.
  const std::size_t window = std::clamp<std::size_t>(kWindowBytes / largest, 1, kWindow);
  for (std::size_t i = 0; i < std::max(window, 2 * batch); ++i) {
    entries_.push_back(std::make_unique<Entry>());
    entries_.back()->result.message = i;
  }
  std::vector<Entry*> free;
  for (const auto& entry : entries_) free.push_back(entry.get());
  on_result_ = [&free, this](const TrialResult& result) {
    free.push_back(entries_[result.message].get());
  };
  const auto more = [&] {
    if (given == 0) began = Clock::now();
    if (use_up()) return;
    // First those that are run again.
    while (!queue_.empty() && !probing_) {
      Entry* const again = queue_.begin()->second;
      queue_.erase(queue_.begin());
      give({again});
    }
    const std::size_t size = handler_.has_batch ? batch : 1;
    while (given < count && !probing_ && free.size() >= size && has_room(size)) {
      std::vector<Entry*> call;
      for (; call.size() < size && given < count; ++given) {
        Entry* const entry = free.back();
        free.pop_back();
        entry->message = messages[given % messages.size()];
        call.push_back(entry);
      }
      unfinished_ += call.size();
      give(call);
    }
    const bool only_held = process_->held() > 0 && process_->held() == process_->in_flight();
    if (only_held) settle_held(given == count || probing_);
  };
  auto failure = go_on([&] { return given == count && unfinished_ == 0; }, more);
  rate.elapsed = last_over_ - began;
  rate.messages = rate.took_ns.size();
  std::sort(rate.took_ns.begin(), rate.took_ns.end());
  rate_ = nullptr;
  on_result_ = nullptr;
  return failure;
}

std::optional<Trial::Failure> Trial::go_on(const std::function<bool()>& done,
                                           const std::function<void()>& feed) {
  if (settings_.whole_limit.count() > 0) ends_at_ = Clock::now() + settings_.whole_limit;
  while (!done() && !failure_ && !interrupted_) {
    if (process_ == nullptr && !start_worker()) break;
    const bool can_take = ready_ && !exited_ && ended_.empty() && link_trouble_.empty();
    if (can_take) feed();
    if (process_ == nullptr) continue;  // it was used up
    process_->flush(table_);
    const TimePoint until = next_look();
    // With nothing in the worker, all that was fed has ended here: there is more, or it is done.
    const bool at_once = process_->announce_sleep() || (can_take && process_->in_flight() == 0);
    std::optional<std::chrono::microseconds> pause;
    if (until != TimePoint::max()) pause = time_to(until);
    if (at_once) pause = std::chrono::microseconds(0);
    if (auto ran = loop_->run_once(pause); !ran) fail(false, ran.error());
    process_->announce_awake();
    if (exited_) {
      on_death();
      continue;
    }
    collect();
    if (has_limits()) end_late();
    const TimePoint now = Clock::now();
    if (now >= ends_at_) {
      fail(false, "it took longer than " + duration_text(settings_.whole_limit) + " in all");
    }
    if (now >= ready_due_) {
      ended_ = "handler '" + settings_.group.handler + "': expected to become ready within " +
               std::to_string(settings_.group.start_timeout.count()) + " ms, found it hanging " +
               to_string(process_->stage());
      ready_due_ = TimePoint::max();
      kill_at_ = now;
    }
    if (now >= kill_at_) {
      if (ended_.empty()) ended_ = link_trouble_;
      process_->kill(SIGKILL);
      kill_at_ = TimePoint::max();
    }
  }
  if (process_ != nullptr && (interrupted_ || failure_)) process_->kill(SIGKILL);
  end_worker();
  if (interrupted_ && !failure_) failure_ = Failure{false, true, "interrupted"};
  return failure_;
}

// When there is something to do although nothing has happened.
TimePoint Trial::next_look() {
  TimePoint next = std::min({ready_due_, kill_at_, ends_at_});
  if (flush_asked_ && handler_.has_flush && !process_->last_flush_asked()) {
    const TimePoint last = quiet_since_ + settings_.group.flush_interval;
    if (last > Clock::now()) next = std::min(next, last);
  }
  const auto limit = settings_.group.timeout;
  if (!has_limits() || limit.count() == 0) return next;
  const TimePoint now = Clock::now();
  const std::uint64_t now_ns = monotonic_ns();
  const auto limit_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(limit).count());
  const auto late = process_->late(table_, now_ns, limit_ns);
  if (late.thread >= 0 && ended_.empty()) return now;
  if (late.next_ns != 0)
    next = std::min(next, now + std::chrono::nanoseconds(late.next_ns - now_ns));
  // What has not begun yet may begin at any moment.
  if (process_->calls() > 0 && late.next_ns == 0) next = std::min(next, now + limit);
  table_.for_each([&](const Delivery& delivery) {
    if (delivery.state == Delivery::State::held) next = std::min(next, delivery.alive + limit);
  });
  return next;
}

// ---- Giving --------------------------------------------------------------------------------

// As much may be with a handler as in a group: its queue's prefetch, or a batch.
bool Trial::has_room(std::size_t size) const {
  const auto prefetch = static_cast<std::size_t>(settings_.group.queues.front().prefetch);
  const bool in_window =
      rate_ != nullptr || process_->in_flight() + size <= std::max(prefetch, size);
  return in_window && process_->owed() + size <= kMaxOwed;
}

// A worker that has flushed for the last time, or has one alone, gets nothing more; when it has
// nothing left, it ends. True: there is nothing to be given now.
bool Trial::use_up() {
  const bool waits_for_fresh =
      !queue_.empty() && queue_.begin()->second->alone && process_->given() > 0;
  const bool used_up = process_->last_flush_asked() || probing_ || waits_for_fresh;
  if (!used_up) return false;
  if (process_->in_flight() > process_->held()) return true;
  if (process_->held() > 0) {
    settle_held(true);
  } else {
    end_worker();
  }
  return true;
}

// One call of the handler at a time: what it says meanwhile belongs to that.
void Trial::feed() {
  if (process_->calls() > 0 || use_up()) return;
  const bool nothing_is_due = queue_.empty() || queue_.begin()->first > now_;
  const std::size_t size = handler_.has_batch && settings_.group.batch_size > 1
                               ? static_cast<std::size_t>(settings_.group.batch_size)
                               : 1;
  if (process_->held() > 0 && (nothing_is_due || !has_room(1))) {
    settle_held(nothing_is_due);
    return;
  }
  if (queue_.empty()) return;
  now_ = std::max(now_, queue_.begin()->first);
  std::vector<Entry*> call;
  while (call.size() < size && !queue_.empty() && queue_.begin()->first <= now_) {
    if (!call.empty() && !has_room(call.size() + 1)) break;
    Entry* const next = queue_.begin()->second;
    if (next->alone && !call.empty()) break;
    queue_.erase(queue_.begin());
    call.push_back(next);
    if (next->alone) break;
  }
  give(call);
}

void Trial::give(const std::vector<Entry*>& entries) {
  auto lines = std::make_shared<std::vector<TrialAttempt::Line>>();
  std::vector<Delivery*> deliveries;
  for (Entry* const entry : entries) {
    entry->attempt = {};
    entry->attempt.at = now_;
    entry->lines.reset();
    Delivery& delivery = deliver(*entry);
    if (delivery.expires_ms != 0 && delivery.expires_ms <= unix_now_ms()) {
      finish(delivery, {TrialOutcome::expired, "it came after its expiration"});
    } else if (delivery.body_size > static_cast<std::uint64_t>(settings_.group.max_body_bytes)) {
      finish(delivery, {TrialOutcome::too_large, "its body is larger than max_body"});
    } else if (const auto& accept = settings_.group.content.accept;
               !accept.empty() && !is_accepted(accept, entry->message.content_type)) {
      finish(delivery, {.outcome = TrialOutcome::refused,
                        .reason = unaccepted_text(accept, entry->message.content_type),
                        .code = consumer::dead_code::kContentType});
    } else {
      entry->lines = lines;
      entry->is_first_of_call = deliveries.empty();
      probing_ = probing_ || entry->alone;
      deliveries.push_back(&delivery);
    }
  }
  if (deliveries.empty()) return;
  lines_ = std::move(lines);
  process_->give(table_, deliveries);
  flush_asked_ = false;
  quiet_since_ = last_given_ = Clock::now();
}

Trial::Delivery& Trial::deliver(Entry& entry) {
  Delivery& delivery = table_.allocate();
  entries_by_delivery_[delivery.index] = &entry;
  Received& message = entry.message;
  delivery.queue = 0;
  delivery.epoch = 1;
  delivery.tag = message.tag = ++last_tag_;
  delivery.redelivered = message.redelivered;
  delivery.late = delivery.alone = false;
  delivery.arrived = entry.given = Clock::now();
  delivery.body_size = message.body.size();
  const std::string& queue = settings_.group.queues.front().name;
  ByteBuffer headers;
  DeliveryView view = delivery_view(message, headers);
  if (message.exchange.empty() && message.routing_key.empty()) {
    view[TextProperty::routing_key] = queue;
  }
  view.received_unix_ns = unix_now_ms() * 1'000'000;
  (void)consumer::take_travel(view, delivery);
  view[TextProperty::queue] = queue;
  view[TextProperty::consumer_tag] = "lope-try";
  entry.attempt.number = delivery.attempt;
  if (message.body.size() >= consumer::kSharedBody) {
    delivery.body = table_.bodies().take(message.body.size());
  }
  if (delivery.body != nullptr) view.segment = delivery.body->id;
  char* to = encode_delivery(view, message.body.size(), delivery.frame);
  if (delivery.body != nullptr) to = delivery.body->data;
  std::copy(message.body.begin(), message.body.end(), to);
  return delivery;
}

// Nothing more comes until some of what the handler keeps is settled: it hears so. `at_last`:
// nothing more comes at all. When it does not help then, it is its last chance, as at a drain.
void Trial::settle_held(bool at_last) {
  if (process_->last_flush_done()) {
    for (Delivery* const held : process_->take_held(table_)) {
      finish(*held, {TrialOutcome::hold, "kept; at a drain it is handed back to its queue"});
    }
    end_worker();
    return;
  }
  if (process_->last_flush_asked() || !handler_.has_flush) return;
  if (!flush_asked_) {
    flush_asked_ = true;
    table_.for_each([this](const Delivery& delivery) {
      if (delivery.state == Delivery::State::held) lines_ = entry_of(delivery).lines;
    });
    quiet_since_ = Clock::now();
    process_->ask_flush(FlushReason::window_full);
  } else if (at_last && Clock::now() >= quiet_since_ + settings_.group.flush_interval) {
    process_->ask_last_flush();
  }
}

// ---- Outcomes ------------------------------------------------------------------------------

void Trial::collect(bool after_death) {
  Outcome outcome;
  bool listened = false;
  while (process_->next_outcome(table_, outcome, after_death)) {
    if (!std::exchange(listened, true)) process_->listen();
    on_outcome(outcome);
  }
  if (process_->in_flight() == 0) lines_.reset();
}

void Trial::on_outcome(Outcome& outcome) {
  Delivery& delivery = *outcome.delivery;
  if (outcome.not_started) {
    put_back(delivery);
    return;
  }
  Entry& entry = entry_of(delivery);
  if (outcome.held) {
    delivery.alive = Clock::now();
    return;
  }
  entry.attempt.took = std::chrono::nanoseconds(outcome.duration_ns);
  if (outcome.settled) {
    entry.attempt.took = Clock::now() - entry.given;
    quiet_since_ = Clock::now();
    flush_asked_ = false;
  }
  if (outcome.refused) {
    const auto why = static_cast<Refusal>(outcome.outcome);
    finish(delivery, {.outcome = TrialOutcome::refused,
                      .reason = outcome.reason,
                      .code = consumer::code_of(why)});
    return;
  }
  const auto or_else = [&outcome](std::string text) {
    return outcome.reason.empty() ? std::move(text) : outcome.reason;
  };
  switch (outcome.outcome) {
    case kAck:
      finish(delivery, {TrialOutcome::ack, outcome.reason}, std::move(outcome.publications));
      return;
    case kReject: finish(delivery, {TrialOutcome::reject, outcome.reason}); return;
    case kRetry:
      finish(delivery, {TrialOutcome::retry, outcome.reason, outcome.retry_after});
      return;
    case 0: finish(delivery, {TrialOutcome::retry, or_else("the handler gave no outcome")}); return;
    default:
      finish(delivery, {TrialOutcome::retry, or_else("the handler gave an unknown outcome, " +
                                                     std::to_string(outcome.outcome))});
  }
}

void Trial::finish(Delivery& delivery, const Ending& ending,
                   std::vector<std::string> publications) {
  Entry& entry = entry_of(delivery);
  entries_by_delivery_.erase(delivery.index);
  const bool begun = ending.outcome != TrialOutcome::expired &&
                     ending.outcome != TrialOutcome::too_large &&
                     ending.outcome != TrialOutcome::refused;
  if (rate_ != nullptr) {
    if (begun) rate_->took_ns.push_back(static_cast<std::uint64_t>(entry.attempt.took.count()));
    ++rate_->outcomes[ending.outcome];
    table_.free(delivery);
    over(entry);
    return;
  }
  TrialAttempt attempt = std::move(entry.attempt);
  entry.attempt = {};
  attempt.outcome = ending.outcome;
  attempt.reason = ending.reason;
  attempt.lines = std::exchange(entry.earlier_lines, {});
  if (entry.lines != nullptr) {
    attempt.lines.insert(attempt.lines.end(), entry.lines->begin(), entry.lines->end());
  }
  attempt.is_first_of_call = entry.is_first_of_call;
  for (const std::string& each : publications) {
    attempt.publications.push_back(publication_of(each, entry.message));
  }
  ++entry.made;
  bool again = false;
  std::chrono::milliseconds delay{0};
  switch (ending.outcome) {
    case TrialOutcome::ack:
    case TrialOutcome::hold: break;
    case TrialOutcome::reject: attempt.dead_code = consumer::dead_code::kRejected; break;
    case TrialOutcome::expired: attempt.dead_code = consumer::dead_code::kExpired; break;
    case TrialOutcome::too_large: attempt.dead_code = consumer::dead_code::kTooLarge; break;
    case TrialOutcome::refused: attempt.dead_code = ending.code; break;
    case TrialOutcome::retry:
    case TrialOutcome::crash:
    case TrialOutcome::timeout: {
      if (settings_.group.auto_ack) {
        attempt.reason += (attempt.reason.empty() ? "" : "; ") + std::string("given up: auto_ack");
        break;
      }
      const bool crashed = ending.outcome == TrialOutcome::crash;
      const auto decision = consumer::decide_retry(
          settings_.group.retry, settings_.group.crashes,
          {delivery.attempt, delivery.crashes + (crashed ? 1 : 0), crashed, ending.asked}, 0.0);
      attempt.dead_code = decision.dead_code;
      if (decision.dead_code.empty()) {
        attempt.again_after = delay = decision.delay;
        again = entry.made < static_cast<std::uint32_t>(settings_.attempts);
      }
    }
  }
  entry.result.attempts.push_back(std::move(attempt));
  if (again) {
    send_again(entry, delivery, delay, ending);
    table_.free(delivery);
    queue_.emplace(now_ + delay, &entry);
    return;
  }
  table_.free(delivery);
  over(entry);
}

void Trial::over(Entry& entry) {
  --unfinished_;
  last_over_ = Clock::now();
  on_result_(entry.result);
  // There may be very many.
  entry.message = {};
  entry.alone = false;
  entry.made = 0;
  entry.result.attempts = {};
  entry.lines.reset();
  entry.earlier_lines = {};
}

// The message as its copy would come from the queue.
void Trial::send_again(Entry& entry, const Delivery& delivery, Milliseconds delay,
                       const Ending& ending) {
  entry.alone = false;
  Received& message = entry.message;
  const auto view = decode_delivery(delivery.frame.bytes());
  if (!view) return;  // it is our own frame
  const bool crashed = ending.outcome == TrialOutcome::crash;
  AmqpTable fresh = consumer::retry_headers(
      delivery, *view, message.headers, delivery.crashes + (crashed ? 1 : 0),
      {delivery.attempt, unix_now_ms(), settings_.group.name + "/0 on trial", ending.reason});
  if (delay.count() > 0) {
    const std::uint64_t due = unix_now_ms() + static_cast<std::uint64_t>(delay.count());
    fresh.emplace_back(std::string(header::kDue), AmqpValue{static_cast<std::int64_t>(due)});
  }
  std::erase_if(message.headers, [&fresh](const AmqpEntry& entry_) {
    return find(fresh, entry_.first) != nullptr ||
           std::ranges::find(header::kOfATrip, entry_.first) != header::kOfATrip.end();
  });
  std::move(fresh.begin(), fresh.end(), std::back_inserter(message.headers));
  message.exchange.clear();
  message.routing_key = settings_.group.queues.front().name;
  message.expiration.clear();
  message.user_id.clear();
  message.persistent = true;
  message.redelivered = false;
}

// Not charged: it is the next that is given to another worker.
void Trial::put_back(Delivery& delivery, const std::string& why_alone) {
  Entry& entry = entry_of(delivery);
  entries_by_delivery_.erase(delivery.index);
  table_.free(delivery);
  entry.alone = !why_alone.empty();
  if (entry.lines != nullptr && rate_ == nullptr) {
    if (entry.is_first_of_call) entry.earlier_lines = *entry.lines;
    if (entry.alone) entry.earlier_lines.push_back({"lope", why_alone});
  }
  const Milliseconds due = queue_.empty() ? now_ : std::min(now_, queue_.begin()->first);
  queue_.emplace_hint(queue_.begin(), due, &entry);
}

// ---- Ending --------------------------------------------------------------------------------

void Trial::end_late() {
  const auto limit = settings_.group.timeout;
  if (limit.count() == 0 || !ended_.empty() || process_ == nullptr) return;
  const std::string took = " took longer than " + std::to_string(limit.count()) + " ms";
  const auto limit_ns = static_cast<std::uint64_t>(std::chrono::nanoseconds(limit).count());
  const auto late = process_->late(table_, monotonic_ns(), limit_ns);
  if (late.thread >= 0) {
    for (Delivery* const delivery : late.deliveries) delivery->late = true;
    if (late.flush) {
      table_.for_each([](Delivery& delivery) {
        if (delivery.state == Delivery::State::held) delivery.late = true;
      });
    }
    ended_ =
        std::string(late.flush ? "timeout: flush() of its handler" : "timeout: its handler") + took;
    process_->abort_thread(late.thread);
    kill_at_ = Clock::now() + kAbortGrace;
    return;
  }
  const TimePoint now = Clock::now();
  // A process that was stopped, or whose threads are stuck outside of any call.
  if (process_->calls() > 0 && process_->oldest_start_ns() == 0 && now >= last_given_ + limit) {
    ended_ = "timeout: it has not begun what it was given within " + std::to_string(limit.count()) +
             " ms";
    kill_at_ = now;
    return;
  }
  std::vector<Delivery*> held;
  table_.for_each([&](Delivery& delivery) {
    if (delivery.state == Delivery::State::held && now >= delivery.alive + limit) {
      held.push_back(&delivery);
    }
  });
  for (Delivery* const delivery : held) {
    process_->revoke(*delivery);
    entry_of(*delivery).attempt.took = now - entry_of(*delivery).given;
    finish(*delivery, {TrialOutcome::timeout, "timeout: its handler kept it for longer than " +
                                                  std::to_string(limit.count()) + " ms"});
  }
}

void Trial::on_death() {
  process_->listen();
  collect(true);
  auto remains = process_->remains(table_);
  const bool was_ready = ready_;
  const auto end = process_->bury();
  const std::string how = end ? end->to_string() : end.error();
  const WorkerStage stage = process_->stage();
  process_.reset();
  sweep();
  if (!was_ready) {
    if (!said_failed_.empty()) {
      fail(said_refused_, said_failed_);
    } else if (!ended_.empty()) {
      fail(false, ended_);
    } else if (!has_limits()) {
      fail(false, how == "exit 127"
                      ? "'" + settings_.under.front() + "' cannot be run: is it installed?"
                      : settings_.under.front() + " has ended before the handler was ready");
    } else {
      fail(false, "handler '" + settings_.group.handler +
                      "': expected to become ready, found its worker dead by " + how + " while " +
                      to_string(stage));
    }
    return;
  }
  // One that dies whenever it is left alone would be started for ever.
  deaths_in_vain_ = remains.running.empty() ? deaths_in_vain_ + 1 : 0;
  if (deaths_in_vain_ == kMostDeathsInVain) {
    fail(false, "handler '" + settings_.group.handler + "': its worker died " +
                    std::to_string(kMostDeathsInVain) + " times with no message inside, last by " +
                    how);
  }
  // The last first: each is put in front.
  for (auto each = remains.waiting.rbegin(); each != remains.waiting.rend(); ++each)
    put_back(**each);
  charge(std::move(remains.running), remains.flushing, how);
}

// Of several that a worker died with, each is run alone, so that only the guilty one is charged.
void Trial::charge(std::vector<Delivery*> running, bool flushing, const std::string& how) {
  const bool timed_out = ended_.starts_with("timeout");
  const bool several = !timed_out && running.size() + (flushing ? 1 : 0) > 1;
  std::sort(running.begin(), running.end(),
            [](const Delivery* a, const Delivery* b) { return a->sequence > b->sequence; });
  const std::string together = "its worker died (" + how + ") with " +
                               std::to_string(running.size()) +
                               " messages inside: this one is run again, alone";
  for (Delivery* const delivery : running) {
    Entry& entry = entry_of(*delivery);
    entry.attempt.took = Clock::now() - entry.given;
    if (timed_out && !delivery->late) {
      put_back(*delivery);
    } else if (several && !entry.alone) {
      put_back(*delivery, together);
    } else if (timed_out) {
      finish(*delivery, {TrialOutcome::timeout, ended_});
    } else {
      finish(*delivery, {TrialOutcome::crash,
                         "its worker died: " + how + (ended_.empty() ? "" : " (" + ended_ + ")")});
    }
  }
}

// In good order: destroy() runs.
void Trial::end_worker() {
  if (process_ == nullptr) return;
  lines_.reset();
  process_->close_link();
  const TimePoint until = has_limits() ? Clock::now() + settings_.ending_limit : TimePoint::max();
  while (!exited_ && !interrupted_ && Clock::now() < until) {
    std::optional<std::chrono::microseconds> left;
    if (has_limits()) left = time_to(until);
    if (auto ran = loop_->run_once(left); !ran) break;
  }
  const bool hangs = !exited_;
  if (hangs) process_->kill(SIGKILL);
  const auto end = process_->bury();
  const std::string how = end ? end->to_string() : end.error();
  if (!failure_ && !interrupted_ && ready_ && (hangs || how != "exit 0")) {
    ending_trouble_ =
        hangs ? "it did not end within " + duration_text(settings_.ending_limit) : how;
  }
  process_.reset();
  sweep();
}

void Trial::bury_worker() {
  (void)process_->bury();
  process_.reset();
  sweep();
}

// Ends what the handler has started and left: all children that there are.
void Trial::sweep() {
  while (consumer::sweep_orphans({}, consumer::WithoutId::killed) > 0) {
    if (auto ran = loop_->run_once(100ms); !ran) return;
  }
}

}  // namespace lope::cli
