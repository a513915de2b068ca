// Posts each message to a URL, with hundreds of requests in the air at a time on one thread: an
// example of a handler that keeps messages (LOPE_HOLD) and settles them from a thread of its own.
#include <curl/curl.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <lope/handler.hpp>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr lope_option kOptions[] = {
    lope::required("url", "where to post to"),
    lope::defaulted("timeout_ms", "30000", "of one request, connecting included", LOPE_UINT64),
    lope::defaulted("connections", "100", "at most so many to the server at a time", LOPE_UINT64),
    lope::kEndOfOptions};

struct EasyDelete {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiDelete {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
struct ListDelete {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

// One message on its way.
struct Request {
  explicit Request(const lope::Message& about) : message(about) {}
  lope::Message message;  // kept, so it stays valid: its body is sent from where it is
  std::unique_ptr<CURL, EasyDelete> easy;
  std::unique_ptr<curl_slist, ListDelete> headers;
};

std::size_t discard(char*, std::size_t size, std::size_t count, void*) { return size * count; }

class AsyncHttp final : public lope::Handler {
 public:
  explicit AsyncHttp(lope::Host host)
      : host_(host),
        url_(host.option_as<std::string>("url")),
        timeout_ms_(host.option_as<long>("timeout_ms")),
        multi_(curl_multi_init()) {
    if (multi_ == nullptr) throw std::bad_alloc();
    curl_multi_setopt(multi_.get(), CURLMOPT_MAX_TOTAL_CONNECTIONS,
                      host.option_as<long>("connections"));
    thread_ = std::thread([this] { run(); });
  }

  ~AsyncHttp() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    curl_multi_wakeup(multi_.get());
    thread_.join();
  }

  lope::Outcome handle(const lope::Message& message) override {
    {
      const std::lock_guard lock(mutex_);
      new_.push_back(std::make_unique<Request>(message));
      ++in_the_air_;
    }
    curl_multi_wakeup(multi_.get());
    return lope::Outcome::hold;
  }

  // The requests end by themselves, at the latest when their time is up. Only at a drain is there
  // reason to wait for them.
  void flush(lope::FlushReason reason) override {
    if (reason != lope::FlushReason::drain) return;
    std::unique_lock lock(mutex_);
    landed_.wait(lock, [this] { return in_the_air_ == 0; });
  }

 private:
  void run() {
    while (true) {
      bool stopping = false;
      {
        const std::lock_guard lock(mutex_);
        stopping = stopping_;
        for (auto& request : new_) start(std::move(request));
        new_.clear();
      }
      if (stopping) break;
      int running = 0;
      curl_multi_perform(multi_.get(), &running);
      int left = 0;
      while (const CURLMsg* done = curl_multi_info_read(multi_.get(), &left)) {
        if (done->msg == CURLMSG_DONE) finish(done->easy_handle, done->data.result);
      }
      curl_multi_poll(multi_.get(), nullptr, 0, 3'600'000, nullptr);
    }
    for (const auto& request : requests_) {
      curl_multi_remove_handle(multi_.get(), request->easy.get());
    }
  }

  void start(std::unique_ptr<Request> request) {
    const lope::Message& message = request->message;
    request->easy.reset(curl_easy_init());
    CURL* const easy = request->easy.get();
    if (easy == nullptr) throw std::bad_alloc();
    curl_easy_setopt(easy, CURLOPT_URL, url_.c_str());
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(message.body_text().size()));
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, message.body_text().data());
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms_);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, discard);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, request.get());
    const std::string_view type = message.content_type();
    add_header(*request,
               "Content-Type: " + std::string(type.empty() ? "application/octet-stream" : type));
    add_header(*request, "Expect:");
    if (!message.message_id().empty()) {
      add_header(*request, "X-Message-Id: " + std::string(message.message_id()));
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, request->headers.get());
    curl_multi_add_handle(multi_.get(), easy);
    requests_.push_back(std::move(request));
  }

  // A line break in a property must not become another header.
  static void add_header(Request& request, std::string line) {
    std::erase_if(line, [](char c) { return c == '\r' || c == '\n' || c == '\0'; });
    curl_slist* const longer = curl_slist_append(request.headers.get(), line.c_str());
    if (longer == nullptr) throw std::bad_alloc();
    (void)request.headers.release();
    request.headers.reset(longer);
  }

  void finish(CURL* easy, CURLcode result) {
    void* its = nullptr;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &its);
    const auto found = std::find_if(requests_.begin(), requests_.end(),
                                    [its](const auto& each) { return each.get() == its; });
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_multi_remove_handle(multi_.get(), easy);
    const std::unique_ptr<Request> request = std::move(*found);
    requests_.erase(found);

    lope::Outcome outcome = lope::Outcome::ack;
    std::string reason;
    if (result != CURLE_OK) {
      outcome = lope::Outcome::retry;
      reason = curl_easy_strerror(result);
    } else if (status < 200 || status >= 300) {
      // Too many requests, and the server's own trouble, may pass; a refusal will not.
      const bool passing = status == 408 || status == 425 || status == 429 || status >= 500;
      outcome = passing ? lope::Outcome::retry : lope::Outcome::reject;
      reason = "HTTP status " + std::to_string(status);
    }
    if (!reason.empty()) {
      try {
        request->message.explain(reason);
      } catch (const lope::Error&) {
        // It was so quick that handle() has not returned yet: the outcome counts all the same.
      }
    }
    host_.settle(request->message.id(), outcome);
    const std::lock_guard lock(mutex_);
    if (--in_the_air_ == 0) landed_.notify_all();
  }

  const lope::Host host_;
  const std::string url_;
  const long timeout_ms_;
  std::unique_ptr<CURLM, MultiDelete> multi_;
  std::vector<std::unique_ptr<Request>> requests_;  // the thread's
  std::mutex mutex_;                                // guards the rest
  std::condition_variable landed_;
  std::vector<std::unique_ptr<Request>> new_;
  std::size_t in_the_air_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

LOPE_HANDLER_WITH(AsyncHttp, "async_http", "1.0.0",
                  "posts messages to a URL, many requests in the air at a time", kOptions)
