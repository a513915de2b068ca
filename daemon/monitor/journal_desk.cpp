#include "monitor/journal_desk.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>

#include "common/log.h"
#include "common/signals_blocked.h"
#include "common/text.h"
#include "common/wall_time.h"
#include "journal/tree.h"

namespace lope::monitor {

namespace {

constexpr std::string_view kSearchPath = "/api/journal/search";
constexpr std::string_view kTracePath = "/api/journal/trace";
constexpr std::size_t kMostQuestions = 8;
constexpr std::size_t kMostRows = 1000;
constexpr std::chrono::seconds kTimeLimit{5};
constexpr std::size_t kMostMessages = 2000;

HttpAnswer json_answer(const std::string& json) {
  return {.type = "application/json", .body = json + "\n"};
}
HttpAnswer text_answer(int status, const std::string& text) {
  return {.status = status, .body = text + "\n"};
}

Error wrong(const char* name, const char* expected, const std::string& found) {
  return Error{std::string(name) + ": expected " + expected + ", found '" + escape(found, 80) +
               "'"};
}

// In microseconds since 1970.
Result<std::int64_t> time_of(const HttpRequest& request, const char* name, std::int64_t otherwise) {
  const auto text = query_value(request.query, name);
  if (!text || text->empty()) return otherwise;
  const auto ms = parse_time(*text);
  if (!ms) return wrong(name, "a time, as in 2027-02-03T04:05:06Z", *text);
  return *ms * 1000;
}

}  // namespace

JournalDesk::JournalDesk(std::string store, Answered answered)
    : store_(std::move(store)), answered_(std::move(answered)) {}

Result<std::unique_ptr<JournalDesk>> JournalDesk::create(EventLoop& loop, std::string store,
                                                         Answered answered) {
  std::unique_ptr<JournalDesk> desk(new JournalDesk(std::move(store), std::move(answered)));
  if (desk->store_.empty()) return desk;
  desk->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!desk->wake_.valid()) return Error{errno_text("eventfd", errno)};
  JournalDesk* const self = desk.get();
  auto source =
      loop.watch_fd(desk->wake_.get(), EPOLLIN, [self](std::uint32_t) { self->hand_over(); });
  if (!source) return Error{source.error()};
  desk->source_ = std::move(*source);
  const SignalsBlocked blocked;  // they are the loop's
  desk->thread_ = std::thread([self] { self->run(); });
  return desk;
}

JournalDesk::~JournalDesk() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  asked_.notify_one();
  thread_.join();
}

bool JournalDesk::knows(std::string_view path) { return path == kSearchPath || path == kTracePath; }

Result<JournalDesk::Question> JournalDesk::question_of(std::uint64_t id,
                                                       const HttpRequest& request) {
  Question question{
      id, request.path == kTracePath, query_value(request.query, "id").value_or(""), {}};
  if (question.whole_trace && question.message.empty()) {
    return Error{"id: expected that of a message or of a trace, found none"};
  }
  journal::Search& search = question.search;
  search.queue = query_value(request.query, "queue").value_or("");
  search.outcome = query_value(request.query, "outcome").value_or("");
  // No name in a journal is anything else, and a server would be troubled with it.
  for (const auto& [name, text] :
       {std::pair<const char*, const std::string&>{"id", question.message},
        {"queue", search.queue},
        {"outcome", search.outcome}}) {
    if (first_invalid_utf8(text) != std::string_view::npos ||
        text.find('\0') != std::string::npos) {
      return wrong(name, "UTF-8 without a zero byte", text);
    }
  }
  const auto from = time_of(request, "from", search.from_us);
  if (!from) return Error{from.error()};
  search.from_us = *from;
  const auto to = time_of(request, "to", search.to_us);
  if (!to) return Error{to.error()};
  search.to_us = *to;
  if (const auto limit = query_value(request.query, "limit")) {
    const char* const end = limit->data() + limit->size();
    const auto [stop, error] = std::from_chars(limit->data(), end, search.limit);
    if (error != std::errc{} || stop != end || search.limit == 0 || search.limit > kMostRows) {
      return wrong("limit", "a number from 1 to 1000", *limit);
    }
  }
  return question;
}

void JournalDesk::ask(std::uint64_t id, const HttpRequest& request) {
  if (store_.empty()) {
    return answered_(id, text_answer(404, "no journal is configured: see monitor.journal"));
  }
  auto question = question_of(id, request);
  if (!question) return answered_(id, text_answer(400, question.error()));
  {
    const std::lock_guard lock(mutex_);
    if (questions_.size() < kMostQuestions) {
      questions_.push_back(std::move(*question));
      asked_.notify_one();
      return;
    }
  }
  answered_(id, text_answer(503, "too many ask at the same time"));
}

void JournalDesk::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [this] { return stop_ || !questions_.empty(); });
    if (stop_) return;
    const Question question = std::move(questions_.front());
    questions_.pop_front();
    lock.unlock();
    Answer answer{question.id, {}, {}};
    answer.answer = answer_for(question, answer.trouble);
    lock.lock();
    answers_.push_back(std::move(answer));
    const std::uint64_t one = 1;
    // It can only fail when it is set already.
    [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
  }
}

// Opened each time: the file, or the server, may be another one by then.
HttpAnswer JournalDesk::answer_for(const Question& question, std::string& trouble) const {
  const journal::Limits limits{.until = Clock::now() + kTimeLimit, .messages = kMostMessages};
  const auto reader = journal::open_journal(store_, limits);
  if (!reader) return unanswered(reader.error(), trouble);
  const auto failed = [&](const std::string& reason) { return unanswered(reason, trouble); };
  if (question.message.empty()) {
    const auto events = (*reader)->search(question.search, limits);
    return events ? json_answer(journal::to_json(*events)) : failed(events.error());
  }
  const auto story = (*reader)->story(question.message, limits);
  if (!story) return failed(story.error());
  if (question.whole_trace) {
    if (story->events.empty()) {
      return text_answer(404, "the journal has nothing of '" + escape(question.message, 256) + "'");
    }
    return json_answer(journal::to_json(journal::make_tree(*story)));
  }
  const journal::Search& search = question.search;
  std::vector<journal::Event> own;
  std::ranges::copy_if(story->events, std::back_inserter(own), [&](const journal::Event& event) {
    return (event.message_id == question.message || event.trace_id == question.message) &&
           (search.queue.empty() || event.queue == search.queue) &&
           (search.outcome.empty() || event.outcome == search.outcome) &&
           event.time_us >= search.from_us && event.time_us < search.to_us;
  });
  std::ranges::reverse(own);
  if (own.size() > search.limit) own.resize(search.limit);
  return json_answer(journal::to_json(own));
}

// What a server says is for the log: whoever can reach the page need not read it.
HttpAnswer JournalDesk::unanswered(const std::string& reason, std::string& trouble) const {
  const bool is_file = store_.find("://") == std::string::npos;
  if (!is_file && reason != journal::kTookTooLong) {
    trouble = reason;
    return text_answer(503, "the journal cannot be read: the monitor's log says why");
  }
  return text_answer(503, "the journal cannot be read: " + reason);
}

void JournalDesk::hand_over() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t read = ::read(wake_.get(), &count, sizeof count);
  std::vector<Answer> answers;
  {
    const std::lock_guard lock(mutex_);
    answers.swap(answers_);
  }
  for (const auto& [id, answer, trouble] : answers) {
    answered_(id, answer);
    if (trouble.empty() || repeated_.count(trouble, Clock::now()) == 0) continue;
    log_warn("the journal cannot be read", {{"reason", trouble}});
  }
}

}  // namespace lope::monitor
