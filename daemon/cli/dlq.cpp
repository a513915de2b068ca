#include "cli/dlq.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "cli/broker_client.h"
#include "cli/dead_letter_text.h"
#include "cli/harmless.h"
#include "cli/table.h"
#include "common/exit_code.h"
#include "common/text.h"
#include "consumer/travel.h"

namespace lope::cli {

namespace {

using namespace std::chrono_literals;
using consumer::ChannelNumber;

constexpr const char* kCommand = "lope dlq";
constexpr ChannelNumber kQueue = 1;    // what is taken here goes back when it closes
constexpr ChannelNumber kPublish = 2;  // a publication that the broker resents costs only this
constexpr ChannelNumber kLook = 3;     // for exchanges that may not take it
constexpr int kNotFound = 404;

constexpr auto kPatience = 30s;  // with no answer to anything
// Asked for before the first of them is there. Bodies that are wanted come one at a time.
constexpr std::uint64_t kGetsAhead = 32;
constexpr std::size_t kMaxUnconfirmed = 100;
constexpr std::size_t kMaxUnconfirmedBytes = 8 << 20;
constexpr std::uint64_t kMaxTold = 20;  // of those that stay
// A delivery limit drops what was delivered more often; looking counts. The default is 20.
constexpr std::int64_t kManyDeliveries = 10;

std::int64_t now_ms() { return static_cast<std::int64_t>(unix_ms()); }

class DeadLetters final : private BrokerClient {
 public:
  explicit DeadLetters(const DlqOptions& options)
      : BrokerClient(kCommand), options_(options), queue_(options.queue) {}

  int run() {
    if (!connect(options_.broker)) return kExitTemporary;
    catch_signals();
    if (find_queue()) {
      if (ready_ == 0) {
        note("no message is ready in " + target_text("", queue_));
      } else {
        work();
      }
    }
    put_back();
    close();
    return report();
  }

 private:
  using Verb = DlqOptions::Verb;

  // A message that matches.
  struct Letter {
    std::uint64_t number = 0;
    Received message;
    DeadLetter facts;
  };
  // One whose copy is under way.
  struct Copy {
    std::unique_ptr<Letter> letter;
    Address to;
    std::string returned;  // why it came back; empty: it has not
  };

  bool begin(ChannelNumber channel, const consumer::Request& request) {
    const Answer answer = ask(channel, request);
    if (answer == Answer::no) fail(describe(request) + ": " + refusal().to_string());
    return answer == Answer::yes;
  }

  bool find_queue() {
    const std::string parking = consumer::parking_queue(options_.queue);
    for (const std::string& name : {options_.queue, parking}) {
      if (!begin(kQueue, consumer::ChannelOpen{})) return false;
      const Answer answer = ask(kQueue, consumer::QueueDeclare{name, {}, true});
      if (answer == Answer::yes) {
        if (name != queue_) say(no_queue(queue_) + ": this is '" + escape(name) + "'");
        queue_ = name;
        return true;
      }
      if (answer == Answer::nothing) return false;
      if (refusal().code != kNotFound) {
        return fail(target_text("", name) + ": " + refusal().to_string());
      }
    }
    return fail(no_queue(options_.queue) + ", and no '" + escape(parking) + "'");
  }

  // ---- The loop

  void work() {
    if (options_.verb == Verb::replay && (!begin(kPublish, consumer::ChannelOpen{}) ||
                                          !begin(kPublish, consumer::ConfirmSelect{}))) {
      return;
    }
    last_life_ = Clock::now();
    if (options_.verb == Verb::replay || options_.verb == Verb::purge) {
      progress_ = std::make_unique<Progress>(bound(), progress_output(), last_life_);
    }
    take_all();
    send_acks();  // the end may come between a confirm and its ack
    erase_bar();
    if (options_.verb == Verb::purge && !stopping_ && matched_ > 0 && agreed()) delete_all();
    make_sure_of_acks();
  }

