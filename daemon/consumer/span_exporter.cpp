#include "consumer/span_exporter.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "common/backoff.h"
#include "common/detached_thread.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/repeated_log.h"
#include "common/text.h"

namespace lope::consumer {

namespace {

constexpr std::size_t kBatch = 512;  // spans of one request
constexpr std::chrono::milliseconds kBatchWait{1000};
constexpr std::chrono::milliseconds kConnect{5000};
constexpr int kMostTries = 6;
constexpr Backoff kAgain{std::chrono::milliseconds(500), std::chrono::milliseconds(10'000)};
constexpr std::chrono::milliseconds kThreadEnds{1000};

// What is used of libcurl.
struct Curl {
  decltype(&::curl_global_init) global_init = nullptr;
  decltype(&::curl_easy_init) easy_init = nullptr;
  decltype(&::curl_easy_setopt) easy_setopt = nullptr;
  decltype(&::curl_easy_getinfo) easy_getinfo = nullptr;
  decltype(&::curl_easy_cleanup) easy_cleanup = nullptr;
  decltype(&::curl_easy_strerror) easy_strerror = nullptr;
  decltype(&::curl_slist_append) slist_append = nullptr;
  decltype(&::curl_slist_free_all) slist_free_all = nullptr;
  decltype(&::curl_multi_init) multi_init = nullptr;
  decltype(&::curl_multi_add_handle) multi_add_handle = nullptr;
  decltype(&::curl_multi_remove_handle) multi_remove_handle = nullptr;
  decltype(&::curl_multi_perform) multi_perform = nullptr;
  decltype(&::curl_multi_poll) multi_poll = nullptr;
  decltype(&::curl_multi_info_read) multi_info_read = nullptr;
  decltype(&::curl_multi_cleanup) multi_cleanup = nullptr;

  // Empty: it is there.
  std::string load() {
    void* const library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return std::string("libcurl: ") + ::dlerror();
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
      function =
          reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
      if (function == nullptr) missing = std::string("libcurl: it has no ") + name;
    };
    find(global_init, "curl_global_init");
    find(easy_init, "curl_easy_init");
    find(easy_setopt, "curl_easy_setopt");
    find(easy_getinfo, "curl_easy_getinfo");
    find(easy_cleanup, "curl_easy_cleanup");
    find(easy_strerror, "curl_easy_strerror");
    find(slist_append, "curl_slist_append");
    find(slist_free_all, "curl_slist_free_all");
    find(multi_init, "curl_multi_init");
    find(multi_add_handle, "curl_multi_add_handle");
    find(multi_remove_handle, "curl_multi_remove_handle");
    find(multi_perform, "curl_multi_perform");
    find(multi_poll, "curl_multi_poll");
    find(multi_info_read, "curl_multi_info_read");
    find(multi_cleanup, "curl_multi_cleanup");
    if (missing.empty() && global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
      missing = "libcurl: curl_global_init failed";
    }
    return missing;
  }
};

// The answer is not looked at.
std::size_t swallow(const char*, std::size_t size, std::size_t count, void*) {
  return size * count;
}

}  // namespace

struct SpanExporter::Shared {
  Shared(const TelemetrySettings& telemetry, std::string resource_text, std::string group_name,
         GroupBoard& group_board)
      : settings(telemetry),
        resource(std::move(resource_text)),
        group(std::move(group_name)),
        board(group_board) {}

  const TelemetrySettings settings;
  const std::string resource;
  const std::string group;
  GroupBoard& board;  // a mapping that stays to the end of the process
  UniqueFd wake;      // breaks a request off
  UniqueFd over;      // readable: the thread has nothing more to do

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Span> waiting;  // guarded by mutex, as the next ones
  bool finishing = false;
  bool ended = false;
  std::string trouble;
  std::atomic<bool> cancelled = false;
  std::atomic<bool> has_trouble = false;

  // The main thread's.
  RepeatedLog repeated;

