// Sends each message to a URL, with hundreds of requests in the air at a time on one thread: a
// message is kept (LOPE_HOLD) and settled when its answer is there. Requests and outcomes are made
// here; how transfers run is the affair of transfers.hpp, what can be configured of settings.hpp.
#include <curl/curl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <lope/handler.hpp>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "curl.hpp"
#include "settings.hpp"
#include "transfers.hpp"

namespace {

using lope::http::Easy;
using lope::http::List;

// How much of an answer goes into the reason of a message that is not acked.
constexpr std::size_t kShownAnswer = 256;
// The memory for an answer that a request keeps from one message to the next.
constexpr std::size_t kKeptAnswer = 64 * 1024;
// After so long the host may have taken a message back, and is asked before it is sent.
constexpr std::chrono::seconds kSurelyOurs{1};
constexpr std::chrono::hours kLongestRetryAfter{366 * 24};

// One message on its way; its memory serves others after it.
struct Request {
  Easy easy;
  List headers;
  std::optional<lope::Message> message;  // kept, so it stays valid: its body is sent from there
  std::chrono::steady_clock::time_point since;
  std::string exchange, routing_key;  // where the answer is published to
  bool wants_answer = false;
  std::size_t max_answer = 0;
  std::string answer;           // as much of it as is wanted
  std::size_t answer_size = 0;  // of what has come
  bool answer_too_large = false;
  bool sent_again = false;
  std::array<char, CURL_ERROR_SIZE> error{};
};

template <typename Value>
void set(CURL* easy, CURLoption option, Value value) {
  const CURLcode code = curl_easy_setopt(easy, option, value);
  if (code == CURLE_OUT_OF_MEMORY) throw std::bad_alloc();
  if (code != CURLE_OK) throw std::runtime_error(curl_easy_strerror(code));
}

// A kept connection turned out to be closed. libcurl then takes another, but counts how often for
// as long as a handle lives, and gives up at the sixth time.
bool connection_was_gone(CURL* easy, CURLcode result) {
  long connects = 0, received = 0;
  curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects);
  curl_easy_getinfo(easy, CURLINFO_HEADER_SIZE, &received);
  return (result == CURLE_RECV_ERROR || result == CURLE_SEND_ERROR) && connects == 0 &&
         received == 0;
}

// What came from a message must not end a header: no control character is left in it.
void add_header(Request& request, std::string_view name, std::string_view value) {
  std::string line(name);
  line += value.empty() ? ";" : ": ";  // libcurl's way to say: there, and empty
  for (const char c : value) line += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  curl_slist* const longer = curl_slist_append(request.headers.get(), line.c_str());
  if (longer == nullptr) throw std::bad_alloc();
  (void)request.headers.release();
  request.headers.reset(longer);
}

std::string hmac_sha256(const std::string& key, std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest,
           &size) == nullptr) {
    throw std::runtime_error("HMAC failed");
  }
  constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += {kHex[digest[i] >> 4], kHex[digest[i] & 15]};
  return hex;
}

class Http final : public lope::Handler {
 public:
  explicit Http(lope::Host host)
      : host_(host),
        settings_(host),
        took_(host.duration("request", "From the start of a request to the end of its answer.")),
        answered_{host.counter("answers_1xx", "Answers with a status from 100 to 199."),
                  host.counter("answers_2xx", "Answers with a status from 200 to 299."),
                  host.counter("answers_3xx", "Answers with a status from 300 to 399."),
                  host.counter("answers_4xx", "Answers with a status from 400 to 499."),
                  host.counter("answers_5xx", "Answers with a status of 500 and more.")},
        unanswered_(host.counter("unanswered", "Requests without a whole answer.")),
        transfers_(
            settings_.max_in_flight, [this](CURL* easy) { return begin(easy); },
            [this](CURL* easy, CURLcode result) { finish(easy, result); }) {}

  lope::Outcome handle(const lope::Message& message) override {
    Request& request = *spare_request();
    try {
      prepare(request, message);
    } catch (...) {
      put_back(request);
      throw;
    }
    transfers_.start(request.easy.get());
    return lope::Outcome::hold;
  }

  // The requests end by themselves, at the latest when their time is up. Only at a drain is there
  // reason to wait for them.
  void flush(lope::FlushReason reason) override {
    if (reason != lope::FlushReason::drain) return;
    const std::size_t given_up = transfers_.drain(settings_.drain_timeout);
    if (given_up > 0) {
      host_.info(std::to_string(given_up) + " messages without an answer go back to the broker");
    }
  }