  // A channel keeps acks of a quorum queue to itself while more than a few are under way, and loses
  // them when it closes then. A get goes through the queue's log behind those under way: when it is
  // answered the channel hears of them and sends the rest, and the next get comes behind that. What
  // the two take is put back.
  void make_sure_of_acks() {
    finishing_ = true;
    sure_ = false;
    for (int i = 0; i < 2 && done_ > 0; ++i) {
      if (queue_lost_ || given_up_ || !wait_for_room()) return;
      expect_answer();
      if (auto sent = connection_->get(kQueue, queue_); !sent) {
        lost(sent.error());
        return;
      }
      switch (wait_for_answer(kQueue, "confirm acks")) {
        case Answer::yes: break;
        case Answer::no: channel_lost(kQueue, refusal()); return;
        case Answer::nothing: return;
      }
    }
    sure_ = true;
  }

  // So many are looked at: one that comes straight back is not taken again.
  std::uint64_t bound() const {
    return options_.number != 0 ? std::min(options_.number, ready_) : ready_;
  }

  bool enough() const { return options_.limit != 0 && matched_ >= options_.limit; }

  void take_all() {
    while (connection_ != nullptr && !queue_lost_ && !publish_lost_ && !given_up_) {
      send_gets();
      publish_waiting();
      send_acks();
      if (connection_ == nullptr) return;
      if (auto written = connection_->write(); !written) {
        lost(written.error());
        return;
      }
      const bool dry = pump();
      if (connection_ == nullptr) return;
      const bool taken = awaited_ == 0 && (stopping_ || ran_out_ || enough() || asked_ >= bound());
      if (stopping_) waiting_.clear();
      if (taken && waiting_.empty() && copies_.empty() && to_ack_.empty()) return;

      const TimePoint now = Clock::now();
      if (now - last_life_ >= kPatience && (awaited_ > 0 || !copies_.empty())) {
        fail("the broker has answered nothing for " + std::to_string(kPatience.count()) + " s" +
             (blocked_ ? ": it blocks publishers (" + block_reason_ + ")" : ""));
        return;
      }
      TimePoint wake = last_life_ + kPatience;
      if (progress_ != nullptr) {
        if (const std::string text = progress_->update(seen_, now); !text.empty()) write(text);
        wake = std::min(wake, progress_->next());
      }
      if (dry && to_ack_.empty() && !more_to_publish() && !may_get()) {
        wait(wake, connection_ != nullptr && connection_->unwritten() > 0);
      }
    }
  }

  bool may_get() const {
    const bool bodies = options_.verb == Verb::show || options_.verb == Verb::replay;
    return !stopping_ && !ran_out_ && !enough() && asked_ < bound() &&
           awaited_ < (bodies ? 1 : kGetsAhead) && waiting_.empty() &&
           copies_.size() < kMaxUnconfirmed && copied_bytes_ < kMaxUnconfirmedBytes;
  }

  void send_gets() {
    while (may_get()) {
      if (!wait_for_room()) return;
      if (auto sent = connection_->get(kQueue, queue_); !sent) {
        lost(sent.error());
        return;
      }
      if (awaited_ == 0 && copies_.empty()) last_life_ = Clock::now();
      ++asked_;
      ++awaited_;
    }
  }

  // ---- Sending back

  // What comes back is known by its destination and id alone: two alike are not under way together.
  bool is_under_way(const Address& to, const std::string& id) const {
    return std::ranges::any_of(copies_, [&](const auto& each) {
      return each.second.to == to && each.second.letter->message.message_id == id;
    });
  }

  bool more_to_publish() const {
    if (waiting_.empty() || stopping_) return false;
    const Letter& letter = *waiting_.front();
    const auto to = replay_address(letter.facts, options_.to, options_.to_queue);
    return !to || !is_under_way(*to, letter.message.message_id);
  }

  void publish_waiting() {
    while (!stopping_ && connection_ != nullptr && more_to_publish()) {
      const auto to = replay_address(waiting_.front()->facts, options_.to, options_.to_queue);
      const std::string problem = !to ? to.error() : problem_of(*to);
      if (stopping_ || waiting_.empty() || !wait_for_room()) return;
      auto letter = std::move(waiting_.front());
      waiting_.pop_front();
      if (!problem.empty()) {
        stays(*letter, problem);
        continue;
      }
      consumer::Publication publication;
      publication.exchange = to->exchange;
      publication.routing_key = to->routing_key;
      publication.copied = letter->message.properties;
      publication.without = consumer::header::kOfTheDead;
      publication.body = letter->message.body;
      if (auto put = connection_->publish(kPublish, publication); !put) {
        stays(*letter, put.error());
        continue;
      }
      if (awaited_ == 0 && copies_.empty()) last_life_ = Clock::now();
      copied_bytes_ += letter->message.body.size();
      copies_.emplace(++published_, Copy{std::move(letter), *to, ""});
    }
  }

