#include "supervisor/settings_loader.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include "common/broker_url.h"
#include "common/content_type.h"
#include "common/control_path.h"
#include "common/fd.h"
#include "common/json.h"
#include "common/patience.h"
#include "common/postgres_url.h"
#include "common/redis_url.h"
#include "common/text.h"
#include "common/units.h"
#include "common/wall_time.h"
#include "supervisor/listen_address.h"
#include "supervisor/standard_folder.h"
#include "supervisor/yaml_tree.h"

namespace lope::supervisor {

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

// ---- Keys ----------------------------------------------------------------------------------

constexpr std::string_view kFileKeys[] = {
    "broker",        "handlers_dir", "state_dir", "watch",   "shutdown_timeout",
    "ready_timeout", "log",          "delays",    "control", "monitor",
    "journal",       "telemetry",    "defaults",  "groups",  "include"};
constexpr std::string_view kIncludedKeys[] = {"groups"};
constexpr std::string_view kBrokerKeys[] = {"url",
                                            "urls",
                                            "user",
                                            "password",
                                            "heartbeat",
                                            "connect_timeout",
                                            "consumer_timeout",
                                            "max_message_size",
                                            "login",
                                            "tls"};
constexpr std::string_view kTlsKeys[] = {"ca", "certificate", "key", "server_name", "insecure"};
constexpr std::string_view kLoginWords[] = {"plain", "external"};
constexpr std::string_view kPasswordKeys[] = {"credential", "file", "env"};
constexpr std::string_view kLogKeys[] = {"level", "format", "file"};
constexpr std::string_view kDelaysKeys[] = {"prefix", "relay", "retry", "give_up"};
constexpr std::string_view kControlKeys[] = {"socket"};
constexpr std::string_view kMonitorKeys[] = {"listen", "journal"};
constexpr std::string_view kDefaultsKeys[] = {
    "prefetch", "workers", "threads", "auto_ack",    "max_body", "start_timeout",
    "timeout",  "retry",   "crashes", "dead_letter", "breaker",  "recycle",
    "accept",   "decode",  "charset", "compress",    "dedup"};
constexpr std::string_view kGroupKeys[] = {
    "queue",
    "queues",
    "handler",
    "options",
    "workers",
    "threads",
    "prefetch",
    "consumer_tag",
    "auto_ack",
    "max_body",
    "consumer_arguments",
    "declare",
    "type",
    "offset",
    "start_timeout",
    "batch",
    "flush_interval",
    "timeout",
    "retry",
    "crashes",
    "dead_letter",
    "breaker",
    "recycle",
    "accept",
    "decode",
    "charset",
    "validate",
    "compress",
    "dedup",
    "journal",
    "order_by",
    "order",
    "rate",
    "priority",
};
constexpr std::string_view kRateKeys[] = {"per_second", "burst"};
constexpr std::string_view kWorkersKeys[] = {"min", "max"};
constexpr std::string_view kRecycleKeys[] = {"messages", "memory", "age"};
constexpr std::string_view kBatchKeys[] = {"size", "wait"};
constexpr std::string_view kDecodeKeys[] = {"max_size"};
constexpr std::string_view kCompressKeys[] = {"encoding", "min_size"};
constexpr std::string_view kRetryKeys[] = {"attempts", "delay", "backoff", "max_delay", "jitter"};
constexpr std::string_view kDeadLetterKeys[] = {"exchange", "key", "queue", "declare", "type"};
constexpr std::string_view kBreakerKeys[] = {"failures", "outcomes", "period", "pause",
                                             "max_pause"};
constexpr std::string_view kJournalKeys[] = {"exchange", "key",     "confirm",
                                             "bodies",   "headers", "secret_headers"};
constexpr std::string_view kBodiesKeys[] = {"max"};
constexpr std::string_view kTelemetryKeys[] = {"endpoint", "sample", "service_name", "headers",
                                               "timeout"};
constexpr std::string_view kDedupKeys[] = {"key", "window", "store", "on_store_failure",
                                           "min_interval"};
constexpr std::string_view kDedupStoreKeys[] = {"url"};
constexpr std::string_view kMinIntervalKeys[] = {"every", "then"};
constexpr std::string_view kQueueKeys[] = {
    "name",     "prefetch", "consumer_tag", "consumer_arguments",
    "priority", "declare",  "type",         "offset",
};
constexpr std::string_view kDeclareKeys[] = {
    "type",    "durable",      "exclusive", "auto_delete", "max_priority", "max_bytes",
    "max_age", "segment_size", "arguments", "exchanges",   "bind",
};
constexpr std::string_view kExchangeKeys[] = {"name",        "type",     "durable",
                                              "auto_delete", "internal", "arguments"};
constexpr std::string_view kBindKeys[] = {"exchange", "key", "arguments"};

constexpr KnownKeys kKnownKeys[] = {
    {"file", kFileKeys},         {"included file", kIncludedKeys},
    {"broker", kBrokerKeys},     {"password", kPasswordKeys},
    {"log", kLogKeys},           {"defaults", kDefaultsKeys},
    {"group", kGroupKeys},       {"queue", kQueueKeys},
    {"declare", kDeclareKeys},   {"exchange", kExchangeKeys},
    {"bind", kBindKeys},         {"batch", kBatchKeys},
    {"retry", kRetryKeys},       {"dead_letter", kDeadLetterKeys},
    {"breaker", kBreakerKeys},   {"delays", kDelaysKeys},
    {"control", kControlKeys},   {"monitor", kMonitorKeys},
    {"recycle", kRecycleKeys},   {"workers", kWorkersKeys},
    {"rate", kRateKeys},         {"decode", kDecodeKeys},
    {"compress", kCompressKeys}, {"journal", kJournalKeys},
    {"bodies", kBodiesKeys},     {"telemetry", kTelemetryKeys},
    {"dedup", kDedupKeys},       {"tls", kTlsKeys},
};

constexpr std::string_view kLaterGroupKeys[] = {
    "consumer_timeout",
    "filter",
};

// ---- Limits --------------------------------------------------------------------------------

constexpr std::size_t kMaxShortString = 255;  // AMQP's names
constexpr std::size_t kMaxUrls = 64;
constexpr std::size_t kMaxIncludedFiles = 1000;
constexpr std::size_t kMaxPasswordBytes = 4096;
constexpr std::size_t kMaxSchemaBytes = 1 << 20;
constexpr const char* kNoPassword = "-";  // in the place of one that is not needed
constexpr std::size_t kMaxGroupName = 64;
constexpr int kMaxAttempts = 1000;
constexpr int kMaxWorkers = 256;
constexpr int kMaxPriority = 255;           // AMQP's, of a message
constexpr int kMaxConsumerPriority = 1000;  // and its opposite; any order will do
constexpr std::string_view kSingleActive = "x-single-active-consumer";

struct SizeRange {
  std::int64_t min, max;
  std::string_view text;
};
constexpr std::int64_t kLargestMessage = 512LL * 1024 * 1024;
constexpr SizeRange kBodyRange{1, kLargestMessage, "from 1B to 512MiB"};
constexpr SizeRange kCompressRange{0, kLargestMessage, "from 0B to 512MiB"};
constexpr SizeRange kToldBodyRange{1, 1 << 20, "from 1B to 1MiB"};
constexpr SizeRange kMessageRange{1000, kLargestMessage, "from 1kB to 512MiB"};

struct NumberRange {
  double min, max;
  std::string_view text;
  bool above_min = false;  // `min` itself is not allowed
};
constexpr NumberRange kBackoffRange{1, 100, "a number from 1 to 100"};
constexpr NumberRange kJitterRange{0, 1, "a number from 0 to 1"};
constexpr NumberRange kSampleRange{0, 1, "a number from 0 to 1"};
constexpr NumberRange kFailuresRange{0, 1, "a number above 0 and at most 1", true};
constexpr NumberRange kRateRange{0.001, 1'000'000, "a number from 0.001 to 1000000"};
constexpr NumberRange kBurstRange{1, 1'000'000, "a number from 1 to 1000000"};

struct DurationRange {
  milliseconds min, max;
  std::string_view text;
  bool zero = false;  // 0 is allowed too
};
constexpr DurationRange kHeartbeatRange{5s, 1h, "0 (none), or from 5s to 1h", true};
constexpr DurationRange kConnectRange{100ms, 1min, "from 100ms to 1m"};
constexpr DurationRange kTimeoutRange{0s, 24h, "from 0s to 1d"};
constexpr DurationRange kStartRange{100ms, 1h, "from 100ms to 1h"};
constexpr DurationRange kWaitRange{1ms, 1h, "from 1ms to 1h"};
constexpr DurationRange kConsumerTimeoutRange{10s, 168h, "0 (none), or from 10s to 7d", true};
constexpr DurationRange kCallRange{10ms, 168h, "0 (none), or from 10ms to 7d", true};
constexpr DurationRange kRetryDelayRange{0s, 720h, "from 0s to 30d"};
constexpr DurationRange kMaxDelayRange{0s, 8760h, "from 0s to 365d"};
constexpr DurationRange kPeriodRange{0ms, 1h, "from 0 to 1h"};
constexpr DurationRange kPauseRange{10ms, 1h, "from 10ms to 1h"};
constexpr DurationRange kMaxPauseRange{10ms, 24h, "from 10ms to 1d"};
constexpr DurationRange kRelayRetryRange{1s, 24h, "from 1s to 1d"};
constexpr DurationRange kStreamAgeRange{1s, 87'600h, "from 1s to 3650d"};
constexpr SizeRange kStreamSizeRange{1, std::int64_t{1} << 50, "from 1B to 1048576GiB"};
constexpr SizeRange kSegmentRange{1000, 3'000'000'000, "from 1kB to 3GB"};  // the broker's limit
constexpr SizeRange kRecycleMemoryRange{16 << 20, std::int64_t{1} << 40, "from 16MiB to 1024GiB"};
constexpr DurationRange kRecycleAgeRange{1s, 8760h, "from 1s to 365d"};
constexpr DurationRange kExportRange{100ms, 5min, "from 100ms to 5m"};
constexpr DurationRange kWindowRange{1s, 720h, "0 (none), or from 1s to 30d", true};
constexpr DurationRange kIntervalRange{10ms, 24h, "0 (none), or from 10ms to 1d", true};
constexpr DurationRange kGiveUpRange{0s, 720h, "from 0s to 30d"};

// The broker looks at its consumer_timeout once in a while, and an ack takes its time.
constexpr milliseconds kConsumerTimeoutMargin = 30s;

std::string list_of(std::span<const std::string_view> words, std::string_view last = " or ") {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? last : std::string_view(", ");
    text += words[i];
  }
  return text;
}

// What a value is, for "found …".
std::string found(const YamlNode& node) {
  switch (node.type) {
    case YamlType::null:
      return node.text.empty() ? "nothing" : node.text + " (in quotes it is a text)";
    case YamlType::list: return "a list";
    case YamlType::map: return "a map";
    case YamlType::boolean:
    case YamlType::integer:
    case YamlType::real: return shown(node.text);
    case YamlType::text: break;
  }
  return (node.quoted ? "the text '" : "'") + shown(node.text) + "'";
}

// ---- The loader ----------------------------------------------------------------------------

// Enough problems were found; those there are tell the rest.
struct TooMany {};

// A value of the file with its name, "groups.hello.workers". A default-constructed one is not
// there.
struct Value {
  const YamlNode* node = nullptr;
  const YamlNode* key = nullptr;  // of a map's entry
  std::string path;

  explicit operator bool() const { return node != nullptr; }
  bool is(YamlType type) const { return node->type == type; }
};

class Loader {
 public:
  explicit Loader(const std::string& path, Passwords passwords = Passwords::read)
      : path_(path),
        passwords_(passwords),
        look_for_secrets_(passwords == Passwords::read || passwords == Passwords::of_service) {
    group_defaults_.content.max_decoded_bytes = 0;  // a group's max_body, where nobody says more
  }

  LoadedSettings load();
  LoadedOptions load_options(const YamlNode& map);

 private:
  using Keys = std::span<const std::string_view>;

  // One map, its unknown keys reported.
  class Map {
   public:
    Map() = default;
    Map(const YamlNode* node, std::string path) : node_(node), path_(std::move(path)) {}
    explicit operator bool() const { return node_ != nullptr; }
    // Not there when the key is not, or when its value was refused already.
    Value operator[](std::string_view key) const;
    bool has(std::string_view key) const;
    bool refused(std::string_view key) const { return has(key) && !(*this)[key]; }

   private:
    const YamlNode* node_ = nullptr;
    std::string path_;
  };

  struct DurationKey {
    std::string_view key;
    milliseconds& target;
    const DurationRange& range;
  };

  struct QueueDefaults {
    int prefetch = 30;
    std::string consumer_tag;
    AmqpTable consumer_arguments;
    std::optional<int> priority;
    bool declare = false;
    DeclareSettings declaration;
    std::string type;  // as written; empty: it is not
    StreamOffset offset;
    bool is_stream() const { return (declare ? declaration.type : type) == "stream"; }
  };

  // Reporting.
  ConfigProblem problem_at(const YamlNode& node, std::string text) const {
    return {file_, node.line, node.column, std::move(text)};
  }
  void error(const YamlNode& node, std::string text);
  void error(const Value& value, const std::string& text) {
    error(*value.node, value.path + ": " + text);
  }
  void expected(const Value& value, const std::string& what) {
    error(value, "expected " + what + ", found " + found(*value.node));
  }
  void warn(const YamlNode& node, std::string text) {
    loaded_.warnings.push_back(problem_at(node, std::move(text)));
  }
  // An error was told of this very value.
  bool is_wrong(const Value& value) const;
  void sort_problems(std::vector<ConfigProblem>& problems) const;

  // Files.
  std::optional<YamlNode> read(const std::string& path, const std::string& reason = {});
  std::string resolve(const std::string& path) const;
  void include(const Value& value);
  void include_pattern(const Value& value);
  void include_file(const std::string& path, const std::string& reason);

  // Kinds of values. Each says what is wrong and leaves the target as it was.
  Map map(const Value& value, Keys keys, Keys later = {}, bool secret = false);
  bool text(const Value& value, std::string& target, std::string_view what = "a text");
  bool name(const Value& value, std::string& target, std::string_view what,
            bool may_be_empty = false);
  void boolean(const Value& value, bool& target);
  void integer(const Value& value, int& target, int min, int max,
               std::string_view why_not_zero = {});
  template <typename Duration>
  void duration(const Value& value, Duration& target, const DurationRange& range);
  void ordered(const Map& keys, const DurationKey& low, const DurationKey& high);
  void number(const Value& value, double& target, const NumberRange& range);
  void size(const Value& value, std::int64_t& target, const SizeRange& range);
  bool choice(const Value& value, std::string& target, Keys words, Keys later = {});
  std::optional<AmqpValue> amqp_value(const Value& value);
  void amqp_table(const Value& value, AmqpTable& target);
  void exchange_type(const Value& value, std::string& target);
  bool is_list(const Value& value, std::string_view what);
  static Value item(const Value& list, std::size_t index);

  // Parts of the file.
  void file(const YamlNode& root);
  void folder(const Value& value, std::string& target);
  void broker(const Value& value);
  void login(const Map& keys, BrokerSettings& target);
  void tls(const Value& value, BrokerSettings& target);
  void tls_file(const Value& value, std::string& target, bool secret = false);
  void check_transport(const Value& place, const BrokerAddress& address);
  std::optional<BrokerUrl> url(const Value& value);
  std::optional<std::string> password(const Value& value);
  std::optional<std::string> password_from_file(const Value& value, const std::string& path);
  std::optional<std::string> read_small_file(const Value& value, const std::string& path,
                                             std::size_t most, const std::string& what,
                                             struct stat& status);
  void check_password(const Value& value, std::optional<std::string>& secret);
  void log(const Value& value);
  void delays(const Value& value);
  void control(const Value& value);
  void monitor(const Value& value);
  void journal(const Value& value, JournalSettings& target);
  void secret_headers(const Value& value, std::vector<std::string>& target);
  void check_journal(const Value& value, GroupSettings& group);
  void telemetry(const Value& value);
  void request_headers(const Value& value,
                       std::vector<std::pair<std::string, std::string>>& target);
  void monitor_listen(const Value& listen);
  void monitor_journal(const Value& journal);
  void defaults(const Value& value);
  void groups(const Value& value);
  void group(const std::string& name, const Value& value);
  void shared_keys(const Map& keys, GroupSettings& target);
  void workers(const Value& value, GroupSettings& target);
  void retry(const Value& value, RetrySettings& target);
  void dead_letter(const Value& value, DeadLetterSettings& target);
  void breaker(const Value& value, BreakerSettings& target);
  void recycle(const Value& value, RecycleSettings& target);
  void accept(const Value& value, std::vector<std::string>& target);
  void decode(const Value& value, ContentSettings& target);
  void validate(const Value& value, ContentSettings& target, GroupPlaces& places);
  void compress(const Value& value, ContentSettings& target);
  void order(const Map& keys, GroupSettings& group);
  void check_order(const Map& keys, const Value& place, GroupSettings& group);
  void check_order_of_queues(const Value& place, GroupSettings& group);
  void check_order_of_waits(const Map& keys, const Value& place, const GroupSettings& group);
  void rate(const Value& value, RateSettings& target);
  void dedup(const Value& value, DedupSettings& target);
  void dedup_key(const Value& value, DedupSettings& target);
  void dedup_store(const Value& value, DedupSettings& target);
  void min_interval(const Value& value, DedupSettings& target);
  void check_dedup(const Map& keys, const Value& value, const GroupSettings& group);
  void check_timeout(const Map& keys, const Value& value, const GroupSettings& group);
  void check_dead_letter(const Map& keys, const Value& value, const GroupSettings& group);
  void queue_keys(const Map& map, QueueDefaults& target);
  std::vector<QueueSettings> queues(const Map& group, const std::string& group_name,
                                    const QueueDefaults& base);
  void declare(const Value& value, QueueDefaults& target);
  void stream_limits(const Map& keys, DeclareSettings& target);
  void offset(const Value& value, StreamOffset& target);
  void check_type(const Map& keys, const QueueDefaults& queue);
  void retry_queues(const Map& keys, const Value& value, GroupSettings& group);
  void options(const Value& value, GroupSettings& group, GroupPlaces& places);
  std::string option(const Value& value, const std::string& name, GroupSettings& group,
                     GroupPlaces& places);

  const std::string path_;
  const Passwords passwords_;
  bool look_for_secrets_;           // where they are kept
  std::string file_;                // being judged
  std::vector<std::string> files_;  // in the order they were read
  std::set<std::string> read_;      // the same, as canonical paths
  std::map<std::string, ConfigPlace> group_places_;
  std::set<std::string> option_names_;  // of the group being judged
  GroupSettings group_defaults_;
  int prefetch_default_ = 30;
  bool timeouts_known_ = true;  // false: the broker's, or that of `defaults`, was refused
  LoadedSettings loaded_;
};

Value Loader::Map::operator[](std::string_view key) const {
  if (node_ == nullptr) return {};
  for (std::size_t i = 0; i < node_->keys.size(); ++i) {
    if (node_->keys[i].text != key || node_->keys[i].refused || node_->items[i].refused) continue;
    std::string path = path_.empty() ? std::string(key) : path_ + "." + std::string(key);
    return {&node_->items[i], &node_->keys[i], std::move(path)};
  }
  return {};
}

bool Loader::Map::has(std::string_view key) const {
  return node_ != nullptr &&
         std::ranges::find(node_->keys, key, &YamlNode::text) != node_->keys.end();
}

void Loader::error(const YamlNode& node, std::string text) {
  loaded_.errors.push_back(problem_at(node, std::move(text)));
  if (loaded_.errors.size() >= kMaxProblems) throw TooMany{};
}

bool Loader::is_wrong(const Value& value) const {
  return value && std::ranges::any_of(loaded_.errors, [&](const ConfigProblem& problem) {
           return problem.line == value.node->line && problem.column == value.node->column &&
                  problem.file == file_;
         });
}

void Loader::sort_problems(std::vector<ConfigProblem>& problems) const {
  const auto place = [this](const ConfigProblem& problem) {
    const auto file = std::ranges::find(files_, problem.file);
    return std::tuple(file - files_.begin(), problem.line, problem.column);
  };
  std::ranges::stable_sort(problems, {}, place);
}

LoadedSettings Loader::load() {
  loaded_.settings.handlers_dir = default_handlers_dir();
  loaded_.settings.state_dir = default_state_dir();
  try {
    if (const auto root = read(path_)) file(*root);
  } catch (const TooMany&) {
    // A single file that has so many was told so already.
    if (loaded_.errors.size() <= kMaxProblems) {
      ConfigProblem last = loaded_.errors.back();
      last.text = "more than " + std::to_string(kMaxProblems) + " problems: the rest is not shown";
      loaded_.errors.push_back(std::move(last));
    }
  } catch (const std::exception& exception) {
    loaded_.errors.push_back({file_, 0, 0, "cannot be read: " + escape(exception.what(), 200)});
  }
  sort_problems(loaded_.errors);
  sort_problems(loaded_.warnings);
  sort_problems(loaded_.notes);
  return std::move(loaded_);
}

// ---- Files ---------------------------------------------------------------------------------

// `reason` is added to what is wrong with the file as a whole.
std::optional<YamlNode> Loader::read(const std::string& path, const std::string& reason) {
  file_ = path;
  files_.push_back(path);
  std::error_code failed;
  const fs::path canonical = fs::canonical(path, failed);
  if (!failed) read_.insert(canonical.string());
  const std::size_t before = loaded_.errors.size();
  std::vector<ConfigProblem> problems;
  auto root = read_yaml_file(path, problems);
  loaded_.errors.insert(loaded_.errors.end(), problems.begin(), problems.end());
  for (std::size_t i = before; i < loaded_.errors.size(); ++i) {
    if (loaded_.errors[i].line == 0) loaded_.errors[i].text += reason;
  }
  if (loaded_.errors.size() >= kMaxProblems) throw TooMany{};
  return root;
}

// A relative path starts at the folder of the file it stands in.
std::string Loader::resolve(const std::string& path) const {
  std::error_code failed;
  const fs::path base = fs::absolute(file_, failed).parent_path();
  return failed ? path : (base / path).lexically_normal().string();
}

void Loader::include(const Value& value) {
  if (!value) return;
  if (value.is(YamlType::list)) {
    for (std::size_t i = 0; i < value.node->items.size(); ++i) {
      const Value entry = item(value, i);
      if (!entry.node->refused) include_pattern(entry);
    }
    return;
  }
  include_pattern(value);
}

void Loader::include_pattern(const Value& value) {
  std::string pattern;
  if (!text(value, pattern, "a file name or a list of them")) return;
  if (pattern.empty()) return expected(value, "a file name");
  const std::string including = file_;
  const fs::path full = fs::path(including).parent_path() / pattern;
  const std::string file_name = full.filename().string();
  const std::string reason =
      " (included at " + including + ":" + std::to_string(value.node->line) + ")";
  constexpr const char* kWildcards = "*?[";
  if (full.parent_path().string().find_first_of(kWildcards) != std::string::npos) {
    return error(value,
                 "expected '*', '?' and '[' in the file name only, found them in its folder");
  }

  std::vector<std::string> paths;
  std::error_code failed;
  if (file_name.find_first_of(kWildcards) == std::string::npos) {
    const fs::path canonical = fs::canonical(full, failed);
    if (!failed && canonical == fs::canonical(including, failed)) {
      return error(value, "expected another file, found this one");
    }
    paths.push_back(full.string());
  } else {
    const fs::path folder = full.parent_path().empty() ? fs::path(".") : full.parent_path();
    fs::directory_iterator entries(folder, failed);
    if (failed && failed != std::errc::no_such_file_or_directory) {
      return error(value,
                   "expected a readable folder, found: " + errno_text("opendir", failed.value()));
    }
    for (; !failed && entries != fs::directory_iterator(); entries.increment(failed)) {
      const std::string entry = entries->path().filename().string();
      if (::fnmatch(file_name.c_str(), entry.c_str(), FNM_PERIOD) != 0) continue;
      paths.push_back((full.parent_path() / entry).string());
    }
    std::ranges::sort(paths);
  }
  if (files_.size() + paths.size() > kMaxIncludedFiles) {
    return error(value,
                 "expected at most " + std::to_string(kMaxIncludedFiles) + " files, found more");
  }
  for (const std::string& path : paths) {
    include_file(path, reason);
    file_ = including;
  }
}

void Loader::include_file(const std::string& path, const std::string& reason) {
  std::error_code failed;
  const fs::path canonical = fs::canonical(path, failed);
  if (!failed && read_.contains(canonical.string())) return;
  const auto root = read(path, reason);
  if (!root) return;
  const Map top = map({&*root, nullptr, ""}, kIncludedKeys);
  if (!top) return;
  if (!top.has("groups")) error(*root, "expected 'groups', found none");
  groups(top["groups"]);
}

// ---- Kinds of values -----------------------------------------------------------------------

// `secret`: a key may be a password without its quotes, and is not shown.
Loader::Map Loader::map(const Value& value, Keys keys, Keys later, bool secret) {
  if (!value || value.node->refused) return {};
  const YamlNode& node = *value.node;
  if (node.type != YamlType::map) {
    const std::string what = "expected a map of " + list_of(keys, " and ") + ", found " +
                             (secret ? "something else" : found(node));
    error(node, value.path.empty() ? what : value.path + ": " + what);
    return {};
  }
  for (std::size_t i = 0; i < node.keys.size(); ++i) {
    const YamlNode& key = node.keys[i];
    // A duplicate is refused as such; whether it is known was said of the first.
    if (key.refused || !key.is_scalar() || node.items[i].refused) continue;
    if (std::ranges::find(keys, key.text) != keys.end()) continue;
    const std::string where = value.path.empty() ? "" : value.path + ": ";
    if (std::ranges::find(later, key.text) != later.end()) {
      error(key, where + "'" + key.text + "' is not available in this version");
      continue;
    }
    if (secret) {
      error(key, where + "unknown key: expected " + list_of(keys) +
                     " (a password itself goes in quotes, not in braces)");
      continue;
    }
    if (keys.data() == kIncludedKeys &&
        std::ranges::find(kFileKeys, key.text) != std::end(kFileKeys)) {
      error(key, "'" + key.text +
                     "' belongs in the main file: expected only 'groups' in an included one");
      continue;
    }
    const std::string near = nearest(key.text, keys);
    error(key, where + "unknown key '" + shown(key.text) + "': " +
                   (near.empty() ? "expected " + list_of(keys) : "did you mean '" + near + "'?"));
  }
  return {&node, value.path};
}

bool Loader::text(const Value& value, std::string& target, std::string_view what) {
  if (value.is(YamlType::text)) {
    target = value.node->text;
    return true;
  }
  const bool scalar =
      value.is(YamlType::boolean) || value.is(YamlType::integer) || value.is(YamlType::real);
  expected(value, std::string(what) + (scalar ? " (in quotes)" : ""));
  return false;
}

// A name that travels as an AMQP short string.
bool Loader::name(const Value& value, std::string& target, std::string_view what,
                  bool may_be_empty) {
  std::string result;
  if (!text(value, result, what)) return false;
  if (result.empty() && !may_be_empty) {
    expected(value, std::string(what));
    return false;
  }
  if (result.size() > kMaxShortString) {
    error(value, "expected at most 255 bytes, found " + std::to_string(result.size()));
    return false;
  }
  target = std::move(result);
  return true;
}

void Loader::boolean(const Value& value, bool& target) {
  if (!value) return;
  if (!value.is(YamlType::boolean)) return expected(value, "true or false");
  target = yaml_boolean(*value.node);
}

void Loader::integer(const Value& value, int& target, int min, int max,
                     std::string_view why_not_zero) {
  if (!value) return;
  const std::string what =
      "a whole number from " + std::to_string(min) + " to " + std::to_string(max);
  if (!value.is(YamlType::integer)) return expected(value, what);
  const auto number = yaml_integer(*value.node);
  if (!number || *number < min || *number > max) {
    const std::string reason =
        number == 0 && !why_not_zero.empty() ? ": " + std::string(why_not_zero) : "";
    return error(value, "expected " + what + ", found " + found(*value.node) + reason);
  }
  target = static_cast<int>(*number);
}

template <typename Duration>
void Loader::duration(const Value& value, Duration& target, const DurationRange& range) {
  if (!value) return;
  const std::string what = "a duration with a unit (ms, s, m, h, d), " + std::string(range.text);
  const YamlNode& node = *value.node;
  if (node.type == YamlType::integer && range.zero && yaml_integer(node) == 0) {
    target = Duration(0);
    return;
  }
  if (node.type == YamlType::integer || node.type == YamlType::real) {
    return error(value,
                 "expected " + what + ", found " + found(node) + ": write the unit, as in 30s");
  }
  if (node.type != YamlType::text) return expected(value, what);
  const auto parsed = parse_with_unit(node.text, kDurationUnits);
  if (!parsed) return expected(value, what);
  const milliseconds length(*parsed);
  if (!(range.zero && length == 0ms) && (length < range.min || length > range.max)) {
    return expected(value, what);
  }
  if (length % Duration(1) != 0ms) return expected(value, "a duration of whole seconds");
  target = std::chrono::duration_cast<Duration>(length);
}

// The first is never the longer. Where both stand in the file, the second is told.
void Loader::ordered(const Map& keys, const DurationKey& low, const DurationKey& high) {
  const Value low_value = keys[low.key];
  const Value high_value = keys[high.key];
  duration(low_value, low.target, low.range);
  duration(high_value, high.target, high.range);
  if (low.target <= high.target || keys.refused(low.key) || keys.refused(high.key) ||
      is_wrong(low_value) || is_wrong(high_value)) {
    return;
  }
  if (high_value) {
    error(high_value, "expected at least " + std::string(low.key) + " (" +
                          duration_text(low.target) + "), found " + found(*high_value.node));
  } else if (low_value) {
    error(low_value, "expected at most " + std::string(high.key) + " (" +
                         duration_text(high.target) + "), found " + found(*low_value.node) +
                         ": write a longer " + std::string(high.key) + " beside it");
  }
}

void Loader::number(const Value& value, double& target, const NumberRange& range) {
  if (!value) return;
  std::optional<double> number;
  if (value.is(YamlType::real)) number = yaml_real(*value.node);
  if (value.is(YamlType::integer)) {
    if (const auto whole = yaml_integer(*value.node)) number = static_cast<double>(*whole);
  }
  if (!number || *number < range.min || *number > range.max ||
      (range.above_min && *number == range.min)) {
    return expected(value, std::string(range.text));
  }
  target = *number;
}

void Loader::size(const Value& value, std::int64_t& target, const SizeRange& range) {
  if (!value) return;
  const std::string what =
      "a size with a unit (B, kB, KiB, MB, MiB, GB, GiB), " + std::string(range.text);
  const YamlNode& node = *value.node;
  if (node.type == YamlType::integer || node.type == YamlType::real) {
    return error(value,
                 "expected " + what + ", found " + found(node) + ": write the unit, as in 16MiB");
  }
  if (node.type != YamlType::text) return expected(value, what);
  const auto bytes = parse_with_unit(node.text, kSizeUnits);
  if (!bytes || *bytes < range.min || *bytes > range.max) return expected(value, what);
  target = *bytes;
}

bool Loader::choice(const Value& value, std::string& target, Keys words, Keys later) {
  if (!value) return false;
  std::string word;
  if (!text(value, word, list_of(words))) return false;
  if (std::ranges::find(later, word) != later.end()) {
    error(value, "'" + word + "' is not available in this version: expected " + list_of(words));
    return false;
  }
  if (std::ranges::find(words, word) == words.end()) {
    const std::string near = nearest(word, words);
    error(value, "expected " + list_of(words) + ", found " + found(*value.node) +
                     (near.empty() ? "" : ": did you mean '" + near + "'?"));
    return false;
  }
  target = std::move(word);
  return true;
}

void Loader::exchange_type(const Value& value, std::string& target) {
  static constexpr std::string_view kTypes[] = {"direct", "fanout", "topic", "headers"};
  // Plugins bring types of their own, all of them x-something.
  if (value && value.is(YamlType::text) && value.node->text.starts_with("x-")) {
    name(value, target, "the type of an exchange");
  } else {
    choice(value, target, kTypes);
  }
}

bool Loader::is_list(const Value& value, std::string_view what) {
  if (value.is(YamlType::list)) return true;
  expected(value, std::string(what));
  return false;
}

Value Loader::item(const Value& list, std::size_t index) {
  return {&list.node->items[index], nullptr, list.path + "[" + std::to_string(index) + "]"};
}

std::optional<AmqpValue> Loader::amqp_value(const Value& value) {
  const YamlNode& node = *value.node;
  switch (node.type) {
    case YamlType::null: expected(value, "a value"); return std::nullopt;
    case YamlType::boolean: return AmqpValue{yaml_boolean(node)};
    case YamlType::integer:
      if (const auto number = yaml_integer(node)) return AmqpValue{*number};
      expected(value, "a number of at most 64 bits with a sign");
      return std::nullopt;
    case YamlType::real:
      if (const auto number = yaml_real(node)) return AmqpValue{*number};
      expected(value, "a finite number");
      return std::nullopt;
    case YamlType::text: return AmqpValue{node.text};
    case YamlType::list: {
      AmqpArray array;
      for (std::size_t i = 0; i < node.items.size(); ++i) {
        const Value entry = item(value, i);
        if (entry.node->refused) continue;
        if (auto converted = amqp_value(entry)) array.push_back(std::move(*converted));
      }
      return AmqpValue{std::move(array)};
    }
    case YamlType::map: {
      AmqpTable table;
      amqp_table(value, table);
      return AmqpValue{std::move(table)};
    }
  }
  return std::nullopt;
}

void Loader::amqp_table(const Value& value, AmqpTable& target) {
  if (!value) return;
  if (!value.is(YamlType::map)) return expected(value, "a map of names and values");
  AmqpTable table;
  for (std::size_t i = 0; i < value.node->keys.size(); ++i) {
    const YamlNode& key = value.node->keys[i];
    if (key.refused || value.node->items[i].refused) continue;
    const Value entry{&value.node->items[i], &key, value.path + "." + shown(key.text)};
    if (key.text.size() > kMaxShortString) {
      error(key, value.path + ": expected names of at most 255 bytes, found " +
                     std::to_string(key.text.size()));
      continue;
    }
    if (auto converted = amqp_value(entry)) table.emplace_back(key.text, std::move(*converted));
  }
  target = std::move(table);
}

// ---- The file's parts ----------------------------------------------------------------------

void Loader::file(const YamlNode& root) {
  const Map top = map({&root, nullptr, ""}, kFileKeys);
  if (!top) return;
  Settings& settings = loaded_.settings;
  broker(top["broker"]);
  folder(top["handlers_dir"], settings.handlers_dir);
  folder(top["state_dir"], settings.state_dir);
  boolean(top["watch"], settings.watch);
  duration(top["shutdown_timeout"], settings.shutdown_timeout, kTimeoutRange);
  duration(top["ready_timeout"], settings.ready_timeout, kTimeoutRange);
  log(top["log"]);
  delays(top["delays"]);
  control(top["control"]);
  monitor(top["monitor"]);
  journal(top["journal"], group_defaults_.journal);
  telemetry(top["telemetry"]);
  defaults(top["defaults"]);
  const Value own = top["groups"];
  groups(own);
  const std::size_t errors = loaded_.errors.size();
  include(top["include"]);
  // Where something else was wrong with the groups, that is what counts.
  if (settings.groups.empty() && group_places_.empty() && loaded_.errors.size() == errors &&
      (!top.has("groups") || (own && own.is(YamlType::map) && own.node->items.empty()))) {
    error(own ? *own.key : root, "expected at least one group under 'groups', found none");
  }
}

void Loader::folder(const Value& value, std::string& target) {
  std::string path;
  if (!value || !text(value, path, "a folder")) return;
  if (path.empty()) return expected(value, "a folder");
  target = resolve(path);
}

void Loader::broker(const Value& value) {
  if (!value) return;
  BrokerSettings& settings = loaded_.settings.broker;
  if (value.node->is_scalar() && !value.is(YamlType::null)) {
    if (const auto parsed = url(value)) {
      settings.addresses = {parsed->address};
      check_transport(value, parsed->address);
      if (parsed->has_user && !parsed->has_password && parsed->address.user != "guest") {
        error(value, "URL: expected a password for user '" + shown(parsed->address.user) +
                         "': make 'broker' a map of url and password");
      }
    }
    return;
  }
  if (!value.is(YamlType::map))
    return expected(value, "a URL, or a map of " + list_of(kBrokerKeys, " and "));
  const Map keys = map(value, kBrokerKeys);

  std::vector<std::pair<Value, BrokerUrl>> urls;
  if (keys.has("url") && keys.has("urls")) {
    error(*value.node, "broker: expected url or urls, found both");
  }
  if (const Value one = keys["url"]) {
    if (auto parsed = url(one)) urls.emplace_back(one, std::move(*parsed));
  }
  if (const Value many = keys["urls"]; many && is_list(many, "a list of URLs")) {
    if (many.node->items.empty() || many.node->items.size() > kMaxUrls) {
      error(many, "expected 1 to " + std::to_string(kMaxUrls) + " URLs, found " +
                      std::to_string(many.node->items.size()));
    }
    for (std::size_t i = 0; i < std::min(many.node->items.size(), kMaxUrls); ++i) {
      const Value one = item(many, i);
      if (one.node->refused) continue;
      if (auto parsed = url(one)) urls.emplace_back(one, std::move(*parsed));
    }
  }

  std::optional<std::string> user;
  if (const Value given = keys["user"]) {
    std::string text;
    if (name(given, text, "a user name")) user = std::move(text);
  }
  const Value given_password = keys["password"];
  std::optional<std::string> secret;
  if (given_password) {
    secret = password(given_password);
    check_password(given_password, secret);
  }

  login(keys, settings);
  const bool external = settings.login == Login::external;

  if (!keys.has("url") && !keys.has("urls")) urls.emplace_back(value, BrokerUrl{});
  std::vector<BrokerAddress> addresses;
  for (auto& [place, parsed] : urls) {
    if (parsed.has_user && user) {
      error(place, "expected the user in the URL or as 'user', found both");
    } else if (user) {
      parsed.address.user = *user;
    }
    if (parsed.has_password && given_password) {
      error(place, "expected the password in the URL or as 'password', found both");
    } else if (secret) {
      parsed.address.password = *secret;
    } else if (!external && !parsed.has_password && !keys.has("password") &&
               parsed.address.user != "guest") {
      error(place, "expected a password for user '" + shown(parsed.address.user) +
                       "' under broker.password, found none");
    }
    if (external && (parsed.has_user || parsed.has_password)) {
      error(place,
            "expected no user or password in the URL: with login: external the certificate "
            "says who it is");
    }
    if (!addresses.empty() && addresses.front().tls != parsed.address.tls) {
      error(place, "expected amqps:// in all URLs or in none, found both");
    }
    check_transport(place, parsed.address);
    addresses.push_back(std::move(parsed.address));
  }
  if (!addresses.empty()) settings.addresses = std::move(addresses);
  tls(keys["tls"], settings);
  if (const Value given = keys["login"]; given && external && !keys.refused("tls") &&
                                         settings.tls.certificate_file.empty() &&
                                         !is_wrong(keys["tls"])) {
    error(given,
          "expected a client certificate for external, tls.certificate and tls.key, found none");
  }
  // The user is known only now.
  if (secret && given_password.node->is_scalar()) {
    const bool guests =
        *secret == "guest" && std::ranges::all_of(settings.addresses, [](const auto& address) {
          return address.user == "guest";
        });
    if (!guests) {
      warn(*given_password.node,
           "broker.password: a password stands in this file: better {credential: NAME}, {file: "
           "PATH} "
           "or {env: NAME}");
    }
  }
  duration(keys["heartbeat"], settings.heartbeat, kHeartbeatRange);
  duration(keys["connect_timeout"], settings.connect_timeout, kConnectRange);
  duration(keys["consumer_timeout"], settings.consumer_timeout, kConsumerTimeoutRange);
  if (keys.refused("consumer_timeout") || is_wrong(keys["consumer_timeout"]))
    timeouts_known_ = false;
  size(keys["max_message_size"], settings.max_message_bytes, kMessageRange);
}

void Loader::login(const Map& keys, BrokerSettings& target) {
  std::string word;
  const Value given = keys["login"];
  if (!given || !choice(given, word, kLoginWords)) return;
  target.login = word == "external" ? Login::external : Login::plain;
  if (target.login == Login::plain) return;
  for (const std::string_view key : {"user", "password"}) {
    if (const Value also = keys[key]) {
      error(*also.key,
            also.path + ": expected none: with login: external the certificate says who it is");
    }
  }
}

void Loader::tls(const Value& value, BrokerSettings& target) {
  if (!value) return;
  if (!value.is(YamlType::map)) return expected(value, "a map of " + list_of(kTlsKeys, " and "));
  const Map keys = map(value, kTlsKeys);
  TlsSettings& settings = target.tls;
  if (std::ranges::none_of(target.addresses, &BrokerAddress::tls)) {
    error(*value.key,
          "broker.tls: expected a URL that starts with amqps://, found amqp://: without "
          "it there is no TLS");
  }
  tls_file(keys["ca"], settings.ca_file);
  tls_file(keys["certificate"], settings.certificate_file);
  tls_file(keys["key"], settings.key_file, /*secret=*/true);
  if (keys.has("certificate") != keys.has("key")) {
    const bool has_key = keys.has("key");
    error(value, std::string("expected certificate and key, found only ") +
                     (has_key ? "key" : "certificate"));
  }
  if (const Value given = keys["server_name"]) {
    name(given, settings.server_name, "the name in the broker's certificate");
  }
  if (const Value given = keys["insecure"]) {
    boolean(given, settings.insecure);
    if (settings.insecure) {
      warn(*given.node,
           "broker.tls.insecure: the broker's certificate is not verified: whoever is between can "
           "read and change everything, passwords too");
      for (const std::string_view key : {"ca", "server_name"}) {
        if (const Value unused = keys[key]) {
          error(*unused.key,
                unused.path + ": expected none: with insecure: true nothing is verified");
        }
      }
    }
  }
}

// Read at each connect, and so may come and change later; what cannot be read now is told.
void Loader::tls_file(const Value& value, std::string& target, bool secret) {
  std::string path;
  if (!value || !text(value, path, "the path of a file")) return;
  if (path.empty()) return expected(value, "the path of a file");
  target = resolve(path);
  const UniqueFd file(::open(target.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) {
    const int problem = errno;
    warn(*value.node, value.path + ": '" + shown(target) + "': expected a readable file, found: " +
                          errno_text("open", problem) + ": until it is there nothing connects");
  } else if (secret && (status.st_mode & S_IROTH) != 0) {
    warn(*value.node, value.path + ": '" + shown(target) + "' can be read by others: chmod o-r");
  }
}

bool is_this_machine(std::string_view host) {
  return host == "localhost" || host.ends_with(".localhost") || host.starts_with("127.") ||
         host == "::1";
}

void Loader::check_transport(const Value& place, const BrokerAddress& address) {
  if (address.tls || is_this_machine(address.host)) return;
  warn(*place.node, place.path + ": messages and the password go to '" + shown(address.host) +
                        "' in plain text: better amqps://");
}

// Neither the URL nor a part of its login is ever shown.
std::optional<BrokerUrl> Loader::url(const Value& value) {
  if (!value.is(YamlType::text)) {
    const bool scalar = value.node->is_scalar() && !value.is(YamlType::null);
    error(value, "expected a URL, amqp://user:password@host:port/vhost, found " +
                     (scalar ? "a text that does not start with 'amqp://' or 'amqps://'"
                             : found(*value.node)));
    return std::nullopt;
  }
  auto parsed = parse_broker_url(value.node->text);
  if (!parsed) {
    error(value, parsed.error());
    return std::nullopt;
  }
  if (parsed->address.vhost.empty()) {
    warn(*value.node,
         value.path +
             ": URL: the '/' at its end names the vhost \"\": for the vhost \"/\" write "
             "no '/', or %2F behind it");
  }
  const BrokerAddress& address = parsed->address;
  if (parsed->has_password && !(address.user == "guest" && address.password == "guest")) {
    warn(*value.node, value.path +
                          ": URL: a password stands in this file: better broker.password with "
                          "{credential: NAME}, {file: PATH} or {env: NAME}");
  }
  return std::move(*parsed);
}

bool is_variable_name(std::string_view name) {
  constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
  return !name.empty() && !(name.front() >= '0' && name.front() <= '9') &&
         name.find_first_not_of(kLetters) == std::string_view::npos;
}

std::optional<std::string> Loader::password(const Value& value) {
  if (value.is(YamlType::text)) return value.node->text;
  if (!value.is(YamlType::map)) {
    const bool scalar = value.node->is_scalar() && !value.is(YamlType::null);
    error(value,
          "expected {credential: NAME}, {file: PATH}, {env: NAME} or a text in quotes, found " +
              (scalar ? "a value that is no text" : found(*value.node)));
    return std::nullopt;
  }
  const std::size_t before = loaded_.errors.size();
  const Map keys = map(value, kPasswordKeys, {}, true);
  if (value.node->keys.size() != 1) {
    error(value, "expected one of " + list_of(kPasswordKeys) + ", found " +
                     std::to_string(value.node->keys.size()) + " keys");
  }
  if (loaded_.errors.size() != before) return std::nullopt;

  std::string text_value;
  if (const Value env = keys["env"]) {
    if (!text(env, text_value, "the name of an environment variable")) return std::nullopt;
    if (!is_variable_name(text_value)) {
      error(env, "expected the name of an environment variable, of letters, digits and '_'");
      return std::nullopt;
    }
    loaded_.settings.secret_env.push_back(text_value);
    if (!look_for_secrets_) return kNoPassword;
    const char* found_value = std::getenv(text_value.c_str());
    if (found_value == nullptr) {
      error(env,
            "expected the environment variable '" + shown(text_value) + "' to be set, found none");
      return std::nullopt;
    }
    return found_value;
  }
  if (const Value path = keys["file"]) {
    if (!text(path, text_value, "the path of a file")) return std::nullopt;
    if (text_value.empty()) {
      expected(path, "the path of a file");
      return std::nullopt;
    }
    if (!look_for_secrets_) return kNoPassword;
    return password_from_file(path, resolve(text_value));
  }
  if (const Value credential = keys["credential"]) {
    if (!text(credential, text_value, "the name of a systemd credential")) return std::nullopt;
    if (text_value.empty() || text_value == "." || text_value == ".." ||
        text_value.find('/') != std::string::npos) {
      error(credential, "expected the name of a systemd credential, without '/'");
      return std::nullopt;
    }
    if (!look_for_secrets_) return kNoPassword;
    const char* folder = std::getenv("CREDENTIALS_DIRECTORY");
    if (folder == nullptr || *folder == '\0') {
      if (passwords_ == Passwords::of_service) {
        loaded_.notes.push_back(
            problem_at(*credential.node, value.path + ": the credential '" + shown(text_value) +
                                             "' is there for the service alone: it was not read"));
        return kNoPassword;
      }
      error(credential,
            "expected $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=, found none");
      return std::nullopt;
    }
    return password_from_file(credential, std::string(folder) + "/" + text_value);
  }
  return std::nullopt;
}

// At most `most` bytes of a regular file; `what` it is to be, for who has to change it.
std::optional<std::string> Loader::read_small_file(const Value& value, const std::string& path,
                                                   std::size_t most, const std::string& what,
                                                   struct stat& status) {
  const auto fail = [&](const std::string& text) {
    error(value, "'" + shown(path) + "': " + text);
    return std::nullopt;
  };
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) {
    const int problem = errno;
    return fail("expected a readable file, found: " + errno_text("open", problem));
  }
  if (::fstat(fd.get(), &status) != 0) return fail(errno_text("fstat", errno));
  if (!S_ISREG(status.st_mode)) return fail("expected a regular file, found something else");
  std::string content(most + 1, '\0');
  std::size_t size = 0;
  while (size < content.size()) {
    const ssize_t n = ::read(fd.get(), content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(errno_text("read", errno));
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  if (size > most) {
    return fail("expected " + what + " of at most " + std::to_string(most) +
                " bytes, found a larger file");
  }
  content.resize(size);
  return content;
}

std::optional<std::string> Loader::password_from_file(const Value& value, const std::string& path) {
  struct stat status {};
  auto read = read_small_file(value, path, kMaxPasswordBytes, "a password", status);
  if (!read) return std::nullopt;
  std::string& content = *read;
  if (content.ends_with('\n')) content.pop_back();
  if (content.ends_with('\r')) content.pop_back();
  if ((status.st_mode & S_IROTH) != 0) {
    warn(*value.node, value.path + ": '" + shown(path) + "' can be read by others: chmod o-r");
  }
  return read;
}

void Loader::check_password(const Value& value, std::optional<std::string>& secret) {
  if (!secret) return;
  std::string problem;
  if (secret->empty()) problem = "expected a password, found an empty one";
  if (secret->find('\0') != std::string::npos)
    problem = "expected a password, found a NUL byte in it";
  if (first_invalid_utf8(*secret) != std::string::npos)
    problem = "expected a password in UTF-8, found other bytes";
  if (problem.empty()) return;
  error(value, problem);
  secret.reset();
}

void Loader::log(const Value& value) {
  const Map keys = map(value, kLogKeys);
  LogSettings& settings = loaded_.settings.log;
  static constexpr std::string_view kLevels[] = {"debug", "info", "warn", "error"};
  static constexpr std::string_view kFormats[] = {"text", "json"};
  std::string word;
  if (choice(keys["level"], word, kLevels)) {
    settings.level = static_cast<LogLevel>(std::ranges::find(kLevels, word) - std::begin(kLevels));
  }
  if (choice(keys["format"], word, kFormats)) {
    settings.format = word == "json" ? LogFormat::json : LogFormat::text;
  }
  if (const Value path = keys["file"]) {
    std::string text_value;
    if (text(path, text_value, "the path of a file")) {
      settings.file = text_value.empty() ? "" : resolve(text_value);
    }
  }
}

bool is_alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

void Loader::delays(const Value& value) {
  const Map keys = map(value, kDelaysKeys);
  DelaySettings& settings = loaded_.settings.delays;
  if (const Value prefix = keys["prefix"]) {
    const std::string what =
        "1 to " + std::to_string(kMaxDelayPrefix) + " letters, digits, '.', '_' and '-'";
    std::string given;
    if (text(prefix, given, what)) {
      if (!is_plain_name(given, kMaxDelayPrefix)) {
        expected(prefix, what);
      } else {
        settings.prefix = std::move(given);
      }
    }
  }
  boolean(keys["relay"], settings.relay);
  duration(keys["retry"], settings.retry, kRelayRetryRange);
  duration(keys["give_up"], settings.give_up, kGiveUpRange);
}

void Loader::control(const Value& value) {
  const Map keys = map(value, kControlKeys);
  const Value socket = keys["socket"];
  std::string path;
  if (!socket || !text(socket, path, "the path of a socket")) return;
  if (path.empty() || path.size() > kMaxSocketPath) {
    expected(socket, "the path of a socket, 1 to " + std::to_string(kMaxSocketPath) + " bytes");
    return;
  }
  loaded_.settings.control_socket = resolve(path);
}

void Loader::monitor(const Value& value) {
  const Map keys = map(value, kMonitorKeys);
  if (const Value listen = keys["listen"]) monitor_listen(listen);
  if (const Value journal = keys["journal"]) monitor_journal(journal);
}

void Loader::monitor_listen(const Value& listen) {
  if (!listen.is(YamlType::text) && !listen.is(YamlType::integer)) {
    return expected(listen, "a port, or an address and a port");
  }
  const auto address = parse_listen_address(listen.node->text);
  if (!address) return error(*listen.node, listen.path + ": " + address.error());
  if (!is_loopback(*address)) {
    warn(*listen.node, listen.path + ": whoever can reach " + to_string(*address) +
                           " sees what is shown there: queues, handlers, the latest errors");
  }
  loaded_.settings.monitor = *address;
}

// A group's adds to what is said for all.
void Loader::journal(const Value& value, JournalSettings& target) {
  if (!value) return;
  if (value.is(YamlType::boolean) && !yaml_boolean(*value.node)) {
    target.on = false;
    return;
  }
  if (!value.is(YamlType::map)) {
    return expected(value, "false, or a map of " + list_of(kJournalKeys, " and "));
  }
  const std::size_t before = loaded_.errors.size();
  const Map keys = map(value, kJournalKeys);
  JournalSettings settings = target;
  const bool known = settings.on || !settings.exchange.empty() || !settings.routing_key.empty();
  settings.on = true;
  if (const Value exchange = keys["exchange"]) {
    name(exchange, settings.exchange, "the name of an exchange", true);
  } else if (!keys.has("exchange") && !known) {
    error(value, "expected 'exchange', found none");
  }
  if (const Value key = keys["key"]) name(key, settings.routing_key, "a routing key", true);
  boolean(keys["confirm"], settings.confirmed);
  if (const Value bodies = keys["bodies"]) {
    if (bodies.is(YamlType::boolean)) {
      boolean(bodies, settings.bodies);
    } else if (!bodies.is(YamlType::map)) {
      expected(bodies, "true, false, or a map of max");
    } else {
      settings.bodies = true;
      size(map(bodies, kBodiesKeys)["max"], settings.max_body_bytes, kToldBodyRange);
    }
  }
  boolean(keys["headers"], settings.headers);
  secret_headers(keys["secret_headers"], settings.secret_headers);
  if (loaded_.errors.size() == before && settings.exchange.empty() &&
      settings.routing_key.empty()) {
    error(value,
          "expected the name of a queue as 'key', since the exchange is the default one, "
          "found none");
  }
  if (loaded_.errors.size() == before) target = std::move(settings);
}

void Loader::secret_headers(const Value& value, std::vector<std::string>& target) {
  if (!value || !is_list(value, "a list of parts of names")) return;
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < value.node->items.size(); ++i) {
    const Value entry = item(value, i);
    std::string part;
    if (!entry.node->refused && name(entry, part, "a part of a header's name")) {
      parts.push_back(std::move(part));
    }
  }
  target = std::move(parts);
}

// Who handles the journal has none: each event would bring forth others.
void Loader::check_journal(const Value& value, GroupSettings& group) {
  const JournalSettings& journal = group.journal;
  if (!journal.on) return;
  const auto binds = [&](const BindingSettings& binding) {
    return binding.exchange == journal.exchange && !journal.exchange.empty() &&
           (binding.key == journal.routing_key || binding.key == "#");
  };
  const auto circle = std::ranges::find_if(group.queues, [&](const QueueSettings& queue) {
    if (journal.exchange.empty() && queue.name == journal.routing_key) return true;
    return queue.declare && std::ranges::any_of(queue.declaration.bindings, binds);
  });
  const bool handles = group.handler == "journal";
  if (!handles && circle == group.queues.end()) return;
  if (value) {
    error(value, "expected false, found a map: " +
                     (handles ? std::string("handler 'journal' handles the journal")
                              : "queue '" + shown(circle->name) + "' gets the journal") +
                     ", and each event would bring forth others");
  }
  group.journal.on = false;
}

void Loader::telemetry(const Value& value) {
  const Map keys = map(value, kTelemetryKeys);
  if (!keys) return;
  TelemetrySettings& settings = loaded_.settings.telemetry;
  const std::string what = "the URL of a collector, http://host:4318 or https://…";
  if (const Value endpoint = keys["endpoint"]) {
    std::string url;
    if (text(endpoint, url, what) && !url.empty()) {
      while (url.ends_with('/')) url.pop_back();
      const std::size_t scheme = url.starts_with("http://")    ? 7
                                 : url.starts_with("https://") ? 8
                                                               : 0;
      if (scheme == 0 || url.size() == scheme || url[scheme] == '/') {
        expected(endpoint, what);
      } else if (url.find('@') != std::string::npos) {  // not shown: a password is in it
        error(endpoint, "expected a URL without a user, found one: a login goes into 'headers'");
      } else if (std::ranges::any_of(url, [](unsigned char c) {
                   return c <= ' ' || c >= 0x7F || c == '?' || c == '#';
                 })) {
        expected(endpoint, what + " without spaces, '?' and '#'");
      } else {
        settings.endpoint = std::move(url);
      }
    }
  }
  number(keys["sample"], settings.sample, kSampleRange);
  if (const Value service = keys["service_name"]) name(service, settings.service_name, "a name");
  request_headers(keys["headers"], settings.headers);
  duration(keys["timeout"], settings.timeout, kExportRange);
}

// Their values may be secrets, and are never shown.
void Loader::request_headers(const Value& value,
                             std::vector<std::pair<std::string, std::string>>& target) {
  if (!value) return;
  if (!value.is(YamlType::map)) return expected(value, "a map of names and values");
  const auto is_token = [](unsigned char c) {
    return is_alnum(static_cast<char>(c)) ||
           std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos;
  };
  std::vector<std::pair<std::string, std::string>> headers;
  for (std::size_t i = 0; i < value.node->keys.size(); ++i) {
    const YamlNode& key = value.node->keys[i];
    if (key.refused || value.node->items[i].refused) continue;
    if (key.text.empty() || !std::ranges::all_of(key.text, is_token)) {
      error(key,
            value.path + ": expected the name of an HTTP header, found '" + shown(key.text) + "'");
      continue;
    }
    const Value entry{&value.node->items[i], &key, value.path + "." + shown(key.text)};
    const auto secret = password(entry);
    if (!secret) continue;
    if (std::ranges::any_of(*secret, [](unsigned char c) { return c < ' ' || c == 0x7F; })) {
      error(entry, "expected a text without control characters, found one");
      continue;
    }
    headers.emplace_back(key.text, *secret);
  }
  target = std::move(headers);
}

// A URL may hold a password, so it can be kept where passwords are.
void Loader::monitor_journal(const Value& journal) {
  constexpr std::string_view kExpected = "the path of a file, or postgresql://…";
  const bool inline_text = journal.is(YamlType::text);
  if (!inline_text && !journal.is(YamlType::map)) {
    return expected(journal, std::string(kExpected) +
                                 ", as a text or as {credential: NAME}, "
                                 "{file: PATH} or {env: NAME}");
  }
  const bool before = std::exchange(look_for_secrets_, passwords_ != Passwords::not_needed);
  std::optional<std::string> store = password(journal);
  look_for_secrets_ = before;
  if (!store) return;
  const std::size_t scheme = store->find("://");
  if (store->empty() || store->find('\0') != std::string::npos ||
      (scheme != std::string::npos && !store->starts_with("postgresql://") &&
       !store->starts_with("postgres://"))) {
    // What it is may be a secret.
    return error(journal, "expected " + std::string(kExpected) + ", found " +
                              (store->empty() ? "an empty text" : "something else"));
  }
  if (scheme == std::string::npos) {
    *store = resolve(*store);
  } else if (const auto unfit = unfit_in_postgres_url(*store); !unfit.empty()) {
    return error(journal, std::string(unfit));
  } else if (inline_text) {
    const std::string_view user = std::string_view(*store).substr(scheme + 3);
    if (user.substr(0, user.find('@')).find(':') < user.find('/') &&
        user.find('@') < user.find('/')) {
      warn(*journal.node, journal.path +
                              ": a password stands in this file: better {credential: "
                              "NAME}, {file: PATH} or {env: NAME}");
    }
  }
  loaded_.settings.monitor_journal = *store;
}

constexpr std::string_view kWhyPrefetchNotZero =
    "0 would be no limit, and all messages of the queue would come at once";

void Loader::defaults(const Value& value) {
  const Map keys = map(value, kDefaultsKeys, kLaterGroupKeys);
  integer(keys["prefetch"], prefetch_default_, 1, 65535, kWhyPrefetchNotZero);
  shared_keys(keys, group_defaults_);
  if (keys.refused("timeout") || is_wrong(keys["timeout"])) timeouts_known_ = false;
}

// What `defaults` may say for every group, and each group for itself. What is left out stays as it
// is in `target`.
void Loader::shared_keys(const Map& keys, GroupSettings& target) {
  workers(keys["workers"], target);
  integer(keys["threads"], target.threads, 1, 256);
  boolean(keys["auto_ack"], target.auto_ack);
  size(keys["max_body"], target.max_body_bytes, kBodyRange);
  duration(keys["start_timeout"], target.start_timeout, kStartRange);
  duration(keys["timeout"], target.timeout, kCallRange);
  retry(keys["retry"], target.retry);
  integer(keys["crashes"], target.crashes, 1, 100);
  dead_letter(keys["dead_letter"], target.dead_letter);
  breaker(keys["breaker"], target.breaker);
  recycle(keys["recycle"], target.recycle);
  accept(keys["accept"], target.content.accept);
  decode(keys["decode"], target.content);
  static constexpr std::string_view kCharsets[] = {"utf-8", "as-is"};
  if (std::string word; choice(keys["charset"], word, kCharsets)) {
    target.content.to_utf8 = word == "utf-8";
  }
  compress(keys["compress"], target.content);
  dedup(keys["dedup"], target.dedup);
}

// A group's list takes the place of what `defaults` says; an empty one is any.
void Loader::accept(const Value& value, std::vector<std::string>& target) {
  if (!value || !is_list(value, "a list of content types")) return;
  const std::string what = "a content type, such as application/json or text/*";
  const std::size_t before = loaded_.errors.size();
  std::vector<std::string> types;
  for (std::size_t i = 0; i < value.node->items.size(); ++i) {
    const Value entry = item(value, i);
    if (entry.node->refused) continue;
    std::string type;
    if (!text(entry, type, what)) continue;
    if (is_media_range(type)) {
      types.push_back(std::move(type));
    } else {
      expected(entry, what);
    }
  }
  if (loaded_.errors.size() == before) target = std::move(types);
}

void Loader::decode(const Value& value, ContentSettings& target) {
  if (!value) return;
  if (value.is(YamlType::boolean)) return boolean(value, target.decode);
  if (!value.is(YamlType::map)) {
    return expected(value, "true, false, or a map of " + list_of(kDecodeKeys, " and "));
  }
  const Map keys = map(value, kDecodeKeys);
  target.decode = true;
  size(keys["max_size"], target.max_decoded_bytes, kBodyRange);
}

// What the file says is judged where it is used, by a worker: it is foreign to this process.
void Loader::validate(const Value& value, ContentSettings& target, GroupPlaces& places) {
  if (!value) return;
  std::string path;
  if (!text(value, path, "the path of a JSON Schema")) return;
  if (path.empty()) return expected(value, "the path of a JSON Schema");
  places.schema = {file_, value.node->line, value.node->column};
  path = resolve(path);
  struct stat status {};
  auto content = read_small_file(value, path, kMaxSchemaBytes, "a JSON Schema", status);
  if (!content) return;
  if (content->empty()) {
    return error(value, "'" + shown(path) + "': expected a JSON Schema, found an empty file");
  }
  if (first_invalid_utf8(*content) != std::string::npos) {
    return error(value, "'" + shown(path) + "': expected UTF-8, found other bytes");
  }
  target.schema = std::move(*content);
  target.schema_file = std::move(path);
}

void Loader::compress(const Value& value, ContentSettings& target) {
  if (!value) return;
  static constexpr std::string_view kEncodings[] = {"none", "gzip", "bzip2", "xz", "zstd"};
  std::string word = target.compress.empty() ? "none" : target.compress;
  if (value.is(YamlType::text)) {
    choice(value, word, kEncodings);
  } else if (value.is(YamlType::map)) {
    const Map keys = map(value, kCompressKeys);
    if (keys.has("encoding")) {
      choice(keys["encoding"], word, kEncodings);
    } else if (word == "none") {
      error(value, "expected 'encoding', found none");
    }
    size(keys["min_size"], target.compress_min_bytes, kCompressRange);
  } else {
    return expected(value,
                    list_of(kEncodings) + ", or a map of " + list_of(kCompressKeys, " and "));
  }
  target.compress = word == "none" ? "" : word;
}

void Loader::workers(const Value& value, GroupSettings& target) {
  if (!value) return;
  if (!value.is(YamlType::map)) {
    target.workers_max = 0;
    return integer(value, target.workers, 1, kMaxWorkers);
  }
  const Map keys = map(value, kWorkersKeys);
  for (const std::string_view key : kWorkersKeys) {
    if (!keys.has(key)) error(value, "expected '" + std::string(key) + "', found none");
  }
  int least = 1;
  int most = kMaxWorkers;
  integer(keys["min"], least, 1, kMaxWorkers);
  integer(keys["max"], most, 1, kMaxWorkers);
  if (least > most) {
    return error(value, "expected min to be at most max, found " + std::to_string(least) + " and " +
                            std::to_string(most));
  }
  target.workers = least;
  target.workers_max = most;
}

void Loader::retry(const Value& value, RetrySettings& target) {
  if (!value) return;
  if (value.is(YamlType::integer)) return integer(value, target.attempts, 1, kMaxAttempts);
  if (!value.is(YamlType::map)) {
    return expected(value, "a whole number from 1 to " + std::to_string(kMaxAttempts) +
                               ", or a map of " + list_of(kRetryKeys, " and "));
  }
  const Map keys = map(value, kRetryKeys);
  integer(keys["attempts"], target.attempts, 1, kMaxAttempts);
  ordered(keys, {"delay", target.delay, kRetryDelayRange},
          {"max_delay", target.max_delay, kMaxDelayRange});
  number(keys["backoff"], target.backoff, kBackoffRange);
  number(keys["jitter"], target.jitter, kJitterRange);
}

// A group's takes the place of all that `defaults` says: an exchange goes with no other's key.
void Loader::dead_letter(const Value& value, DeadLetterSettings& target) {
  if (!value) return;
  if (value.is(YamlType::text) && value.node->text == "broker") {
    target = {};
    target.to = DeadLetterSettings::To::broker;
    return;
  }
  if (!value.is(YamlType::map)) {
    return expected(value, "broker, or a map of " + list_of(kDeadLetterKeys, " and "));
  }
  const std::size_t before = loaded_.errors.size();
  const Map keys = map(value, kDeadLetterKeys);
  DeadLetterSettings settings;
  settings.to = DeadLetterSettings::To::exchange;
  boolean(keys["declare"], settings.declare);
  exchange_type(keys["type"], settings.exchange_type);
  if (const Value key = keys["key"]) name(key, settings.routing_key, "a routing key", true);
  if (const Value exchange = keys["exchange"])
    name(exchange, settings.exchange, "the name of an exchange");
  if (const Value queue = keys["queue"]) name(queue, settings.routing_key, "the name of a queue");

  if (keys.has("exchange") && keys.has("queue")) {
    error(value, "expected exchange or queue, found both");
  } else if (keys.has("queue")) {
    for (const std::string_view key : {"key", "type"}) {
      if (const Value given = keys[key])
        error(*given.key, given.path + ": expected with exchange only, found queue");
    }
  } else if (!keys.has("exchange")) {
    error(value, "expected exchange or queue, found none");
  } else if (const Value type = keys["type"];
             type && !settings.declare && !keys.refused("declare") && !is_wrong(keys["declare"])) {
    error(*type.key, type.path + ": expected 'declare: true' beside it, found " +
                         (keys.has("declare") ? "false" : "none"));
  }
  if (loaded_.errors.size() == before) target = std::move(settings);
}

void Loader::breaker(const Value& value, BreakerSettings& target) {
  if (!value) return;
  if (value.is(YamlType::boolean)) return boolean(value, target.on);
  if (!value.is(YamlType::map)) {
    return expected(value, "true, false, or a map of " + list_of(kBreakerKeys, " and "));
  }
  const Map keys = map(value, kBreakerKeys);
  target.on = true;
  number(keys["failures"], target.failures, kFailuresRange);
  integer(keys["outcomes"], target.outcomes, 1, 10'000);
  duration(keys["period"], target.period, kPeriodRange);
  ordered(keys, {"pause", target.pause, kPauseRange},
          {"max_pause", target.max_pause, kMaxPauseRange});
}

void Loader::recycle(const Value& value, RecycleSettings& target) {
  if (!value) return;
  if (value.is(YamlType::boolean) && !yaml_boolean(*value.node)) {
    target = {};
    return;
  }
  if (!value.is(YamlType::map)) {
    return expected(value, "false, or a map of " + list_of(kRecycleKeys, " and "));
  }
  const Map keys = map(value, kRecycleKeys);
  integer(keys["messages"], target.messages, 1, 2'000'000'000);
  size(keys["memory"], target.memory_bytes, kRecycleMemoryRange);
  duration(keys["age"], target.age, kRecycleAgeRange);
}

void Loader::dedup(const Value& value, DedupSettings& target) {
  if (!value) return;
  if (value.is(YamlType::boolean) && !yaml_boolean(*value.node)) {
    target = {};
    return;
  }
  if (value.is(YamlType::text)) return dedup_key(value, target);
  if (!value.is(YamlType::map)) {
    return expected(
        value, "false, message_id, header:NAME, body, or a map of " + list_of(kDedupKeys, " and "));
  }
  const Map keys = map(value, kDedupKeys);
  dedup_key(keys["key"], target);
  if (!keys.has("key") && target.key == DedupSettings::Key::none) {
    error(value, "expected 'key', found none");
  }
  duration(keys["window"], target.window, kWindowRange);
  dedup_store(keys["store"], target);
  std::string word;
  static constexpr std::string_view kFailures[] = {"run", "wait"};
  if (choice(keys["on_store_failure"], word, kFailures)) {
    target.on_store_failure =
        word == "run" ? DedupSettings::OnStoreFailure::run : DedupSettings::OnStoreFailure::wait;
  }
  min_interval(keys["min_interval"], target);
  if (target.window == 0ms && target.min_interval == 0ms && !is_wrong(keys["window"]) &&
      !is_wrong(keys["min_interval"])) {
    const Value window = keys["window"];
    error(window ? window : value, "expected a window, or a min_interval beside it, found neither");
  }
}

void Loader::dedup_key(const Value& value, DedupSettings& target) {
  if (!value) return;
  constexpr std::string_view kHeader = "header:";
  const std::string what = "message_id, header:NAME or body";
  std::string word;
  if (!text(value, word, what)) return;
  if (word == "message_id" || word == "body") {
    target.key = word == "body" ? DedupSettings::Key::body : DedupSettings::Key::message_id;
    target.header.clear();
  } else if (word.starts_with(kHeader) && word.size() > kHeader.size()) {
    if (word.size() - kHeader.size() > kMaxShortString) {
      return error(value, "expected a header's name of at most 255 bytes, found " +
                              std::to_string(word.size() - kHeader.size()));
    }
    target.key = DedupSettings::Key::header;
    target.header = word.substr(kHeader.size());
  } else {
    expected(value, what);
  }
}

// The URL may hold a password: it is never shown.
void Loader::dedup_store(const Value& value, DedupSettings& target) {
  if (!value) return;
  if (value.is(YamlType::text) && value.node->text == "local") {
    target.store = DedupSettings::Store::local;
    target.redis_url.clear();
    return;
  }
  Value place = value;
  std::optional<std::string> given;
  if (value.is(YamlType::text)) {
    given = value.node->text;
  } else if (value.is(YamlType::map)) {
    const Map keys = map(value, kDedupStoreKeys, {}, true);
    place = keys["url"];
    if (!keys.has("url")) error(value, "expected 'url', found none");
    if (!place) return;
    const std::size_t notes = loaded_.notes.size();
    given = password(place);
    if (!given) return;
    const bool unread = !look_for_secrets_ || loaded_.notes.size() > notes;
    if (unread && !place.is(YamlType::text)) {
      target.store = DedupSettings::Store::redis;
      target.redis_url = kNoPassword;
      return;
    }
  } else {
    return expected(value, "local, a URL redis://host:port/number, or a map of url");
  }
  const auto parsed = parse_redis_url(*given);
  if (!parsed) {
    return error(place, place.is(YamlType::text) && !given->starts_with("redis")
                            ? "expected local or redis://host:port/number, found another text"
                            : parsed.error());
  }
  if (place.is(YamlType::text) && !parsed->password.empty()) {
    warn(*place.node, place.path +
                          ": URL: a password stands in this file: better dedup.store with {url: "
                          "{credential: NAME}}, {url: {file: PATH}} or {url: {env: NAME}}");
  }
  target.store = DedupSettings::Store::redis;
  target.redis_url = std::move(*given);
}

void Loader::min_interval(const Value& value, DedupSettings& target) {
  if (!value) return;
  if (!value.is(YamlType::map)) return duration(value, target.min_interval, kIntervalRange);
  const Map keys = map(value, kMinIntervalKeys);
  if (!keys.has("every")) error(value, "expected 'every', found none");
  duration(keys["every"], target.min_interval, kIntervalRange);
  std::string word;
  static constexpr std::string_view kThen[] = {"delay", "drop"};
  if (choice(keys["then"], word, kThen)) {
    target.too_soon = word == "drop" ? DedupSettings::TooSoon::drop : DedupSettings::TooSoon::delay;
  }
}

bool is_group_name(std::string_view name) {
  return is_plain_name(name, kMaxGroupName) && is_alnum(name.front());
}

void Loader::groups(const Value& value) {
  if (!value || value.node->refused) return;
  if (!value.is(YamlType::map)) return expected(value, "a map of groups by their names");
  for (std::size_t i = 0; i < value.node->keys.size(); ++i) {
    const YamlNode& key = value.node->keys[i];
    const YamlNode& node = value.node->items[i];
    if (key.refused || !key.is_scalar() || node.refused) continue;
    if (!is_group_name(key.text)) {
      error(key,
            "groups: expected a name of 1 to 64 letters, digits, '.', '_' and '-' that starts with "
            "a letter or digit, found '" +
                shown(key.text) + "'");
      continue;
    }
    const auto [first, added] =
        group_places_.emplace(key.text, ConfigPlace{file_, key.line, key.column});
    if (!added) {
      const ConfigPlace& place = first->second;
      error(key, "group '" + key.text + "' is given twice: first at " + place.file + ":" +
                     std::to_string(place.line) + ":" + std::to_string(place.column));
      continue;
    }
    group(key.text, {&node, &key, value.path + "." + key.text});
  }
}

void Loader::group(const std::string& group_name, const Value& value) {
  const Map keys = map(value, kGroupKeys, kLaterGroupKeys);
  if (!keys) return;
  GroupSettings settings = group_defaults_;
  GroupPlaces places;
  settings.name = group_name;

  if (const Value handler = keys["handler"]) {
    places.handler = {file_, handler.node->line, handler.node->column};
    if (text(handler, settings.handler, "the name of a handler") && settings.handler.empty()) {
      expected(handler, "the name of a handler");
    }
  } else if (!keys.has("handler")) {
    error(*value.key, value.path + ": expected 'handler', found none");
  }
  options(keys["options"], settings, places);
  shared_keys(keys, settings);
  if (const Map batch = map(keys["batch"], kBatchKeys)) {
    integer(batch["size"], settings.batch_size, 1, kMaxBatch);
    duration(batch["wait"], settings.batch_wait, kWaitRange);
  }
  duration(keys["flush_interval"], settings.flush_interval, kWaitRange);
  validate(keys["validate"], settings.content, places);
  if (settings.content.max_decoded_bytes == 0) {
    settings.content.max_decoded_bytes = settings.max_body_bytes;
  }
  QueueDefaults base;
  base.prefetch = prefetch_default_;
  queue_keys(keys, base);
  settings.queues = queues(keys, group_name, base);
  journal(keys["journal"], settings.journal);
  check_journal(keys["journal"], settings);
  retry_queues(keys, value, settings);
  rate(keys["rate"], settings.rate);
  order(keys, settings);
  check_timeout(keys, value, settings);
  check_dead_letter(keys, value, settings);
  check_dedup(keys, value, settings);
  loaded_.settings.groups.push_back(std::move(settings));
  loaded_.places.push_back(std::move(places));
}

void Loader::rate(const Value& value, RateSettings& target) {
  if (!value) return;
  if (!value.is(YamlType::map) && !value.is(YamlType::integer) && !value.is(YamlType::real)) {
    return expected(value,
                    std::string(kRateRange.text) + ", or a map of " + list_of(kRateKeys, " and "));
  }
  RateSettings settings;
  if (!value.is(YamlType::map)) {
    number(value, settings.per_second, kRateRange);
  } else {
    const Map keys = map(value, kRateKeys);
    if (!keys.has("per_second")) error(value, "expected 'per_second', found none");
    number(keys["per_second"], settings.per_second, kRateRange);
    number(keys["burst"], settings.burst, kBurstRange);
  }
  // Of a tenth of a second.
  if (settings.burst == 0) settings.burst = std::max(1.0, settings.per_second / 10);
  target = settings;
}

void Loader::order(const Map& keys, GroupSettings& group) {
  constexpr std::string_view kHeader = "header:";
  const Value by = keys["order_by"];
  const Value strict = keys["order"];
  if (by) {
    const std::string what = "routing_key or header:NAME";
    std::string given;
    if (!text(by, given, what)) return;
    if (given == "routing_key") {
      group.order.by = OrderSettings::By::routing_key;
    } else if (given.starts_with(kHeader) && given.size() > kHeader.size() &&
               given.size() <= kHeader.size() + kMaxShortString) {
      group.order.by = OrderSettings::By::header;
      group.order.header = given.substr(kHeader.size());
    } else {
      return expected(by, what);
    }
  }
  if (strict) {
    static constexpr std::string_view kWords[] = {"strict"};
    std::string word;
    if (!choice(strict, word, kWords)) return;
    if (by) return error(*strict.key, strict.path + ": expected order_by or order, found both");
    group.order.by = OrderSettings::By::queue;
  }
  if (group.order.by == OrderSettings::By::none) return;
  const Value& place = by ? by : strict;
  check_order(keys, place, group);
  check_order_of_queues(place, group);
  check_order_of_waits(keys, place, group);
  const Value own = keys["prefetch"];
  int window = 0;
  for (const QueueSettings& queue : group.queues) window += queue.prefetch;
  const int calls = std::max(group.workers, group.workers_max) * group.threads;
  constexpr int kEnough = 4;
  if (group.order.by != OrderSettings::By::queue && window < kEnough * calls) {
    warn(own ? *own.node : *place.node,
         (own ? own.path : place.path) + ": prefetch " + std::to_string(window) + " is less than " +
             std::to_string(kEnough) + " x workers x threads, " + std::to_string(kEnough * calls) +
             ": messages of one key that wait for each other leave workers without any");
  }
}

void Loader::check_order(const Map& keys, const Value& place, GroupSettings& group) {
  const auto refuse = [&](std::string_view key, const std::string& problem) {
    const Value own = keys[key];
    error(own ? own : place, problem + (own ? " (with " + std::string(place.key->text) + ")" : ""));
  };
  if (group.auto_ack) {
    refuse(
        "auto_ack",
        "expected auto_ack: false, found true: what is acked already cannot go back to its place");
  }
  if (group.order.by != OrderSettings::By::queue) return;
  // Those of `defaults` were not meant for it.
  if (!keys.has("workers")) group.workers = 1;
  if (!keys.has("workers")) group.workers_max = 0;
  if (!keys.has("threads")) group.threads = 1;
  if (group.workers != 1 || group.workers_max > 1) {
    refuse("workers", "expected 1 worker, found more: one message after another");
  }
  if (group.threads != 1) {
    refuse("threads", "expected 1 thread, found more: one message after another");
  }
  if (group.batch_size != 1) {
    refuse("batch", "expected no batch.size but 1, found " + std::to_string(group.batch_size) +
                        ": one message after another");
  }
}

// Only one consumer at a time, in all daemons, keeps an order.
void Loader::check_order_of_queues(const Value& place, GroupSettings& group) {
  for (QueueSettings& queue : group.queues) {
    const std::string subject = "queue '" + shown(queue.name) + "': ";
    DeclareSettings& declaration = queue.declaration;
    if (queue.stream) error(place, subject + "expected classic or quorum, found a stream");
    if (!queue.declare) continue;
    if (declaration.exclusive || declaration.auto_delete) {
      error(place, subject + "expected neither exclusive nor auto_delete, found " +
                       (declaration.exclusive ? "exclusive" : "auto_delete") +
                       ": it would be gone with its messages when they are to go back to their "
                       "places");
    }
    const AmqpValue* const single = find(declaration.arguments, kSingleActive);
    if (single == nullptr) {
      declaration.arguments.emplace_back(std::string(kSingleActive), AmqpValue{true});
    } else if (*single != AmqpValue{true}) {
      error(place, subject +
                       "expected the argument x-single-active-consumer to be true, or left "
                       "out, found another value");
    }
  }
}

// A message waits here for its next attempt, and for its dedup key, while the broker counts.
void Loader::check_order_of_waits(const Map& keys, const Value& place, const GroupSettings& group) {
  const milliseconds all = loaded_.settings.broker.consumer_timeout;
  if (all == 0ms || !timeouts_known_ || is_wrong(keys["timeout"]) || group.timeout >= all) return;
  const milliseconds limit =
      std::chrono::floor<std::chrono::seconds>(patience(all, group.timeout).stays());
  const auto check = [&](const Value& own, const std::string& what, milliseconds longest,
                         const std::string& why) {
    if (longest <= limit) return;
    error(own ? own : place, "expected " + what + " to be longer than " + duration_text(limit) +
                                 ", which broker.consumer_timeout (" + duration_text(all) +
                                 ") and timeout (" + duration_text(group.timeout) +
                                 ") leave, found " + why);
  };
  const std::string with = ": with " + std::string(place.key->text) + " ";
  const RetrySettings& retry = group.retry;
  if (retry.attempts >= 2 && !is_wrong(keys["retry"])) {
    const double grown =
        static_cast<double>(retry.delay.count()) * std::pow(retry.backoff, retry.attempts - 2);
    const double most = std::min(grown, static_cast<double>(retry.max_delay.count()));
    const milliseconds longest(static_cast<std::int64_t>(most * (1 + retry.jitter)));
    check(keys["retry"], "no delay of a retry", longest,
          "up to " + duration_text(longest) + with +
              "a message waits here for its next attempt: write a shorter max_delay");
  }
  if (group.dedup.key != DedupSettings::Key::none && !is_wrong(keys["dedup"])) {
    check(keys["dedup"], "no min_interval", group.dedup.min_interval,
          duration_text(group.dedup.min_interval) + with + "what comes too soon waits here");
  }
}

// The broker closes the channel of who holds a message for longer than its consumer_timeout, and
// everybody's messages on it come again.
void Loader::check_timeout(const Map& keys, const Value& value, const GroupSettings& group) {
  const milliseconds limit = loaded_.settings.broker.consumer_timeout;
  const Value own = keys["timeout"];
  if (limit == 0ms || !timeouts_known_ || keys.refused("timeout") || is_wrong(own)) return;
  const YamlNode& place = own ? *own.node : *value.key;
  const std::string subject = own ? own.path : value.path;
  const std::string broker_limit = "broker.consumer_timeout (" + duration_text(limit) + ")";
  if (group.timeout == 0ms) {
    return warn(place, subject + ": no timeout: the broker closes the channel of a handler that " +
                           "takes longer than " + broker_limit);
  }
  const bool waits = group.batch_size > 1;
  if (group.timeout + (waits ? group.batch_wait : 0ms) < limit - kConsumerTimeoutMargin) return;
  error(place,
        subject + ": expected " + (waits ? "timeout and batch.wait together" : "a timeout") +
            " below " + broker_limit + " less " + duration_text(kConsumerTimeoutMargin) +
            ", found " + duration_text(group.timeout) +
            (waits ? " and " + duration_text(group.batch_wait) : "") +
            ": raise the broker's consumer_timeout and say so with broker.consumer_timeout, or "
            "write a shorter timeout");
}

void Loader::check_dead_letter(const Map& keys, const Value& value, const GroupSettings& group) {
  const DeadLetterSettings& to = group.dead_letter;
  if (to.to != DeadLetterSettings::To::exchange || !to.exchange.empty()) return;
  if (std::ranges::find(group.queues, to.routing_key, &QueueSettings::name) == group.queues.end())
    return;
  const std::string problem = ": expected a queue that is not the group's own, found '" +
                              shown(to.routing_key) + "': its dead letters would come again";
  const Value own = keys["dead_letter"];
  if (own && own.is(YamlType::map)) {
    if (const Value queue = Map(own.node, own.path)["queue"])
      error(*queue.node, queue.path + problem);
  } else if (!keys.has("dead_letter")) {
    error(*value.key, value.path + ": defaults.dead_letter.queue" + problem);
  }
}

// What is acked before it runs cannot be kept until another has been done.
void Loader::check_dedup(const Map& keys, const Value& value, const GroupSettings& group) {
  if (group.dedup.key == DedupSettings::Key::none || !group.auto_ack) return;
  const Value own = keys["dedup"];
  const std::string problem =
      "expected auto_ack: false beside it, found true: such a message is acked before it is done";
  if (own) return error(own, problem);
  if (!keys.has("dedup")) error(*value.key, value.path + ": defaults.dedup: " + problem);
}

bool has_key(const AmqpTable& table, std::string_view key) {
  return std::ranges::any_of(table, [key](const auto& entry) { return entry.first == key; });
}

// What a group may say for all its queues, and each queue for itself.
void Loader::queue_keys(const Map& keys, QueueDefaults& target) {
  integer(keys["prefetch"], target.prefetch, 1, 65535, kWhyPrefetchNotZero);
  if (const Value tag = keys["consumer_tag"])
    name(tag, target.consumer_tag, "a consumer tag", true);
  if (const Value arguments = keys["consumer_arguments"]) {
    amqp_table(arguments, target.consumer_arguments);
    if (has_key(target.consumer_arguments, "x-stream-offset")) {
      error(arguments, "expected no 'x-stream-offset': the key 'offset' beside it says it");
    }
    for (const std::string_view filter : {"x-stream-filter", "x-stream-match-unfiltered"}) {
      if (!has_key(target.consumer_arguments, filter)) continue;
      error(arguments, "'" + std::string(filter) +
                           "' is not available in this version: a broker knows it from RabbitMQ "
                           "3.13 on");
    }
  }
  if (const Value priority = keys["priority"]) {
    int given = 0;
    integer(priority, given, -kMaxConsumerPriority, kMaxConsumerPriority);
    if (keys.has("consumer_arguments") && has_key(target.consumer_arguments, "x-priority")) {
      error(*priority.key,
            priority.path + ": expected priority or x-priority in consumer_arguments, found both");
    }
    std::erase_if(target.consumer_arguments,
                  [](const AmqpEntry& entry) { return entry.first == "x-priority"; });
    target.priority = given;
  } else if (has_key(target.consumer_arguments, "x-priority")) {
    target.priority.reset();
  }
  declare(keys["declare"], target);
  static constexpr std::string_view kTypes[] = {"classic", "quorum", "stream"};
  choice(keys["type"], target.type, kTypes);
  offset(keys["offset"], target.offset);
}

void Loader::offset(const Value& value, StreamOffset& target) {
  if (!value) return;
  using From = StreamOffset::From;
  const std::string what =
      "first, last, next, the number of a message, or a time such as 2026-01-31T00:00:00Z";
  const YamlNode& node = *value.node;
  if (node.type == YamlType::integer) {
    const auto number = yaml_integer(node);
    if (!number || *number < 0) return expected(value, what);
    target = {From::number, *number};
    return;
  }
  if (node.type != YamlType::text) return expected(value, what);
  constexpr std::pair<std::string_view, From> kWords[] = {
      {"first", From::first}, {"last", From::last}, {"next", From::next}};
  for (const auto& [word, from] : kWords) {
    if (node.text != word) continue;
    target = {from, 0};
    return;
  }
  const auto time = parse_time(node.text);
  if (!time || *time < 0) return expected(value, what);
  target = {From::time, *time / 1000};
}

// What is said of one queue, or of all, fits together.
void Loader::check_type(const Map& keys, const QueueDefaults& queue) {
  const Value type = keys["type"];
  if (type && queue.declare && !is_wrong(type) && queue.type != queue.declaration.type) {
    error(type, "expected " + queue.declaration.type + ", as declare.type says, found '" +
                    shown(queue.type) + "'");
  }
  const Value from = keys["offset"];
  if (from && !queue.is_stream() && !is_wrong(from) && !is_wrong(type)) {
    error(*from.key, from.path + ": expected 'type: stream' beside it, found " +
                         (queue.type.empty() ? "none" : "'" + shown(queue.type) + "'"));
  }
}

// What is put back into a stream comes to everybody who reads it. So a group has a queue of its own
// beside each for what it tries again.
void Loader::retry_queues(const Map& keys, const Value& value, GroupSettings& group) {
  const auto place_of = [&](std::string_view key) -> const YamlNode& {
    const Value own = keys[key];
    return own ? *own.node : *value.key;
  };
  std::vector<QueueSettings> added;
  for (QueueSettings& stream : group.queues) {
    if (!stream.stream) continue;
    QueueSettings queue;
    queue.name = stream.retry_queue = stream.name + "." + group.name + ".retry";
    queue.prefetch = stream.prefetch;
    queue.declare = true;
    queue.declaration.type = "quorum";
    if (queue.name.size() > kMaxShortString) {
      error(place_of("queues"),
            value.path + ": expected a stream's name of at most " +
                std::to_string(kMaxShortString - queue.name.size() + stream.name.size()) +
                " bytes, found " + std::to_string(stream.name.size()) +
                ": '<stream>.<group>.retry' has to be the name of a queue");
    }
    if (std::ranges::find(group.queues, queue.name, &QueueSettings::name) != group.queues.end()) {
      error(place_of("queues"), value.path + ": expected no queue '" + shown(queue.name) +
                                    "', found one: it is where what is read from '" +
                                    shown(stream.name) + "' waits for another attempt");
    }
    added.push_back(std::move(queue));
  }
  if (added.empty()) return;
  if (group.dead_letter.to == DeadLetterSettings::To::broker) {
    error(place_of("dead_letter"), value.path +
                                       ": expected dead_letter to be an exchange or a queue, found "
                                       "'broker': a stream has no dead-letter exchange");
  }
  group.queues.insert(group.queues.end(), added.begin(), added.end());
}

std::vector<QueueSettings> Loader::queues(const Map& group, const std::string& group_name,
                                          const QueueDefaults& base) {
  const auto make = [](std::string queue_name, const QueueDefaults& from) {
    QueueSettings queue;
    queue.name = std::move(queue_name);
    queue.prefetch = from.prefetch;
    queue.consumer_tag = from.consumer_tag;
    queue.consumer_arguments = from.consumer_arguments;
    if (from.priority) {
      queue.consumer_arguments.emplace_back("x-priority", AmqpValue{std::int64_t{*from.priority}});
    }
    queue.declare = from.declare;
    queue.declaration = from.declaration;
    queue.stream = from.is_stream();
    if (queue.stream) queue.offset = from.offset;
    return queue;
  };
  const Value one = group["queue"];
  const Value many = group["queues"];
  if (one && many) error(*many.key, many.path + ": expected queue or queues, found both");
  if (!many) {
    std::string queue_name = group_name;
    if (one && one.is(YamlType::list)) {
      error(one, "expected the name of a queue, found a list: several go under 'queues'");
    } else if (one) {
      name(one, queue_name, "the name of a queue");
    }
    check_type(group, base);
    return {make(std::move(queue_name), base)};
  }

  std::vector<QueueSettings> result;
  if (!is_list(many, "a list of queues")) return result;
  if (many.node->items.empty()) error(many, "expected at least one queue, found none");
  for (std::size_t i = 0; i < many.node->items.size(); ++i) {
    const Value entry = item(many, i);
    if (entry.node->refused) continue;
    QueueDefaults own = base;
    Value name_value = entry;
    if (entry.is(YamlType::map)) {
      const Map keys = map(entry, kQueueKeys, kLaterGroupKeys);
      queue_keys(keys, own);
      check_type(keys, own);
      name_value = keys["name"];
      if (!keys.has("name")) error(entry, "expected 'name', found none");
      if (!name_value) continue;
    }
    std::string queue_name;
    if (!name(name_value, queue_name, "the name of a queue")) continue;
    if (std::ranges::find(result, queue_name, &QueueSettings::name) != result.end()) {
      error(name_value, "expected each queue once, found '" + shown(queue_name) + "' again");
      continue;
    }
    result.push_back(make(std::move(queue_name), own));
  }
  return result;
}

void Loader::declare(const Value& value, QueueDefaults& target) {
  const Map keys = map(value, kDeclareKeys);
  if (!keys) return;
  static constexpr std::string_view kTypes[] = {"classic", "quorum", "stream"};
  DeclareSettings settings;
  choice(keys["type"], settings.type, kTypes);
  boolean(keys["durable"], settings.durable);
  boolean(keys["exclusive"], settings.exclusive);
  boolean(keys["auto_delete"], settings.auto_delete);
  if (settings.type != "classic") {
    const std::string kind = settings.type == "quorum" ? "quorum queue" : "stream";
    if (settings.exclusive) {
      error(keys["exclusive"], "expected false for a " + kind +
                                   ", found true: the broker refuses it, a " + kind +
                                   " is replicated and belongs to no connection");
    }
    if (settings.auto_delete) {
      error(keys["auto_delete"], "expected false for a " + kind +
                                     ", found true: the broker refuses it, a " + kind +
                                     " is made to last");
    }
    if (!settings.durable) {
      error(keys["durable"], "expected true for a " + kind +
                                 ", found false: the broker refuses it, a " + kind +
                                 " is always durable");
    }
  }
  if (const Value arguments = keys["arguments"]) {
    amqp_table(arguments, settings.arguments);
    if (has_key(settings.arguments, "x-queue-type")) {
      error(arguments, "expected no 'x-queue-type': the key 'type' beside 'arguments' says it");
    }
  }
  stream_limits(keys, settings);
  if (const Value priorities = keys["max_priority"]) {
    int most = 0;
    integer(priorities, most, 1, kMaxPriority);
    if (settings.type != "classic") {
      error(priorities, "expected none for a " + settings.type + " queue, found " +
                            found(*priorities.node) + ": only a classic queue knows priorities");
    } else if (has_key(settings.arguments, "x-max-priority")) {
      error(*priorities.key,
            priorities.path + ": expected max_priority or x-max-priority in arguments, found both");
    } else {
      settings.arguments.emplace_back("x-max-priority", AmqpValue{std::int64_t{most}});
    }
  }
  if (const Value exchanges = keys["exchanges"];
      exchanges && is_list(exchanges, "a list of exchanges")) {
    for (std::size_t i = 0; i < exchanges.node->items.size(); ++i) {
      const Value entry = item(exchanges, i);
      const Map own = map(entry, kExchangeKeys);
      if (!own) continue;
      ExchangeSettings exchange;
      if (const Value given = own["name"]) {
        name(given, exchange.name, "the name of an exchange");
      } else if (!own.has("name")) {
        error(entry, "expected 'name', found none");
      }
      exchange_type(own["type"], exchange.type);
      boolean(own["durable"], exchange.durable);
      boolean(own["auto_delete"], exchange.auto_delete);
      boolean(own["internal"], exchange.internal);
      amqp_table(own["arguments"], exchange.arguments);
      settings.exchanges.push_back(std::move(exchange));
    }
  }
  if (const Value bindings = keys["bind"]; bindings && is_list(bindings, "a list of bindings")) {
    for (std::size_t i = 0; i < bindings.node->items.size(); ++i) {
      const Value entry = item(bindings, i);
      const Map own = map(entry, kBindKeys);
      if (!own) continue;
      BindingSettings binding;
      if (const Value given = own["exchange"]) {
        name(given, binding.exchange, "the name of an exchange");
      } else if (!own.has("exchange")) {
        error(entry, "expected 'exchange', found none");
      }
      if (const Value key = own["key"]) name(key, binding.key, "a binding key", true);
      amqp_table(own["arguments"], binding.arguments);
      settings.bindings.push_back(std::move(binding));
    }
  }
  target.declare = true;
  target.declaration = std::move(settings);
}

// How much of a stream is kept.
void Loader::stream_limits(const Map& keys, DeclareSettings& target) {
  const auto add = [&](std::string_view key, std::string_view argument, auto read) {
    const Value value = keys[key];
    if (!value) return;
    if (target.type != "stream") {
      return error(*value.key, value.path + ": expected 'type: stream' beside it, found '" +
                                   shown(target.type) + "'");
    }
    if (has_key(target.arguments, argument)) {
      return error(*value.key, value.path + ": expected it or '" + std::string(argument) +
                                   "' under arguments, found both");
    }
    const std::optional<AmqpValue> read_value = read(value);
    if (read_value) target.arguments.emplace_back(std::string(argument), *read_value);
  };
  const auto as_size = [&](const SizeRange& range) {
    return [&](const Value& value) -> std::optional<AmqpValue> {
      std::int64_t bytes = 0;
      size(value, bytes, range);
      return bytes > 0 ? std::optional(AmqpValue{bytes}) : std::nullopt;
    };
  };
  add("max_bytes", "x-max-length-bytes", as_size(kStreamSizeRange));
  add("max_age", "x-max-age", [&](const Value& value) -> std::optional<AmqpValue> {
    std::chrono::seconds age{0};
    duration(value, age, kStreamAgeRange);
    if (age.count() == 0) return std::nullopt;
    return AmqpValue{std::to_string(age.count()) + "s"};
  });
  add("segment_size", "x-stream-max-segment-size-bytes", as_size(kSegmentRange));
}

// ---- Options -------------------------------------------------------------------------------

void Loader::options(const Value& value, GroupSettings& group, GroupPlaces& places) {
  if (!value) return;
  if (!value.is(YamlType::map)) return expected(value, "a map of the handler's options");
  option_names_.clear();
  group.options_json = option(value, "", group, places);
}

// The value as JSON; its scalars go to group.options under `name`. An option's value is never
// shown.
std::string Loader::option(const Value& value, const std::string& name, GroupSettings& group,
                           GroupPlaces& places) {
  const YamlNode& node = *value.node;
  if (node.refused) return "null";
  if (node.type == YamlType::map || node.type == YamlType::list) {
    const bool is_map = node.type == YamlType::map;
    std::string json(1, is_map ? '{' : '[');
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      if (node.items[i].refused) continue;
      const std::string key = is_map ? node.keys[i].text : std::to_string(i);
      Value entry = item(value, i);
      entry.key = is_map ? &node.keys[i] : value.key;
      entry.path = value.path + "." + shown(key);
      if (json.size() > 1) json += ',';
      if (is_map) json += json_quote(key) + ":";
      json += option(entry, name.empty() ? key : name + "." + key, group, places);
    }
    return json + (is_map ? "}" : "]");
  }

  if (!option_names_.insert(name).second) {
    error(node, value.path + ": this option is given twice, with '.' in its name and as a map");
  }
  group.options.emplace_back(name, node.type == YamlType::null ? std::string() : node.text);
  const YamlNode& place = value.key != nullptr ? *value.key : node;
  places.options.push_back({file_, place.line, place.column});
  switch (node.type) {
    case YamlType::real:
      if (!yaml_real(node)) {
        error(node, value.path + ": expected a finite number, or a text in quotes, found another");
      }
      break;
    case YamlType::integer:
      if (!yaml_integer(node) && node.text.find_first_of("xo") != std::string::npos) {
        error(node, value.path + ": expected a number of at most 64 bits, found a larger one");
      }
      break;
    default: break;
  }
  return yaml_json(node);
}

LoadedOptions Loader::load_options(const YamlNode& map) {
  GroupSettings group;
  GroupPlaces places;
  file_ = path_;
  options(Value{&map, nullptr, "options"}, group, places);
  return {std::move(group.options_json), std::move(group.options), std::move(loaded_.errors)};
}

}  // namespace

std::string ConfigProblem::to_string() const {
  std::string result = file;
  if (line > 0) result += ":" + std::to_string(line) + ":" + std::to_string(column);
  return result + ": " + text;
}

LoadedSettings load_settings(const std::string& path, Passwords passwords) {
  return Loader(path, passwords).load();
}

LoadedOptions load_options(const YamlNode& map, const std::string& path) {
  return Loader(path).load_options(map);
}

std::string default_handlers_dir() {
  std::error_code error;
  const auto self = fs::read_symlink("/proc/self/exe", error);
  // PREFIX/bin/lope, or PREFIX/libexec/lope/lope-client.
  auto prefix = self.parent_path().parent_path();
  if (prefix.filename() == "libexec") prefix = prefix.parent_path();
  // A build folder has them beside bin.
  if (fs::is_directory(prefix / "handlers", error)) return prefix / "handlers";
  return prefix / "lib" / "lope" / "handlers";
}

std::span<const KnownKeys> known_keys() { return kKnownKeys; }

}  // namespace lope::supervisor