 private:
  Request* spare_request();
  void put_back(Request& request);
  void set_up(Request& request) const;
  void prepare(Request& request, const lope::Message& message);
  void add_message_headers(Request& request, const lope::Message& message) const;
  void add_bearer(Request& request);
  void add_signature(Request& request, const lope::Message& message);

  static std::size_t on_answer(char* data, std::size_t size, std::size_t count, void* request);
  // These on the thread of the transfers, as what they call.
  bool begin(CURL* easy);
  bool is_ours(const Request& request);
  void finish(CURL* easy, CURLcode result);
  lope::Outcome outcome_of(Request& request, CURLcode result);
  lope::Outcome outcome_of_failure(Request& request, CURLcode result);
  lope::Outcome outcome_of_refusal(Request& request, long status);
  void publish_answer(Request& request, long status);

  const lope::Host host_;
  lope::http::Settings settings_;
  const lope::Metric took_;
  const lope::Metric answered_[5];
  const lope::Metric unanswered_;
  bool bearer_refused_ = false;
  std::vector<std::unique_ptr<Request>> requests_;  // all of them
  std::mutex mutex_;
  std::vector<Request*> spare_;      // under mutex_
  lope::http::Transfers transfers_;  // last: it works on the others
};

// ---- The request

Request* Http::spare_request() {
  {
    const std::lock_guard lock(mutex_);
    if (!spare_.empty()) {
      Request* const request = spare_.back();
      spare_.pop_back();
      return request;
    }
  }
  requests_.push_back(std::make_unique<Request>());
  requests_.back()->max_answer = settings_.max_answer;
  set_up(*requests_.back());
  return requests_.back().get();
}

void Http::put_back(Request& request) {
  request.message.reset();
  if (request.answer.capacity() > kKeptAnswer) request.answer = {};
  const std::lock_guard lock(mutex_);
  spare_.push_back(&request);
}