  // Why the broker would not take what is published there; empty: nothing is against it. What it
  // refuses would cost the channel, and with it the confirms of all that is under way.
  std::string problem_of(const Address& to) {
    const BrokerAnswer& answer = look_at({to.exchange, std::string(kNobodysKey)});
    return (is_of_the_key(answer) ? look_at(to) : answer).text;
  }

  // Asks the broker, once for each. The answer has a text when it would not take it.
  const BrokerAnswer& look_at(const Address& to) {
    const auto known = looked_at_.find(to);
    if (known != looked_at_.end()) return known->second;
    BrokerAnswer answer{true, 0, ""};
    if (look_open_ || begin(kLook, consumer::ChannelOpen{})) {
      const Answer given = ask(kLook, harmless_publication(to.exchange, to.routing_key));
      look_open_ = given == Answer::yes;
      if (given == Answer::no) answer = {false, refusal().code, refusal().to_string()};
      const Judgement judgement = judge_publication(answer);
      if (judgement != Judgement::missing && judgement != Judgement::refused) answer.text.clear();
    }
    return looked_at_.emplace(to, std::move(answer)).first->second;
  }

  void stays(const Letter& letter, const std::string& reason) {
    if (++stayed_ <= kMaxTold) {
      say("message " + std::to_string(letter.number) + " ('" +
          escape(letter.message.message_id, 80) + "') stays: " + reason);
    } else if (stayed_ == kMaxTold + 1) {
      say("more messages stay, which are not told one by one");
    }
  }

  void send_acks() {
    while (!to_ack_.empty() && !queue_lost_ && wait_for_room()) {
      if (auto sent = connection_->ack(kQueue, to_ack_.front(), false); !sent) {
        lost(sent.error());
        return;
      }
      to_ack_.pop_front();
      ++done_;
    }
  }

  // ---- Deleting

  bool agreed() {
    if (options_.yes) return true;
    write("Delete " + plural(matched_, "message") + "? [y/N] ");
    std::string line;
    while (connection_ != nullptr && !queue_lost_ && !stopping_) {
      if (wait(TimePoint::max(), false, STDIN_FILENO)) {
        char text[64];
        const ssize_t size = ::read(STDIN_FILENO, text, sizeof text);
        if (size <= 0) break;
        line.append(text, static_cast<std::size_t>(size));
        if (line.find('\n') != std::string::npos) break;
      }
      pump();
    }
    if (stopping_) return false;
    if (line.starts_with('y') || line.starts_with('Y')) return true;
    declined_ = true;
    return false;
  }

  void delete_all() {
    // Nothing else was taken: one ack is enough.
    const bool all = purged_.size() == taken_;
    to_ack_ = std::move(purged_);
    if (all && wait_for_room()) {
      const std::uint64_t count = to_ack_.size();
      if (auto sent = connection_->ack(kQueue, to_ack_.back(), true); !sent) {
        lost(sent.error());
        return;
      }
      to_ack_.clear();
      done_ = count;
      return;
    }
    while (!to_ack_.empty() && connection_ != nullptr && !queue_lost_ && !given_up_) {
      send_acks();
      if (connection_ != nullptr) pump();
    }
  }

  // ---- Putting back

  // A channel that closes puts back what it has in its place. From version 4 on that counts as a
  // delivery for a quorum queue's limit, while saying it does not.
  void put_back() {
    if (connection_ == nullptr || queue_lost_ || taken_ == done_) return;
    if (std::atoi(connection_->broker_version().c_str()) < 4) return;
    if (connection_->writable()) (void)connection_->nack_requeue(kQueue, last_tag_, true);
  }

  // ---- What the broker says

  void on_queue_size(ChannelNumber, std::uint32_t messages, std::uint32_t) override {
    ready_ = messages;
  }

  void on_ok(ChannelNumber channel, consumer::Reply reply, std::string_view text) override {
    if (reply != consumer::Reply::get_empty) return BrokerClient::on_ok(channel, reply, text);
    last_life_ = Clock::now();
    ran_out_ = true;
    if (finishing_) return answered();
    --awaited_;
  }

