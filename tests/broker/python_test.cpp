// The handler python: functions as people have them, in each style, and what they do to a worker.
#include <signal.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/broker.h"
#include "support/ledger.h"
#include "support/log_lines.h"
#include "support/lope.h"
#include "support/page.h"

using namespace lope::test;

namespace {

// A queue of its own, and a group that calls functions of one file.
struct Functions {
  explicit Functions(const std::string& source) { files.write("functions.py", source); }

  LopeOptions options(const std::string& of_handler = {}, const std::string& more = {}) const {
    return {.broker = broker.url(),
            .groups = "  python:\n    queue: " + queue +
                      "\n    handler: python\n    options: { file: " + file +
                      (of_handler.empty() ? "" : ", " + of_handler) + " }\n" + more,
            .handlers_dir = LOPE_HANDLERS_BUILD_DIR};
  }
  // Each with its body as its message id.
  void publish(const std::vector<std::string>& bodies) {
    Publisher publisher = broker.publisher();
    publisher.publish_many(static_cast<int>(bodies.size()), [&](int i) {
      const std::string& body = bodies[static_cast<std::size_t>(i)];
      return Publication{.routing_key = queue, .body = body, .message_id = body};
    });
  }
  // Why each message is a dead letter, by its id, once there are so many.
  std::map<std::string, std::string> dead_reasons(std::size_t count) {
    const std::string dead = queue + ".dead";
    eventually(20s,
               [&] { return broker.message_count(dead).value_or(0) >= static_cast<int>(count); });
    std::map<std::string, std::string> reasons;
    for (const Received& letter : broker.drain(dead)) {
      reasons[letter.message_id] = letter.header("x-lope-dead-reason");
    }
    return reasons;
  }