// What is the same for all messages.
void Http::set_up(Request& request) const {
  request.easy.reset(curl_easy_init());
  CURL* const easy = request.easy.get();
  if (easy == nullptr) throw std::bad_alloc();
  set(easy, CURLOPT_PRIVATE, &request);
  set(easy, CURLOPT_ERRORBUFFER, request.error.data());
  set(easy, CURLOPT_WRITEFUNCTION, &Http::on_answer);
  set(easy, CURLOPT_WRITEDATA, &request);
  set(easy, CURLOPT_NOSIGNAL, 1L);
  set(easy, CURLOPT_QUICK_EXIT, 1L);  // who gives up does not wait for the resolver
  set(easy, CURLOPT_USERAGENT, "lope");
  set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set(easy, CURLOPT_REDIR_PROTOCOLS_STR, settings_.https ? "https" : "http,https");
  set(easy, CURLOPT_HTTP_VERSION,
      static_cast<long>(settings_.http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
  set(easy, CURLOPT_PIPEWAIT, settings_.http2 ? 1L : 0L);
  set(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  set(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(settings_.timeout.count()));
  set(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(settings_.connect_timeout.count()));
  set(easy, CURLOPT_FOLLOWLOCATION, settings_.follow_redirects > 0 ? 1L : 0L);
  set(easy, CURLOPT_MAXREDIRS, settings_.follow_redirects);
  set(easy, CURLOPT_POSTREDIR, static_cast<long>(CURL_REDIR_POST_301 | CURL_REDIR_POST_302));
  set(easy, CURLOPT_PROXY, settings_.proxy.c_str());
  set(easy, CURLOPT_NOPROXY, "");
  set(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!settings_.ca.empty()) set(easy, CURLOPT_CAINFO, settings_.ca.c_str());
  if (!settings_.certificate.empty()) set(easy, CURLOPT_SSLCERT, settings_.certificate.c_str());
  if (!settings_.key.empty()) set(easy, CURLOPT_SSLKEY, settings_.key.c_str());
  if (settings_.method == "HEAD") {
    set(easy, CURLOPT_NOBODY, 1L);
  } else if (settings_.sends_body) {
    set(easy, CURLOPT_POST, 1L);
  }
  if (settings_.method != "POST" && settings_.method != "GET" && settings_.method != "HEAD") {
    set(easy, CURLOPT_CUSTOMREQUEST, settings_.method.c_str());
  }
}

void Http::prepare(Request& request, const lope::Message& message) {
  CURL* const easy = request.easy.get();
  request.answer.clear();
  request.answer_size = 0;
  request.answer_too_large = false;
  request.sent_again = false;
  request.error[0] = '\0';
  if (settings_.publishes) {
    request.exchange = settings_.answer_exchange.expand(message);
    request.routing_key = settings_.answer_key.expand(message);
  }
  request.wants_answer = settings_.publishes || (settings_.replies && !message.reply_to().empty());

  const std::string url = settings_.url.expand(message, lope::plugins::url_escape);
  if (!settings_.url.is_constant() && lope::http::has_dot_segment(url)) {
    throw lope::Reject(
        "option 'url': expected a message that makes no part of it '.' or '..', found one");
  }
  set(easy, CURLOPT_URL, url.c_str());
  if (settings_.sends_body) {
    set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(message.body().size()));
    // Without any libcurl would ask for the body elsewhere.
    set(easy, CURLOPT_POSTFIELDS, message.body().empty() ? "" : message.body_text().data());
  }
  request.headers.reset();
  add_message_headers(request, message);
  for (const auto& [name, value] : settings_.headers) {
    add_header(request, name, value.expand(message));
  }
  request.message = message;
  request.since = std::chrono::steady_clock::now();
}

void Http::add_message_headers(Request& request, const lope::Message& message) const {
  const auto add = [&](std::string_view name, std::string_view value) {
    if (!value.empty() && !settings_.configures(name)) add_header(request, name, value);
  };
  // libcurl would wait for a "100 Continue" before a large body, which few servers send.
  request.headers.reset(curl_slist_append(nullptr, "Expect:"));
  if (request.headers == nullptr) throw std::bad_alloc();
  if (settings_.sends_body) {
    const std::string_view type = message.content_type();
    add("Content-Type", type.empty() ? settings_.content_type : type);
    add("Content-Encoding", message.content_encoding());
  }
  add("X-Message-Id", message.message_id());
  for (const auto& [header, field] : settings_.pass_properties) {
    add(header, field->get(message));
  }
  if (settings_.pass_headers.empty()) return;
  for (std::size_t i = 0; i < message.header_count(); ++i) {
    const lope::Header header = message.header_at(i);
    const auto value = lope::plugins::text_of(header.value);
    if (value && settings_.passes_header(header.name)) add_header(request, header.name, *value);
  }
}

void Http::add_bearer(Request& request) {
  if (std::exchange(bearer_refused_, false)) settings_.bearer->forget();
  add_header(request, "Authorization", "Bearer " + settings_.bearer->get());
}

void Http::add_signature(Request& request, const lope::Message& message) {
  const std::string_view body = settings_.sends_body ? message.body_text() : std::string_view();
  const std::string& key = settings_.signature->get();
  if (settings_.timestamp_header.empty()) {
    add_header(request, settings_.signature_header, "sha256=" + hmac_sha256(key, body));
    return;
  }
  const auto now = std::chrono::system_clock::to_time_t(host_.now());
  const std::string time = std::to_string(now);
  add_header(request, settings_.timestamp_header, time);
  add_header(request, settings_.signature_header,
             "sha256=" + hmac_sha256(key, time + "." + std::string(body)));
}

// ---- Its turn

// What grows old is made only now. False: it is not sent, and its message has its outcome.
bool Http::begin(CURL* easy) {
  void* its = nullptr;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, &its);
  Request& request = *static_cast<Request*>(its);
  if (request.sent_again) return true;
  try {
    if (is_ours(request)) {
      if (settings_.bearer) add_bearer(request);
      if (settings_.signature) add_signature(request, *request.message);
      set(easy, CURLOPT_HTTPHEADER, request.headers.get());
      return true;
    }
  } catch (const std::exception& error) {
    host_.error("message " + std::string(request.message->message_id()) +
                " is retried: " + error.what());
  }
  host_.settle(request.message->id(), lope::Outcome::retry);  // stale, unless something failed
  put_back(request);
  return false;
}

// False: it has run into the group's timeout, or was handed back, and comes again.
bool Http::is_ours(const Request& request) {
  return std::chrono::steady_clock::now() - request.since < kSurelyOurs ||
         request.message->keep_alive();
}

// ---- The answer

std::size_t Http::on_answer(char* data, std::size_t size, std::size_t count, void* its) {
  Request& request = *static_cast<Request*>(its);
  const std::size_t bytes = size * count;
  request.answer_size += bytes;
  const std::size_t wanted = request.wants_answer ? request.max_answer : kShownAnswer;
  request.answer.append(data, std::min(bytes, wanted - std::min(wanted, request.answer.size())));
  request.answer_too_large = request.answer_size > request.max_answer;
  return request.answer_too_large ? 0 : bytes;  // 0: no more of it
}

void Http::finish(CURL* easy, CURLcode result) {
  void* its = nullptr;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, &its);
  Request& request = *static_cast<Request*>(its);
  if (connection_was_gone(easy, result) && !std::exchange(request.sent_again, true)) {
    transfers_.start(easy);
    return;
  }
  lope::Outcome outcome = lope::Outcome::retry;
  try {
    outcome = outcome_of(request, result);
  } catch (const std::exception& error) {
    host_.error("message " + std::string(request.message->message_id()) +
                " is retried: " + error.what());
  }
  host_.settle(request.message->id(), outcome);
  put_back(request);
}