  // ---- The thread's
  void run();
  void send(const Curl& curl, CURLM* multi, const std::vector<Span>& batch);
  // What came of one request.
  struct Answer {
    bool taken = false;
    bool try_again = false;
    std::string trouble;
  };
  Answer post(const Curl& curl, CURLM* multi, const std::string& body);
  void perform(const Curl& curl, CURLM* multi, CURL* easy, CURLcode& code);
  void count(std::atomic<std::uint64_t>& counter, std::size_t spans) {
    counter.fetch_add(spans, std::memory_order_relaxed);
  }
  void report(std::string what);
};

Result<std::unique_ptr<SpanExporter>> SpanExporter::create(const TelemetrySettings& settings,
                                                           std::string resource, std::string group,
                                                           GroupBoard& board) {
  auto shared = std::make_shared<Shared>(settings, std::move(resource), std::move(group), board);
  for (UniqueFd* fd : {&shared->wake, &shared->over}) {
    auto made = make_eventfd();
    if (!made) return Error{made.error()};
    *fd = std::move(*made);
  }
  if (auto started = start_detached_thread([shared] { shared->run(); }); !started) {
    return Error{started.error()};
  }
  return std::unique_ptr<SpanExporter>(new SpanExporter(std::move(shared)));
}

SpanExporter::~SpanExporter() {
  shared_->cancelled = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(shared_->wake.get(), &one, sizeof one);
  std::unique_lock lock(shared_->mutex);
  shared_->finishing = true;
  shared_->changed.notify_all();
  shared_->changed.wait_for(lock, kThreadEnds, [this] { return shared_->ended; });
  shared_->count(shared_->board.spans_dropped, shared_->waiting.size());
  shared_->waiting.clear();
}

void SpanExporter::add(Span span) {
  std::size_t waiting = 0;
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->waiting.size() < kMostWaiting && !shared_->ended) {
      shared_->waiting.push_back(std::move(span));
      waiting = shared_->waiting.size();
    }
  }
  if (waiting == 0) {
    shared_->count(shared_->board.spans_dropped, 1);
    if (!shared_->has_trouble) shared_->report("the collector takes them too slowly");
  } else if (waiting == 1 || waiting == kBatch) {
    shared_->changed.notify_all();
  }
}

void SpanExporter::tend(TimePoint now) {
  if (!shared_->has_trouble) return;
  std::string trouble;
  {
    const std::lock_guard lock(shared_->mutex);
    trouble.swap(shared_->trouble);
    shared_->has_trouble = false;
  }
  const auto count = shared_->repeated.count(trouble, now);
  if (count == 0) return;
  log_warn("cannot send spans", {{"group", shared_->group},
                                 {"endpoint", shared_->settings.endpoint},
                                 {"reason", trouble},
                                 {"times", count},
                                 {"dropped_in_all", shared_->board.spans_dropped.load()}});
}

void SpanExporter::finish() {
  const std::lock_guard lock(shared_->mutex);
  shared_->finishing = true;
  shared_->changed.notify_all();
}

bool SpanExporter::finished() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->ended;
}

int SpanExporter::event_fd() const { return shared_->over.get(); }

// ---- The thread

void SpanExporter::Shared::report(std::string what) {
  const std::lock_guard lock(mutex);
  trouble = std::move(what);
  has_trouble = true;
}

void SpanExporter::Shared::run() {
  Curl curl;
  std::string missing = curl.load();
  CURLM* const multi = missing.empty() ? curl.multi_init() : nullptr;  // keeps connections
  if (missing.empty() && multi == nullptr) missing = "libcurl: curl_multi_init failed";
  if (!missing.empty()) report(missing);
  std::unique_lock lock(mutex);
  while (true) {
    changed.wait(lock, [this] { return finishing || !waiting.empty(); });
    changed.wait_for(lock, kBatchWait, [this] { return finishing || waiting.size() >= kBatch; });
    if (cancelled || (finishing && waiting.empty())) break;
    const std::size_t size = std::min(kBatch, waiting.size());
    const auto end = waiting.begin() + static_cast<std::ptrdiff_t>(size);
    std::vector<Span> batch(std::make_move_iterator(waiting.begin()), std::make_move_iterator(end));
    waiting.erase(waiting.begin(), end);
    lock.unlock();
    if (missing.empty()) {
      send(curl, multi, batch);
    } else {
      count(board.spans_dropped, batch.size());
    }
    lock.lock();
  }
  lock.unlock();
  if (multi != nullptr) curl.multi_cleanup(multi);
  lock.lock();
  ended = true;
  changed.notify_all();
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(over.get(), &one, sizeof one);
}