  char* on_delivery(const consumer::IncomingDelivery& delivery) override {
    last_life_ = Clock::now();
    last_tag_ = delivery.view.delivery_tag;
    const std::uint64_t number = ++taken_;
    if (finishing_) {
      answered();
      return nullptr;
    }
    --awaited_;
    if (enough() || stopping_) return nullptr;
    ++seen_;
    if (options_.number != 0 && number != options_.number) return nullptr;
    auto letter = std::make_unique<Letter>();
    letter->number = number;
    letter->message = received(delivery);
    letter->facts = dead_letter_of(letter->message);
    deliveries_ =
        std::max(deliveries_, number_of(letter->message.headers, "x-delivery-count").value_or(0));
    if (!options_.filter.matches(letter->facts, now_ms())) return nullptr;
    ++matched_;
    switch (options_.verb) {
      case Verb::list: list(*letter); return nullptr;
      case Verb::purge: purged_.push_back(last_tag_); return nullptr;
      case Verb::show:
      case Verb::replay: break;
    }
    arriving_ = std::move(letter);
    arriving_->message.body.resize(delivery.body_size);
    if (delivery.body_size == 0) arrived();
    return delivery.body_size == 0 ? nullptr : arriving_->message.body.data();
  }

  void on_body(ChannelNumber) override { arrived(); }

  void arrived() {
    last_life_ = Clock::now();
    auto letter = std::move(arriving_);
    if (options_.verb == Verb::show) {
      show(*letter);
    } else {
      waiting_.push_back(std::move(letter));
    }
  }

  void on_returned(const consumer::ReturnedPublication& returned) override {
    for (auto& [tag, copy] : copies_) {
      if (copy.returned.empty() && copy.to.exchange == returned.exchange &&
          copy.to.routing_key == returned.routing_key &&
          copy.letter->message.message_id == returned.message_id) {
        copy.returned = unroutable(copy.to.exchange, copy.to.routing_key, returned);
        return;
      }
    }
  }

  void on_confirmed(ChannelNumber, std::uint64_t tag, bool multiple, bool ack) override {
    last_life_ = Clock::now();
    const auto settle = [&](std::map<std::uint64_t, Copy>::iterator each) {
      const Copy& copy = each->second;
      copied_bytes_ -= copy.letter->message.body.size();
      if (!ack) {
        stays(*copy.letter, target_text(copy.to.exchange, copy.to.routing_key) +
                                ": the broker refused it (is the queue full?)");
      } else if (!copy.returned.empty()) {
        stays(*copy.letter, copy.returned);
      } else {
        to_ack_.push_back(copy.letter->message.tag);
      }
      return copies_.erase(each);
    };
    if (multiple) {
      const auto last = copies_.upper_bound(tag);
      for (auto each = copies_.begin(); each != last;) each = settle(each);
    } else if (const auto found = copies_.find(tag); found != copies_.end()) {
      settle(found);
    }
  }

  void channel_lost(ChannelNumber channel, const Refusal& refusal) override {
    if (channel == kQueue) queue_lost_ = true;
    if (channel == kPublish) publish_lost_ = true;
    fail("the broker closed the channel: " + refusal.to_string());
  }

  // ---- Telling

  // What is neither a result nor a failure; with --json it must not be among the objects.
  void note(const std::string& text) {
    std::fprintf(options_.json ? stderr : stdout, "%s\n", text.c_str());
  }

  void list(const Letter& letter) {
    if (options_.json) {
      std::printf("%s}\n", open_json(letter.facts, letter.number, now_ms()).c_str());
    } else {
      if (rows_.empty()) rows_.push_back(list_head());
      rows_.push_back(list_row(letter.facts, letter.number, now_ms()));
    }
  }

  void show(const Letter& letter) {
    if (options_.json) {
      std::printf("%s,\"properties\":%s,%s}\n",
                  open_json(letter.facts, letter.number, now_ms()).c_str(),
                  properties_json(letter.message).c_str(), body_json(letter.message.body).c_str());
    } else {
      if (shown_) std::printf("\n");
      std::printf(
          "%s",
          show_text(letter.message, letter.facts, letter.number, now_ms(), options_.full).c_str());
    }
    shown_ = true;
  }