lope::Outcome Http::outcome_of(Request& request, CURLcode result) {
  CURL* const easy = request.easy.get();
  curl_off_t took = 0;
  curl_easy_getinfo(easy, CURLINFO_TOTAL_TIME_T, &took);
  took_.record(std::chrono::microseconds(took));
  if (result != CURLE_OK && !request.answer_too_large) return outcome_of_failure(request, result);

  long status = 0;
  curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
  answered_[std::clamp(status / 100, 1L, 5L) - 1].record(1);
  if (status < 200 || status >= 300) return outcome_of_refusal(request, status);
  if (!request.wants_answer) return lope::Outcome::ack;
  if (request.answer_too_large) {
    request.message->explain("expected an answer of at most " + std::to_string(request.max_answer) +
                             " bytes, found a larger one");
    return lope::Outcome::reject;
  }
  try {
    publish_answer(request, status);
    return lope::Outcome::ack;
  } catch (const lope::Error& error) {
    // It would be the same with the next answer.
    if (error.status() != LOPE_E_INVALID && error.status() != LOPE_E_TOO_LARGE) throw;
    request.message->explain(std::string("the answer cannot be published: ") + error.what());
    return lope::Outcome::reject;
  }
}

lope::Outcome Http::outcome_of_failure(Request& request, CURLcode result) {
  unanswered_.record(1);
  std::string reason = request.error.data();
  if (reason.empty()) reason = curl_easy_strerror(result);
  long number = 0;
  curl_easy_getinfo(request.easy.get(), CURLINFO_OS_ERRNO, &number);
  if (result == CURLE_COULDNT_CONNECT && number != 0) {
    reason += ": " + std::generic_category().message(static_cast<int>(number));
  }
  request.message->explain(reason);
  switch (result) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_TOO_MANY_REDIRECTS: return lope::Outcome::reject;
    default: return lope::Outcome::retry;
  }
}

lope::Outcome Http::outcome_of_refusal(Request& request, long status) {
  std::string reason = "HTTP status " + std::to_string(status);
  if (!request.answer.empty()) reason += ": " + request.answer.substr(0, kShownAnswer);
  request.message->explain(reason);
  // A token that has run out is no fault of the message.
  const bool token_refused = status == 401 && settings_.bearer;
  if (token_refused) bearer_refused_ = true;
  // Too many requests, and the server's own trouble, may pass; a refusal will not.
  const bool passing = status == 408 || status == 425 || status == 429 || status >= 500;
  if (!passing && !token_refused) return lope::Outcome::reject;
  curl_off_t seconds = 0;
  curl_easy_getinfo(request.easy.get(), CURLINFO_RETRY_AFTER, &seconds);
  const std::chrono::milliseconds asked =
      std::min<std::chrono::seconds>(std::chrono::seconds(seconds), kLongestRetryAfter);
  // What is shorter would only undo the group's own, growing delays.
  const bool is_heeded =
      settings_.max_retry_after.count() > 0 && seconds > 0 && asked >= settings_.min_retry_after;
  if (is_heeded) request.message->retry_after(std::min(asked, settings_.max_retry_after));
  return lope::Outcome::retry;
}

void Http::publish_answer(Request& request, long status) {
  lope::Publication answer;
  answer.body = request.answer;
  const char* type = nullptr;
  curl_easy_getinfo(request.easy.get(), CURLINFO_CONTENT_TYPE, &type);
  if (type != nullptr) answer.content_type = type;
  answer.correlation_id = request.message->correlation_id();
  answer.header("http-status", status);
  if (settings_.replies && !request.message->reply_to().empty()) request.message->reply(answer);
  if (!settings_.publishes) return;
  answer.exchange = request.exchange;
  answer.routing_key = request.routing_key;
  request.message->publish(answer);
}

}  // namespace

LOPE_HANDLER_WITH(Http, "http", "1.0.0", "sends messages to a URL, many requests at a time",
                  lope::http::kOptions)