// Until the collector takes it, or it is to be given up.
void SpanExporter::Shared::send(const Curl& curl, CURLM* multi, const std::vector<Span>& batch) {
  const std::string body = export_request(resource, batch);
  for (int tries = 1;; ++tries) {
    Answer answer = post(curl, multi, body);
    if (answer.taken) {
      count(board.spans_sent, batch.size());
      return;
    }
    const bool again = answer.try_again && tries < kMostTries;
    if (!cancelled) report(std::move(answer.trouble));
    std::unique_lock lock(mutex);
    // At a drain there is no time to wait.
    if (again && !finishing) {
      changed.wait_for(lock, kAgain.full_jitter(tries - 1, random_fraction()),
                       [this] { return finishing; });
    }
    if (again && !finishing) continue;
    lock.unlock();
    count(board.spans_dropped, batch.size());
    return;
  }
}

SpanExporter::Shared::Answer SpanExporter::Shared::post(const Curl& curl, CURLM* multi,
                                                        const std::string& body) {
  CURL* const easy = curl.easy_init();
  if (easy == nullptr) return {false, true, "libcurl: curl_easy_init failed"};
  const std::string url = settings.endpoint + "/v1/traces";
  curl_slist* headers = curl.slist_append(nullptr, "Content-Type: application/json");
  headers = curl.slist_append(headers, "Expect:");
  for (const auto& [name, value] : settings.headers) {
    headers = curl.slist_append(headers, (name + ": " + value).c_str());
  }
  const auto timeout = static_cast<long>(settings.timeout.count());
  curl.easy_setopt(easy, CURLOPT_URL, url.c_str());
  curl.easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl.easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
  curl.easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
  curl.easy_setopt(easy, CURLOPT_POSTFIELDS, body.data());
  curl.easy_setopt(easy, CURLOPT_USERAGENT, "lope/" LOPE_VERSION);
  curl.easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl.easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout);
  curl.easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                   std::min(timeout, static_cast<long>(kConnect.count())));
  curl.easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
  curl.easy_setopt(easy, CURLOPT_WRITEFUNCTION, &swallow);
  CURLcode code = CURLE_ABORTED_BY_CALLBACK;
  curl.multi_add_handle(multi, easy);
  perform(curl, multi, easy, code);
  long status = 0;
  curl.easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  curl.multi_remove_handle(multi, easy);
  curl.easy_cleanup(easy);
  curl.slist_free_all(headers);

  if (code != CURLE_OK) return {false, true, curl.easy_strerror(code)};
  if (status >= 200 && status < 300) return {true, false, {}};
  // Those that the protocol has tried again.
  const bool again = status == 429 || status == 502 || status == 503 || status == 504;
  return {false, again, "the collector answers " + std::to_string(status)};
}

void SpanExporter::Shared::perform(const Curl& curl, CURLM* multi, CURL* easy, CURLcode& code) {
  curl_waitfd extra{wake.get(), CURL_WAIT_POLLIN, 0};
  int running = 1;
  while (!cancelled) {
    if (curl.multi_perform(multi, &running) != CURLM_OK) return;
    int left = 0;
    while (const CURLMsg* const message = curl.multi_info_read(multi, &left)) {
      if (message->msg != CURLMSG_DONE || message->easy_handle != easy) continue;
      code = message->data.result;
      return;
    }
    if (curl.multi_poll(multi, &extra, 1, 1000, nullptr) != CURLM_OK) return;
  }
}

}  // namespace lope::consumer