  int report() {
    const std::string where = target_text("", queue_);
    const bool ok = error_.empty() && stayed_ == 0;
    std::printf("%s", table_text(rows_).c_str());
    if (ready_ > 0 && matched_ == 0 && error_.empty()) {
      note(options_.number != 0
               ? where + " has only " + plural(seen_, "message")
               : "none of " + plural(seen_, "message") + " in " + where + " matches");
    } else if (options_.verb == Verb::list && error_.empty() && matched_ > 0) {
      tell_list(where);
    } else if (options_.verb == Verb::replay || options_.verb == Verb::purge) {
      tell_done(where);
    }
    if (!error_.empty()) {
      std::string text = error_;
      if (options_.verb == Verb::replay || options_.verb == Verb::purge) {
        text += "; " + plural(done_, "message") + " " + done_word();
        const char* const doubt =
            options_.verb == Verb::replay ? "may be in both places" : "may be there still";
        if (!sure_ && done_ > 0) text += std::string(", which ") + doubt;
        if (const std::uint64_t more = copies_.size() + to_ack_.size(); more > 0) {
          text += ", the fate of " + plural(more, "more message") + " not known: they " + doubt;
        }
      }
      say(text);
    }
    if (deliveries_ >= kManyDeliveries) {
      say("a message was delivered " + std::to_string(deliveries_) +
          " times before; a quorum queue with a delivery limit drops messages, and looking counts");
    }
    return flush_output() && ok ? kExitOk : kExitFailed;
  }

  const char* done_word() const { return options_.verb == Verb::replay ? "replayed" : "deleted"; }

  void tell_list(const std::string& where) {
    if (options_.json) return;
    if (enough() && seen_ < ready_) {
      std::printf("the first %s of %llu in %s; --limit N shows more\n",
                  plural(matched_, "message").c_str(), static_cast<unsigned long long>(ready_),
                  where.c_str());
    } else if (!options_.filter.empty()) {
      std::printf("%llu of %s in %s\n", static_cast<unsigned long long>(matched_),
                  plural(seen_, "message").c_str(), where.c_str());
    } else {
      std::printf("%s in %s\n", plural(matched_, "message").c_str(), where.c_str());
    }
  }

  void tell_done(const std::string& where) {
    if (options_.json) {
      std::printf("{\"seen\":%llu,\"matched\":%llu,\"%s\":%llu,\"stayed\":%llu}\n",
                  static_cast<unsigned long long>(seen_), static_cast<unsigned long long>(matched_),
                  done_word(), static_cast<unsigned long long>(done_),
                  static_cast<unsigned long long>(stayed_));
      return;
    }
    if (!error_.empty() || matched_ == 0) return;
    if (declined_) {
      std::printf("nothing deleted\n");
      return;
    }
    std::string text = plural(done_, "message") + " of " + where + " " + done_word();
    if (stayed_ > 0) text += ", " + std::to_string(stayed_) + " left there";
    std::printf("%s\n", text.c_str());
  }

  const DlqOptions& options_;
  std::string queue_;  // the one it is
  std::uint64_t ready_ = 0;

  std::uint64_t asked_ = 0, awaited_ = 0;  // gets
  std::uint64_t taken_ = 0;                // messages; more than were asked for to be ahead
  std::uint64_t seen_ = 0, matched_ = 0;
  std::uint64_t last_tag_ = 0;
  bool ran_out_ = false;
  std::unique_ptr<Letter> arriving_;  // its body is to come
  std::deque<std::unique_ptr<Letter>> waiting_;
  std::map<std::uint64_t, Copy> copies_;  // by confirm tag
  std::size_t copied_bytes_ = 0;
  std::uint64_t published_ = 0;
  std::deque<std::uint64_t> to_ack_, purged_;  // delivery tags
  std::uint64_t done_ = 0, stayed_ = 0;
  bool sure_ = true;  // the broker has all acks
  std::map<Address, BrokerAnswer> looked_at_;
  bool look_open_ = false;
  bool queue_lost_ = false, publish_lost_ = false;  // their channels
  bool declined_ = false;
  TimePoint last_life_;  // when the broker last answered anything
  std::int64_t deliveries_ = 0;
  std::vector<std::vector<std::string>> rows_;
  bool shown_ = false;
};

}  // namespace

int dlq(const DlqOptions& options) { return DeadLetters(options).run(); }

}  // namespace lope::cli