  Broker broker;
  const std::string queue = broker.make_queue("python");
  TempDir files;
  const std::string file = files.file("functions.py");
};

const std::string kOnce = "    retry: { attempts: 1 }\n    breaker: false\n";

// What the functions have printed and logged so far.
bool said(const Lope& lope, const std::string& text) {
  const auto texts = fields_of(lope.log(), "handler says", "text");
  return texts.contains(text);
}

bool sanitized() { return std::string_view(LOPE_SANITIZE) != ""; }

// Every message was acked, and the daemon has ended well.
void check_all_acked(Functions& it, Lope& lope) {
  CHECK(eventually(20s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lines_with(lope.log(), "message retried").empty());
  CHECK(lines_with(lope.log(), "message rejected").empty());
  CHECK(lines_with(lope.log(), "dead letter ").empty());
}

}  // namespace

TEST_CASE("what a function returns, raises or says is its message's outcome", "[broker][python]") {
  Functions it(R"(
import sys
import lope
from lope.consume import CONSUME_REDELIVER, CONSUME_REJECT, CONSUME_SUCCESS

def handle(message):
    return eval(message.body)

class Fails(BaseException):
    pass

def throw(error):
    raise error

def ack_and_raise(message):
    message.ack()
    raise ValueError("too late")
)");
  Lope lope(it.options("", kOnce));
  REQUIRE(lope.wait_ready());
  const std::map<std::string, std::string> failing = {
      {"False", "the function returned False"},
      {"lope.RETRY", "the handler asked for it"},
      {"lope.REJECT", "the handler rejected it"},
      {"CONSUME_REDELIVER", "the handler asked for it"},
      {"CONSUME_REJECT", "the handler rejected it"},
      {"17",
       "expected the function to return None, True, False, lope.ACK, lope.RETRY, "
       "lope.REJECT or lope.HOLD, found int"},
      {"throw(ValueError('no'))", "ValueError: no"},
      {"throw(ValueError('gr\\xfcn \\ud800'))", "ValueError: gr\xC3\xBCn \\ud800"},
      {"throw(lope.Reject('never'))", "never"},
      {"throw(lope.Retry('busy'))", "busy"},
      {"throw(KeyboardInterrupt())", "KeyboardInterrupt"},
      {"throw(Fails('so'))", "functions.Fails: so"},
      {"sys.exit(3)", "SystemExit: 3"},
      {"undefined", "NameError: name 'undefined' is not defined"},
      {"message.retry(reason='later')", "later"},
      {"message.reject('bad')", "bad"},
      {"message.reject(True)", "the handler asked for it"},
      {"message.reject()", "the handler rejected it"},
      {"message.requeue()", "the handler asked for it"},
      {"(message.reject('first'), message.ack())", "first"},
      {"(message.reject('once'), message.retry(reason='more'))", "once"},
  };
  std::vector<std::string> all = {
      "None", "True", "lope.ACK", "CONSUME_SUCCESS", "message.ack()", "ack_and_raise(message)"};
  for (const auto& [body, reason] : failing) all.push_back(body);
  it.publish(all);
  const auto reasons = it.dead_reasons(failing.size());
  CHECK(reasons.size() == failing.size());
  for (const auto& [body, reason] : failing) {
    CAPTURE(body);
    REQUIRE(reasons.contains(body));
    CHECK_THAT(reasons.at(body), Catch::Matchers::Contains(reason));
  }
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  // Each error with its traceback; and one worker has seen it all.
  CHECK(lines_with(lope.log(), "text=\"Traceback").size() == 9);
  CHECK(lines_with(lope.log(), "functions.py\\\", line 7, in handle\\n").size() == 9);
  CHECK(lines_with(lope.log(), "ValueError: too late").size() == 1);
  CHECK(lines_with(lope.log(), "worker ready").size() == 1);
}

TEST_CASE("a function says when its message comes again", "[broker][python]") {
  Functions it(R"(
import datetime
import lope

def handle(message):
    if message.attempt > 1:
        print("again", message.body_bytes.decode())
    elif message.body == b"raised":
        raise lope.Retry("busy", after=0)
    elif message.body == b"said":
        message.retry(after=datetime.timedelta(0))
    else:
        return lope.RETRY
)");
  Lope lope(it.options("", "    retry: { attempts: 2, delay: 1h }\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"raised", "said", "by the policy"});
  CHECK(eventually(10s, [&] { return said(lope, "again raised") && said(lope, "again said"); }));
  REQUIRE(lope.wait_for_line("message_id=\"by the policy\""));
  CHECK(lope.stop() == exited(0));
  CHECK_FALSE(said(lope, "again by the policy"));
}

TEST_CASE("a message has what its publisher gave it", "[broker][python]") {
  Functions it(R"(
import datetime

def handle(message):
    globals()[message.message_id](message)

def full(message):
    assert message.body == 'gr\u00fcn \u6f22', message.body
    assert message.body_bytes == 'gr\u00fcn \u6f22'.encode(), message.body_bytes
    assert message.payload == message.body == message.decode()
    headers = {"text": "gr\u00fcn", "bytes": b"\xff\0", "no text": b"\xfe", "int": -7, "big": 2**63 - 1, "real": 0.5,
               "true": True, "none": None, "time": datetime.datetime(2001, 9, 9, 1, 46, 40)}
    assert message.headers == headers, message.headers
    assert message.properties == {
        "content_type": "text/plain", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 3,
        "correlation_id": "c", "reply_to": "r", "expiration": "3600000", "message_id": "full",
        "timestamp": 1000000000, "type": "t", "user_id": "guest", "app_id": "a",
        "application_headers": headers}, message.properties
    assert message.delivery_info == {
        "exchange": "", "routing_key": message.queue, "queue": message.queue, "redelivered": False,
        "delivery_tag": message.delivery_tag, "consumer_tag": message.consumer_tag}, message.delivery_info
    assert message.consumer_tag.startswith("amq.ctag-") and message.delivery_tag == 1
    assert (message.content_type, message.content_encoding) == ("text/plain", "utf-8")
    assert message.type == "t" and message.app_id == "a" and message.user_id == "guest"
    assert message.attempt == 1 and message.crashes == 0 and message.parent_id is None
    assert message.acknowledged is False

def empty(message):
    assert message.body == b"" == message.payload
    assert message.headers == {}
    assert message.properties == {"delivery_mode": 1, "priority": 0, "message_id": "empty"}, message.properties
    assert message.content_type is None and message.reply_to is None and message.timestamp is None

def json(message):
    assert message.body == b'{"a": [1, "\xc3\xbc"]}', message.body
    assert message.payload == {"a": [1, "\u00fc"]}, message.payload

def latin(message):
    assert message.body == b"\xfc"
    assert message.payload == "\u00fc", message.payload

def binary(message):
    assert message.body == bytes(range(256)), message.body
    assert message.payload == message.body

def broken(message):
    try:
        message.payload
    except ValueError as error:
        print("error", error)
        raise
)");
  Lope lope(it.options("", kOnce));
  REQUIRE(lope.wait_ready());
  std::string all_bytes;
  for (int i = 0; i < 256; ++i) all_bytes += static_cast<char>(i);
  for (Publication publication :
       {Publication{.body = "gr\xC3\xBCn \xE6\xBC\xA2",
       .message_id = "full",
       .content_type = "text/plain",
       .correlation_id = "c",
       .reply_to = "r",
       .typed_headers = {{"text", 'S', 0, 0, "gr\xC3\xBCn"},
                         {"bytes", 'x', 0, 0, std::string("\xFF\0", 2)},
                         {"no text", 'S', 0, 0, "\xFE"},
                         {"int", 'I', -7},
                         {"big", 'l', INT64_MAX},
                         {"real", 'd', 0, 0.5},
                         {"true", 't', 1},
                         {"none", 'V'},
                         {"time", 'T', 1000000000},
                         {"table", 'F'}},
       .content_encoding = "utf-8",
       .type = "t",
       .app_id = "a",
       .user_id = "guest",
       .expiration = "3600000",
       .priority = 3,
       .timestamp = 1000000000},
        Publication{.message_id = "empty", .persistent = false},
        Publication{.body = "{\"a\": [1, \"\xC3\xBC\"]}",
        .message_id = "json",
        .content_type = "application/json"},
        Publication{
            .body = "\xFC", .message_id = "latin", .content_type = "text/plain; charset=latin-1"},
        Publication{.body = all_bytes, .message_id = "binary", .content_encoding = "utf-8"},
        Publication{.body = "{", .message_id = "broken", .content_type = "application/json"}}) {
    publication.routing_key = it.queue;
    it.broker.publisher().publish(publication);
  }
  const auto reasons = it.dead_reasons(1);
  CAPTURE(lope.log());
  REQUIRE(reasons.size() == 1);
  CHECK_THAT(reasons.at("broken"), Catch::Matchers::Contains("the body is no application/json"));
  CHECK(lines_with(lope.log(), "message rejected").size() == 1);
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a callback written for pika runs as it is", "[broker][python]") {
  Functions it(R"(
class Properties:
    content_type = "text/plain"
    correlation_id = None
    headers = {"a": 1}
    delivery_mode = 2
    expiration = "3600000"

def callback(channel, method, properties, body):
    assert isinstance(body, bytes) and channel.is_open
    assert method.routing_key == properties.type, properties.type
    assert properties.headers == {} and properties.delivery_mode == 2
    if body == b"ack":
        channel.basic_publish("", properties.reply_to, "answer", Properties)
        channel.basic_publish(exchange="", routing_key="nobody", body=b"lost")
        channel.basic_ack(delivery_tag=method.delivery_tag)
    elif body == b"reject":
        channel.basic_reject(method.delivery_tag, requeue=False)
    elif body == b"nack":
        channel.basic_nack(method.delivery_tag)
    elif body == b"other":
        channel.basic_ack(4711)
    return 17
)");
  const std::string answers = it.broker.make_queue("answers");
  Lope lope(it.options("function: callback", kOnce));
  REQUIRE(lope.wait_ready());
  for (const char* body : {"ack", "reject", "nack", "other", "nothing"}) {
    it.broker.publisher().publish(Publication{.routing_key = it.queue,
                                              .body = body,
                                              .message_id = body,
                                              .reply_to = answers,
                                              .type = it.queue});
  }
  const auto reasons = it.dead_reasons(3);
  CAPTURE(reasons);
  CHECK(reasons.size() == 3);
  CHECK(reasons.contains("reject"));
  CHECK(reasons.contains("nack"));
  CHECK_THAT(
      reasons.at("other"),
      Catch::Matchers::Contains("expected the delivery tag of this call's message, 4, found 4711"));
  CHECK(eventually(10s, [&] { return it.broker.message_count(answers) == 1; }));
  CHECK(lope.stop() == exited(0));
  const auto answer = it.broker.drain(answers);
  REQUIRE(answer.size() == 1);
  CHECK(answer[0].body == "answer");
  CHECK(answer[0].persistent);
  CHECK(answer[0].content_type == "text/plain");
  CHECK(answer[0].expiration == "3600000");
  CHECK(answer[0].number("a") == 1);
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a callback written for kombu runs as it is", "[broker][python]") {
  Functions it(R"(
import logging

def callback(body, message):
    if body == {"n": 1}:
        message.ack_log_error(logging.getLogger(), (OSError,))
        assert message.acknowledged
    elif body == "text":
        message.reject(requeue=False)
    elif body == "\u00fc":
        message.requeue()
    elif body == b"\xff":
        try:
            message.ack()
            message.ack()
        except message.MessageStateError:
            print("already acked")
    else:
        raise AssertionError(body)
)");
  Lope lope(it.options("function: callback", kOnce));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const auto send = [&](const std::string& body, const std::string& id, const std::string& type) {
    publisher.publish(
        Publication{.routing_key = it.queue, .body = body, .message_id = id, .content_type = type});
  };
  send(R"({"n": 1})", "json", "application/json");
  send("text", "text", "");
  send("\xC3\xBC", "unicode", "");
  send("\xFF", "binary", "");
  const auto reasons = it.dead_reasons(2);
  CAPTURE(reasons);
  CHECK(reasons.size() == 2);
  CHECK(reasons.contains("text"));
  CHECK(reasons.contains("unicode"));
  CHECK(eventually(10s, [&] { return said(lope, "already acked"); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a callback that keeps its message settles it later, on another thread",
          "[broker][python]") {
  Functions it(R"(
import functools
import queue
import threading

import lope

go = threading.Event()
work = queue.Queue()

def run():
    go.wait()  # until the calls of the others are over
    while True:
        work.get()()

threading.Thread(target=run, daemon=True).start()

def later(channel, tag, to, body):
    if body == b"ack":
        channel.basic_publish("", to, "answer", mandatory=True)
        channel.basic_ack(tag)
    else:
        channel.basic_nack(tag, requeue=False)

def pika(channel, method, properties, body):
    if body == b"go":
        channel.basic_ack(method.delivery_tag)
        go.set()
        return
    work.put(functools.partial(later, channel, method.delivery_tag, properties.reply_to, body))
    return lope.HOLD

def answer(message):
    message.publish("answer", message.reply_to)
    message.ack()

def kombu(body, message):
    if body == "go":
        message.ack()
        go.set()
        return
    work.put(functools.partial(answer, message) if body == "ack" else message.reject)
    return lope.HOLD
)");
  const std::string style = GENERATE("pika", "kombu");
  const std::string answers = it.broker.make_queue("answers");
  Lope lope(it.options("function: " + style, kOnce + "    prefetch: 3\n"));
  REQUIRE(lope.wait_ready());
  for (const char* body : {"ack", "nack", "go"}) {
    it.broker.publisher().publish(Publication{
        .routing_key = it.queue, .body = body, .message_id = body, .reply_to = answers});
  }
  const auto reasons = it.dead_reasons(1);
  CHECK(reasons.size() == 1);
  CHECK(reasons.contains("nack"));
  CHECK(eventually(10s, [&] { return it.broker.message_count(answers) == 1; }));
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lines_with(lope.log(), "returned without an ack").empty());
}

TEST_CASE("a callback that leaves its message to others is told so", "[broker][python]") {
  Functions it(R"(
async def coroutine():
    pass

def result(body):
    return {"coroutine": coroutine, "generator": lambda: (each for each in ())}.get(body, lambda: 17)()

def pika(channel, method, properties, body):
    if body.startswith(b"multiple"):
        settle = channel.basic_nack if body == b"multiple nack" else channel.basic_ack
        settle(method.delivery_tag, multiple=True)
    return result(body.decode())

def kombu(body, message):
    if body.startswith("multiple"):
        message.ack(multiple=True)
    return result(body)
)");
  const std::string style = GENERATE("pika", "kombu");
  Lope lope(it.options("function: " + style, kOnce));
  REQUIRE(lope.wait_ready());
  it.publish({"nothing", "multiple", "multiple nack", "coroutine", "generator", "nothing more"});
  auto reasons = it.dead_reasons(4);
  CAPTURE(reasons);
  CHECK(reasons.size() == 4);
  for (const char* body : {"coroutine", "generator"}) {
    CHECK_THAT(reasons[body], Catch::Matchers::Contains(
                                  "expected the callback to be done when it returns, found a " +
                                  std::string(body)));
  }
  for (const char* body : {"multiple", "multiple nack"}) {
    CHECK_THAT(reasons[body], Catch::Matchers::Contains("expected one message to be settled"));
  }
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
  CHECK(lines_with(lope.log(), "returned without an ack: taken as one").size() == 1);
}

TEST_CASE("an async function runs on a loop that stays", "[broker][python]") {
  Functions it(R"(
import asyncio

loops = set()

async def handle(message):
    loops.add(asyncio.get_running_loop())
    await asyncio.sleep(0)
    assert len(loops) == 1
    if message.body == b"bad":
        raise ValueError("bad")
)");
  Lope lope(it.options("", kOnce));
  REQUIRE(lope.wait_ready());
  it.publish({"one", "bad", "two"});
  const auto reasons = it.dead_reasons(1);
  CHECK(reasons.size() == 1);
  CHECK_THAT(reasons.at("bad"), Catch::Matchers::Contains("ValueError: bad"));
  CHECK(eventually(10s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("threads of an event loop are not waited for without end", "[broker][python]") {
  Functions it(R"(
import asyncio
import atexit
import threading

atexit.register(print, "at exit")
tasks = []

async def sleep():
    try:
        await asyncio.sleep(3600)
    finally:
        print("cancelled")

async def handle(message):
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    tasks.append(asyncio.create_task(sleep()))
    await asyncio.sleep(0)
)");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.publish({"a"});
  check_all_acked(it, lope);
  CHECK(said(lope, "cancelled"));
  CHECK(said(lope, "threads that have not ended in 5 s are left alone: asyncio_0"));
  CHECK(said(lope, "at exit"));
  CHECK(lines_with(lope.log(), "how=\"exit 0\" stage=ending").size() == 1);
}

TEST_CASE("a function takes a list of messages, and answers for each", "[broker][python]") {
  Functions it(R"(
import lope

def handle(messages):
    bodies = [message.body.decode() for message in messages]
    print("batch of", len(bodies))
    if "all" in bodies:
        return lope.REJECT
    if "raise" in bodies:
        messages[0].ack()
        raise ValueError("broken")
    if "few" in bodies:
        return [None]
    return [body != "bad" for body in bodies]
)");
  const std::string batches = "    prefetch: 4\n    batch: { size: 4, wait: 1m }\n";
  Lope lope(it.options("style: batch", kOnce + batches));
  REQUIRE(lope.wait_ready());
  it.publish({"a0", "bad", "a1", "a2"});
  CHECK(it.dead_reasons(1).contains("bad"));
  it.publish({"b0", "all", "b1", "b2"});
  CHECK(it.dead_reasons(4).size() == 4);
  it.publish({"c0", "raise", "c1", "c2"});
  auto reasons = it.dead_reasons(3);
  CHECK(reasons.size() == 3);
  CHECK_THAT(reasons["c2"], Catch::Matchers::Contains("ValueError: broken"));
  it.publish({"d0", "few", "d1", "d2"});
  reasons = it.dead_reasons(4);
  CHECK(reasons.size() == 4);
  CHECK_THAT(reasons["d0"],
             Catch::Matchers::Contains("expected 4 outcomes, one for each message, found 1"));
  CHECK(lope.stop() == exited(0));
  CHECK(fields_of(lope.log(), "handler says", "text").count("batch of 4") == 4);
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a function keeps messages until it is called with None", "[broker][python]") {
  Functions it(R"(
from consumer_of_ours import MessageResult

kept = []

def handle(message):
    if message is None:
        count, reply = len(kept), str(len(kept))
        kept.clear()
        if count == 1:
            raise OSError("disk full")
        return MessageResult(True, result=reply, nextMessage={"body": count, "headers": {"of": "flush"}})
    if message.payload == "fail":
        return MessageResult(False, "no good")
    if message.payload == "now":
        return MessageResult(result="done", nextMessage=["one", b"two"])
    kept.append(message)
    print("kept", message.payload)
)");
  const std::string answers = it.broker.make_queue("answers");
  const std::string next = it.broker.make_queue("next");
  Lope lope(it.options(
      "style: message_result, aliases: [consumer_of_ours], next: { routing_key: " + next + " }",
      kOnce + "    prefetch: 3\n    flush_interval: 1h\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  const auto send = [&](const std::string& body) {
    publisher.publish(Publication{.routing_key = it.queue,
                                  .body = body,
                                  .message_id = body,
                                  .content_type = "text/plain",
                                  .correlation_id = body,
                                  .reply_to = answers});
  };
  const auto count_of = [&](const std::string& queue, int count) {
    return eventually(10s, [&] { return it.broker.message_count(queue) == count; });
  };
  for (const char* body : {"a", "b", "c"}) send(body);  // the window is full
  CHECK(count_of(answers, 3));
  CHECK(count_of(next, 1));
  for (const Received& answer : it.broker.drain(answers)) {
    CHECK(answer.body == "3");
    CHECK((answer.correlation_id >= "a" && answer.correlation_id <= "c"));
  }
  const auto made = it.broker.drain(next);
  REQUIRE(made.size() == 1);
  CHECK(made[0].body == "3");
  CHECK(made[0].content_type == "application/json");
  CHECK(made[0].header("of") == "flush");
  CHECK(made[0].header("x-lope-parent-id") == "c");
  send("now");
  CHECK(count_of(answers, 1));
  CHECK(count_of(next, 2));
  send("fail");
  auto reasons = it.dead_reasons(1);
  CHECK_THAT(reasons["fail"], Catch::Matchers::Contains("no good"));
  send("last");  // kept until the end
  REQUIRE(lope.wait_for_line("kept last"));
  CHECK(lope.stop() == exited(0));
  reasons = it.dead_reasons(1);
  CHECK_THAT(reasons["last"], Catch::Matchers::Contains("OSError: disk full"));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("what cannot be replied to is acked for none of the kept messages", "[broker][python]") {
  Functions it(R"(
import lope

def handle(message):
    return lope.MessageResult(result=object()) if message is None else None
)");
  Lope lope(
      it.options("style: message_result", kOnce + "    prefetch: 2\n    flush_interval: 1h\n"));
  REQUIRE(lope.wait_ready());
  for (const char* body : {"first", "second"}) {
    it.broker.publisher().publish(
        Publication{.routing_key = it.queue,
                    .body = body,
                    .message_id = body,
                    .reply_to = body == std::string_view("second") ? it.queue + ".answers" : ""});
  }
  auto reasons = it.dead_reasons(2);
  CHECK(reasons.size() == 2);
  CHECK_THAT(reasons["first"], Catch::Matchers::Contains("not JSON serializable"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("kept messages are settled from any thread", "[broker][python]") {
  Functions it(R"(
import queue
import threading

import lope

work = queue.Queue()

def run():
    while True:
        message = work.get()
        what = message.body.decode()
        if what == "ack":
            message.publish("made", routing_key=message.reply_to)
            message.ack()
        elif what == "reject":
            message.reject("no good")
        elif what == "twice":
            assert message.ack() is True
            try:
                message.ack()
            except lope.MessageStateError as error:
                print("refused:", error)
        print("settled", what)

threading.Thread(target=run, daemon=True).start()

def handle(message):
    if message.body == b"drop":
        return lope.HOLD
    work.put(message)
    return lope.HOLD
)");
  const std::string made = it.broker.make_queue("made");
  Lope lope(it.options("", kOnce));
  REQUIRE(lope.wait_ready());
  for (const char* body : {"ack", "reject", "twice", "drop"}) {
    it.broker.publisher().publish(
        Publication{.routing_key = it.queue, .body = body, .message_id = body, .reply_to = made});
  }
  auto reasons = it.dead_reasons(2);
  CHECK(reasons.size() == 2);
  CHECK_THAT(reasons["reject"], Catch::Matchers::Contains("no good"));
  CHECK_THAT(reasons["drop"], Catch::Matchers::Contains("kept the message, and then let go of it"));
  CHECK(eventually(10s, [&] { return said(lope, "settled twice"); }));
  CHECK(said(lope, "refused: the message is settled already"));
  CHECK(eventually(10s, [&] { return it.broker.message_count(made) == 1; }));
  CHECK(lope.stop() == exited(0));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("a message that outlives its call is harmless", "[broker][python]") {
  Functions it(R"(
import lope

last = None

def refused(use, *arguments, **keywords):
    try:
        use(*arguments, **keywords)
    except lope.MessageStateError:
        return True

def handle(message):
    global last
    if last is not None:
        assert last.headers == {} and last.body == b"first"  # as computed before
        assert last.acknowledged and repr(last) == "<lope.Message, settled>"
        for name in ("message_id", "priority", "timestamp", "redelivered", "body_bytes", "properties"):
            assert refused(getattr, last, name), name
        assert refused(last.ack) and refused(last.keep_alive) and refused(last.reject, "why")
        assert refused(last.publish, "body", routing_key="x") and refused(last.reply)
        assert refused(lope.Message().ack)
    message.headers, message.body
    last = message
)");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.publish({"first", "second"});
  check_all_acked(it, lope);
}

TEST_CASE("a message that is settled while it is published for is harmless", "[broker][python]") {
  Functions it(R"(
import lope

kept = None

class Settles:
    def __bool__(self):
        kept.ack()
        return True

def handle(message):
    global kept
    if kept is None:
        kept = message
        return lope.HOLD
    try:
        kept.publish("x", "x", persistent=Settles())
    except lope.MessageStateError as error:
        print("refused:", error)
)");
  Lope lope(it.options("", "    prefetch: 2\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"first", "second"});
  CHECK(eventually(10s, [&] { return said(lope, "refused: the message is settled, and gone"); }));
  check_all_acked(it, lope);
}

TEST_CASE("a function publishes and replies for its message", "[broker][python]") {
  Functions it(R"(
import datetime
import lope

def refused(message, body="x", **properties):
    try:
        message.publish(body, routing_key="x", **properties)
    except (lope.Error, TypeError, ValueError, OverflowError) as error:
        print("refused:", error)

def handle(message):
    to = message.reply_to
    message.publish({"n": 1}, to, headers={"text": "\u00fc", "bytes": b"\xff", "int": -1, "flag": True, "real": 0.5,
                                           "none": None, "time": datetime.datetime(2001, 9, 9, 1, 46, 40)},
                    persistent=False, priority=4, message_id="json")
    message.publish("gr\u00fcn", routing_key=to, message_id="text", expiration=3600)
    message.publish(b"\0\xff", routing_key=to, message_id="bytes", content_type="image/png")
    message.publish(b"", routing_key="nobody", may_be_unroutable=True)
    message.reply([1], message_id="reply")
    refused(message, headers={"list": []})
    refused(message, nonsense=1)
    refused(message, priority=256)
    refused(message, headers={"large": 2**63})
    refused(message, message_id="x" * 256)
    message.publish(b"", routing_key=to, delay=datetime.timedelta(hours=1))
)");
  const std::string answers = it.broker.make_queue("answers");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.broker.publisher().publish(Publication{
      .routing_key = it.queue, .message_id = "cause", .correlation_id = "c", .reply_to = answers});
  CHECK(eventually(10s, [&] { return it.broker.message_count(answers) == 4; }));
  check_all_acked(it, lope);
  std::map<std::string, Received> found;
  for (const Received& each : it.broker.drain(answers)) found[each.message_id] = each;
  CHECK(found["json"].body == R"({"n": 1})");
  CHECK(found["json"].content_type == "application/json");
  CHECK(found["json"].header("text") == "\xC3\xBC");
  CHECK(found["json"].number("int") == -1);
  for (const char* name : {"bytes", "flag", "real", "none", "time"}) {
    CAPTURE(name);
    CHECK(found["json"].has_header(name));
  }
  CHECK_FALSE(found["json"].persistent);
  CHECK(found["json"].header("x-lope-parent-id") == "cause");
  CHECK(found["text"].body == "gr\xC3\xBCn");
  CHECK(found["text"].content_type == "text/plain");
  CHECK(found["text"].expiration == "3600000");
  CHECK(found["text"].persistent);
  CHECK(found["bytes"].body == std::string("\0\xFF", 2));
  CHECK(found["bytes"].content_type == "image/png");
  CHECK(found["reply"].correlation_id == "c");
  const std::string log = lope.log();
  CHECK(lines_with(log, "refused: expected header 'list' to be a str, bytes, int").size() == 1);
  CHECK(lines_with(log, "refused: unexpected property 'nonsense'").size() == 1);
  CHECK(lines_with(log, "refused: expected priority to be 0 to 255, found 256").size() == 1);
  CHECK(lines_with(log, "refused: int too big to convert").size() == 1);
  CHECK(lines_with(log, "refused: publish: an argument is not valid").size() == 1);
}

TEST_CASE("what is printed and logged is the log's, at its level", "[broker][python]") {
  Functions it(R"(
import logging
import sys
import warnings

logging.basicConfig(level=logging.ERROR)  # has no effect: there is a handler

def handle(message):
    print("two", "lines\nof text")
    print("in pieces", end=" ")
    print("and whole")
    print("to stderr \ud800", file=sys.stderr)
    sys.stdout.write("flushed")
    sys.stdout.flush()
    sys.stdout.buffer.write(b"bytes\n")
    logging.debug("debug %d", 1)
    logging.getLogger("shop.orders").info("info %s", "x")
    logging.warning("warning")
    warnings.warn("old")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.exception("caught")
)");
  const std::string level = GENERATE("debug", "warn");
  LopeOptions options = it.options();
  options.top = "log: { level: " + level + " }\n";
  Lope lope(options);
  if (level == "debug") {
    REQUIRE(lope.wait_ready());
  } else {
    REQUIRE(eventually(20s, [&] { return it.broker.consumer_count(it.queue) == 1; }));
  }
  it.publish({"x"});
  REQUIRE(lope.wait_for_line("caught\\nTraceback"));
  check_all_acked(it, lope);
  struct Line {
    const char* level;
    const char* text;
  };
  for (const Line& line :
       {Line{"info ", "text=\"two lines\""}, Line{"info ", "text=\"of text\""},
        Line{"info ", "text=\"in pieces and whole\""},
        Line{"warn ", "text=\"to stderr \\\\ud800\""}, Line{"info ", "text=flushed"},
        Line{"info ", "stream=stdout text=bytes"}, Line{"debug", "text=\"debug 1\""},
        Line{"info ", "text=\"shop.orders: info x\""}, Line{"warn ", "text=warning"},
        Line{"warn ", "UserWarning: old"}, Line{"error", "text=\"caught\\nTraceback"}}) {
    CAPTURE(line.text);
    const bool shown = level == "debug" || line.level[0] == 'w' || line.level[0] == 'e';
    const auto found = lines_with(lope.log(), line.text);
    REQUIRE(found.size() == (shown ? 1 : 0));
    if (shown) CHECK(found[0].find(std::string("Z ") + line.level) != std::string::npos);
  }
}

TEST_CASE("what takes a worker down takes nothing else down", "[broker][python]") {
  Functions it(R"(
import ctypes, os, time

def handle(message):
    what = message.body.decode()
    if what == "exit":
        os._exit(7)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "abort":
        os.abort()
    if what == "recursion":
        deep()
    if what == "hang":
        while True:
            time.sleep(60)

def deep():
    deep()
)");
  Lope lope(it.options("", kOnce + "    workers: 2\n    timeout: 1s\n    crashes: 1\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"fine", "exit", "segfault", "abort", "recursion", "hang", "also fine"});
  auto reasons = it.dead_reasons(5);
  CAPTURE(reasons, lope.log());
  REQUIRE(reasons.size() == 5);
  using Catch::Matchers::Contains;
  CHECK_THAT(reasons["exit"], Contains("exit 7"));
  CHECK_THAT(reasons["segfault"], Contains("SIGSEGV"));
  CHECK_THAT(reasons["abort"], Contains("SIGABRT"));
  CHECK_THAT(reasons["recursion"], Contains("RecursionError"));
  CHECK_THAT(reasons["hang"], Contains("timeout"));
  CHECK(eventually(20s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
  CHECK(fields_of(lope.log(), "worker ended", "how").size() >= 4);
  CHECK(lope.process().count_lines("connection lost") == 0);
  // Python's own account of a crash, and of where a call hangs, is there too.
  CHECK(lines_with(lope.log(), "functions.py\\\", line 9 in handle").size() == 1);
  CHECK(lines_with(lope.log(), "functions.py\\\", line 16 in handle").size() == 1);
}

TEST_CASE("modules in C, programs and processes work as with python3", "[broker][python]") {
  Functions it(R"(
import concurrent.futures, ctypes, decimal, json, multiprocessing, os, signal, socket, sqlite3, ssl, subprocess, sys
import threading
import lope
from beside import square

def in_child(connection):
    print("printed by a child")
    try:
        message.publish("x", "x")
    except lope.Error as error:
        connection.send(str(error))

def handle(given):
    global message
    message = given
    assert ssl.create_default_context() and decimal.Decimal("0.1") * 3 == decimal.Decimal("0.3")
    assert sqlite3.connect(":memory:").execute("SELECT 6 * 7").fetchone() == (42,)
    assert json.loads("[1.5]") == [1.5] and ctypes.sizeof(ctypes.c_int) == 4
    assert threading.current_thread() is threading.main_thread()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert sys.executable.endswith("python3.11") and sys.prefix == "/usr", (sys.executable, sys.prefix)
    # A program that is started can be told to end.
    assert subprocess.run(["echo", "from a program"], capture_output=True).stdout == b"from a program\n"
    program = subprocess.Popen(["sleep", "60"])
    program.terminate()
    assert program.wait() == -signal.SIGTERM
    # To write where nobody reads is an error and no end.
    one, other = socket.socketpair()
    other.close()
    try:
        one.send(b"x")
        assert False
    except BrokenPipeError:
        pass
    here, there = multiprocessing.Pipe()
    child = multiprocessing.Process(target=in_child, args=(there,))
    child.start()
    assert "expected to be called in the worker" in here.recv()
    child.join()
    assert child.exitcode == 0
    for start in ("fork", "spawn"):
        with multiprocessing.get_context(start).Pool(2) as pool:
            assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(square, range(3))) == [0, 1, 4]
    if os.fork() == 0:
        return  # and ends there
    assert os.wait()[1] == 0
    print("all there")
)");
  it.files.write("beside.py", "def square(n): return n * n\n");  // a new Python has no lope
  Lope lope(it.options("", kOnce));
  REQUIRE(lope.wait_ready());
  it.publish({"x"});
  const bool all_there = lope.wait_for_line("all there", 30s).has_value();
  CAPTURE(lope.log());
  CHECK(all_there);
  check_all_acked(it, lope);
  CHECK(lines_with(lope.log(), "printed by a child").size() == 1);
}

TEST_CASE("a function uses a virtual environment, and folders of its own", "[broker][python]") {
  Functions it(R"(
import sys
import beside, in_folder, in_venv, through_pth
import lope

def handle(message):
    assert lope.options == {"limit": 3, "names": ["a", "b"], "nested": {"on": True}}, lope.options
    assert lope.group == "python" and lope.worker_index == 0 and lope.stopping() is False
    assert sys.prefix == lope.options.get("none", sys.prefix) and sys.prefix != sys.base_prefix
    print("from", beside.name, in_folder.name, in_venv.name, through_pth.name)
)");
  it.files.write("beside.py", "name = 'beside'\n");
  const std::string venv = it.files.file("venv");
  REQUIRE(run({"/usr/bin/python3", "-m", "venv", "--without-pip", venv}).status == exited(0));
  const auto write = [&](const std::string& folder, const std::string& name,
                         const std::string& content) {
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/" + name) << content;
  };
  const std::string packages = venv + "/lib/python3.11/site-packages";
  write(packages + "/in_venv", "__init__.py", "name = 'venv'\n");
  write(packages, "more.pth", it.files.file("elsewhere") + "\n");
  write(it.files.file("elsewhere"), "through_pth.py", "name = 'pth'\n");
  write(it.files.file("folder"), "in_folder.py", "name = 'folder'\n");
  Lope lope(it.options("venv: " + venv + ", path: [" + it.files.file("folder") +
                           "], options: { limit: 3, names: [a, b], nested: { on: true } }",
                       kOnce));
  const bool ready = lope.wait_ready();
  CAPTURE(lope.log());
  REQUIRE(ready);
  it.publish({"x"});
  REQUIRE(lope.wait_for_line("from beside folder venv pth"));
  check_all_acked(it, lope);
}

TEST_CASE("a module that is wrong is refused, with its place", "[broker][python]") {
  struct Case {
    const char* source;
    std::string options;
    std::string expected;
  };
  Functions it("");
  const std::string file = it.file;
  const Case table[] = {
      {"import json\nimport nowhere\n", "",
       file + ":2: ModuleNotFoundError: No module named 'nowhere'"},
      {"from json import nothing\n", "", file + ":1: ImportError: cannot import name 'nothing'"},
      {"x = 1\ndef handle(message)\n", "", file + ":2: SyntaxError: expected ':'"},
      {"import lope\nraise lope.InvalidConfiguration('no limit')\n", "", "no limit"},
      {"x = 1\n", "", "option 'function': expected 'handle' in '" + file + "', found no 'handle'"},
      {"x = 1\n", "function: x", "expected 'x' in '" + file + "' to be a function, found int"},
      {"class C: pass\n", "function: C.run", "expected 'C.run' in '" + file + "', found no 'run'"},
      {"def handle(a, b, c): pass\n", "",
       "option 'function': expected a function of 1 argument (message), 2 (body, message) or 4"},
      {"def handle(m): pass\n", "style: celery",
       "option 'style': expected message, kombu, pika, batch or message_result, found 'celery'"},
      {"", "module: json", "expected one of the options 'module' and 'file', found both"},
      {"", "venv: /nowhere",
       "option 'venv': expected a virtual environment, found no '/nowhere/pyvenv.cfg'"},
      {"", "flie: x", "did you mean 'file'"},
  };
  for (const Case& each : table) {
    CAPTURE(each.source, each.options);
    std::ofstream(file) << each.source;
    Lope lope(it.options(each.options));
    const auto line = lope.wait_for_line(each.expected);
    CAPTURE(lope.log());
    CHECK(line);
    lope.stop();
  }
  LopeOptions module = it.options();
  module.groups.replace(module.groups.find("file: " + file), 6 + file.size(),
                        "module: no_such_module");
  Lope lope(module);
  CHECK(
      lope.wait_for_line("option 'module': ModuleNotFoundError: No module named 'no_such_module'"));
  lope.stop();
}

TEST_CASE("what is wrong for now only is tried again", "[broker][python]") {
  Functions it(
      "import os\nif not os.path.exists(__file__ + '.there'): raise OSError('not yet')\n"
      "def handle(message): print('handled')\n");
  Lope lope(it.options());
  REQUIRE(lope.wait_for_line("functions.py:2: OSError: not yet"));
  it.files.write("functions.py.there", "");
  REQUIRE(lope.wait_ready());
  it.publish({"x"});
  CHECK(lope.wait_for_line("handled"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("a reload refuses a module that is wrong, a restart takes one that changed",
          "[broker][python]") {
  Functions it("def handle(message): print('the first')\n");
  Lope lope(it.options());
  REQUIRE(lope.wait_ready());
  it.publish({"a"});
  REQUIRE(lope.wait_for_line("the first"));
  const std::string bad = it.files.write("bad.py", "import nowhere\n");
  LopeOptions changed = it.options();
  changed.groups.replace(changed.groups.find(it.file), it.file.size(), bad);
  const auto control = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--socket", lope.control_socket()});
    return run_lope(arguments);
  };
  lope.dir().write("lope.yaml", config_text(changed));
  const RunResult reload = control({"reload"});
  CHECK(reload.status != exited(0));
  CHECK_THAT(reload.output, Catch::Matchers::Contains(bad + ":1: ModuleNotFoundError"));
  it.files.write("functions.py", "def handle(message): print('the second, longer')\n");
  const RunResult restart = control({"restart", "python"});
  CAPTURE(restart.output);
  CHECK(restart.status == exited(0));
  REQUIRE(lope.wait_for_line("worker ended"));
  it.publish({"b"});
  CHECK(lope.wait_for_line("the second, longer"));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("the threads of a worker share Python, and end with it", "[broker][python]") {
  Functions it(R"(
import atexit
import threading

here = threading.Barrier(3)
atexit.register(print, "at exit")

def handle(message):
    here.wait()  # all three at a time
    print("thread", threading.current_thread() is threading.main_thread())
    if message.body == b"left":
        threading.Thread(target=threading.Event().wait, name="endless", daemon=False).start()
)");
  const bool left = GENERATE(false, true);
  Lope lope(it.options("", "    threads: 3\n"));
  REQUIRE(lope.wait_ready());
  it.publish({"a", "b", left ? "left" : "c"});
  REQUIRE(eventually(10s, [&] {
    return fields_of(lope.log(), "handler says", "text").count("thread False") == 2;
  }));
  check_all_acked(it, lope);
  CHECK(said(lope, "thread True"));
  CHECK(said(lope, "at exit"));
  CHECK(said(lope, "threads that have not ended in 5 s are left alone: endless") == left);
  CHECK(lines_with(lope.log(), "how=\"exit 0\" stage=ending").size() == 1);
}

TEST_CASE("a worker whose function leaks is replaced", "[broker][python]") {
  Functions it(R"(
leak = []

def handle(message):
    leak.append(bytearray(8 << 20))
)");
  Lope lope(it.options("", "    recycle: { memory: 100MiB }\n"));
  REQUIRE(lope.wait_ready());
  std::vector<std::string> bodies;
  for (int i = 0; i < 40; ++i) bodies.push_back(std::to_string(i));
  it.publish(bodies);
  CHECK(eventually(30s, [&] { return lope.process().count_lines("worker ready") >= 3; }));
  check_all_acked(it, lope);
}

TEST_CASE("200,000 messages leave nothing behind", "[broker][python]") {
  Functions it(R"(
import lope

seen = 0

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def handle(message):
    global seen
    seen += 1
    message.body, message.headers, message.properties, message.delivery_info
    if seen % 20 == 0:
        message.reply({"n": seen}) if message.reply_to else message.keep_alive()
    if seen in (50_000, 200_000):
        print("resident", seen, resident())
    if seen % 1000 == 7 and message.attempt == 1:
        raise lope.Retry("once more", after=0)
    if seen % 1000 == 9:
        message.ack()
        return lope.ACK
)");
  Lope lope(it.options("", "    prefetch: 1000\n    breaker: false\n"));
  REQUIRE(lope.wait_ready());
  Publisher publisher = it.broker.publisher();
  publisher.publish_many(200'000, [&](int i) {
    return Publication{.routing_key = it.queue,
                       .body = std::string(200, 'x'),
                       .message_id = std::to_string(i),
                       .persistent = false,
                       .headers = {{"a", "b"}},
                       .content_encoding = "utf-8"};
  });
  REQUIRE(lope.wait_for_line("resident 200000", 120s));
  const auto resident = [&](const std::string& at) {
    const std::string text = field(lines_with(lope.log(), "resident " + at + " ").at(0), "text");
    return std::stol(text.substr(text.rfind(' ')));
  };
  const long grown = resident("200000") - resident("50000");
  CAPTURE(grown);
  // A sanitizer keeps what is freed for a while.
  CHECK((sanitized() || grown < 2 << 20));
  CHECK(eventually(30s, [&] { return it.broker.is_empty(it.queue); }));
  CHECK(lope.stop() == exited(0));
}

TEST_CASE("10,000 messages lose nothing while workers are killed", "[broker][python]") {
  Functions it(R"(
import lope

file = open(lope.options["file"], "ab", buffering=0)

def handle(message):
    file.write(message.message_id.encode() + b"\n")
)");
  const std::string path = it.files.file("ids");
  Lope lope(
      it.options("options: { file: " + path + " }",
                 "    workers: 3\n    prefetch: 100\n    retry: { attempts: 100, delay: 0s }\n"
                 "    crashes: 100\n    breaker: false\n"));
  REQUIRE(lope.wait_ready());
  RatePublisher load(it.broker.url(), 1000, 10s, [&](int i) {
    return Publication{.routing_key = it.queue, .body = "x", .message_id = std::to_string(i)};
  });
  std::minstd_rand random(1);
  int kills = 0;
  for (int next = 200; load.running(); next += 250) {
    REQUIRE(eventually(20s, [&] { return load.sent() >= next || !load.running(); }));
    const auto workers = lope.workers();
    if (workers.empty()) continue;
    if (::kill(workers[random() % workers.size()], SIGKILL) == 0) ++kills;
  }
  load.join();
  CHECK(load.confirmed().size() == 10'000);
  CHECK(kills >= 20);
  CHECK(eventually(60s, [&] {
    return it.broker.is_empty(it.queue) &&
           compare_ledger(load.confirmed(), lines_of_file(path)).missing.empty();
  }));
  CHECK(lope.stop() == exited(0));
  const LedgerReport report = compare_ledger(load.confirmed(), lines_of_file(path));
  CHECK(report.missing.empty());
  CHECK(report.unexpected.empty());
  // Twice at most what was inside at a kill.
  CHECK(report.seen - load.confirmed().size() <= static_cast<std::size_t>(kills));
  CHECK(it.broker.message_count(it.queue) == 0);
}

TEST_CASE("consumers of pika, kombu and Celery move as the page says", "[broker][python]") {
  Page page("from-python.md", {"thumbs", "thumbs.dead", "orders", "orders.dead", "invoices", "mail",
                               "mail.dead", "celery", "celery.dead", "stock", "stock.dead"});
  page.follow();
}
