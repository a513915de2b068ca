// The worker's own host, seen from a handler's side of the ABI.
#include "worker/host.h"

#include <lope/handler.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <optional>

#include "handlers.h"

using namespace lope;
using test::load_handler;
using test::message_with;
using test::str;

namespace {

// The host of one instance, in a worker that talks to nobody.
struct RealHost {
  explicit RealHost(const std::string& name) : plugin{&load_handler(name), name} {
    settings.group = "abi";
    settings.worker_index = 3;
    settings.options_json = R"({"colour":"blue"})";
    settings.options = {{"colour", "blue"}};
    host.emplace(settings, plugin, 2, *board, link, held);
  }
  lope_status create(lope_handler** handler) {
    host->set_creating(true);
    const lope_status status = plugin.table->create(host->table(), handler);
    host->set_creating(false);
    return status;
  }

  WorkerSettings settings;
  worker::Plugin plugin;
  std::unique_ptr<WorkerBoard> board = std::make_unique<WorkerBoard>();
  worker::LinkWriter link{-1, -1};
  worker::Inbox inbox{-1, false};
  worker::HeldMessages held{*board, link, inbox, 1};
  std::optional<worker::Host> host;
};

std::vector<std::unique_ptr<worker::MessageRecord>> one_record() {
  std::vector<std::unique_ptr<worker::MessageRecord>> records;
  records.push_back(std::make_unique<worker::MessageRecord>());
  return records;
}

}  // namespace

TEST_CASE("the worker's host table is whole", "[abi][host]") {
  RealHost real("frozen_1_0");
  const lope_host& table = *real.host->table();
  CHECK(table.struct_size == sizeof(lope_host));
  CHECK(table.abi_minor == LOPE_ABI_MINOR);
  CHECK(test::view(table.group) == "abi");
  CHECK(table.worker_index == 3);
  CHECK(table.thread_index == 2);
  // From the first function to the last: no hole to jump through.
  void* functions[(sizeof(lope_host) - offsetof(lope_host, log)) / sizeof(void*)];
  std::memcpy(functions, reinterpret_cast<const char*>(&table) + offsetof(lope_host, log),
              sizeof functions);
  for (const void* function : functions) CHECK(function != nullptr);
}

TEST_CASE("a configured option wins over the table's default, which stands in", "[abi][host]") {
  RealHost real("frozen_1_0");
  const lope_host& table = *real.host->table();
  lope_str value{};
  CHECK(table.option(&table, str("colour"), &value) == LOPE_OK);
  CHECK(test::view(value) == "blue");
  CHECK(table.option(&table, str("pin"), &value) == LOPE_OK);
  CHECK(test::view(value) == "1234");
  CHECK(table.option(&table, str("shape"), &value) == LOPE_E_NOT_FOUND);
  CHECK(value.size == 0);
}

TEST_CASE("a handler of 1.0 runs on the worker's host", "[abi][host]") {
  RealHost real("frozen_1_0");
  const lope_plugin& plugin = *real.plugin.table;
  lope_handler* handler = nullptr;
  REQUIRE(real.create(&handler) == LOPE_OK);
  const auto records = one_record();
  worker::MessageRecord& current = *records.front();
  const auto handle = [&](std::string_view body) {
    current.message = message_with(body);
    real.host->set_current(records);
    return plugin.handle(handler, &current.message);
  };
  CHECK(handle("ack") == LOPE_ACK);
  CHECK(handle("reject") == LOPE_REJECT);
  CHECK(handle("calls") == LOPE_ACK);
  CHECK(current.explanation.empty());
  CHECK(handle("retry") == LOPE_RETRY);
  CHECK(current.explanation == "told to retry");
  plugin.destroy(handler);
}

TEST_CASE("a handler that asks for what this host lacks is told so", "[abi][host]") {
  RealHost real("newer_call");
  const lope_plugin& plugin = *real.plugin.table;
  lope_handler* handler = nullptr;
  REQUIRE(real.create(&handler) == LOPE_OK);
  const auto records = one_record();
  worker::MessageRecord& current = *records.front();
  current.message = message_with("");
  real.host->set_current(records);
  CHECK(plugin.handle(handler, &current.message) == LOPE_RETRY);
  CHECK(current.explanation == "the host does not support it");
}

TEST_CASE("what a handler of 1.0 publishes is kept for its ack", "[abi][host]") {
  RealHost real("frozen_1_0");
  const lope_plugin& plugin = *real.plugin.table;
  lope_handler* handler = nullptr;
  REQUIRE(real.create(&handler) == LOPE_OK);
  const auto records = one_record();
  worker::MessageRecord& current = *records.front();
  current.message = message_with("calls");
  real.host->set_current(records);
  CHECK(plugin.handle(handler, &current.message) == LOPE_ACK);
  CHECK(current.publication_count == 1);  // and the reply, to nobody, was refused
  CHECK(current.retry_after_ms == 5);
  const auto sent = decode_publication({current.publications.data() + sizeof(FrameHead),
                                        current.publications.size() - sizeof(FrameHead)});
  REQUIRE(sent);
  CHECK((*sent)[TextProperty::routing_key] == "frozen");
  CHECK(sent->body == "body");
  plugin.destroy(handler);
}

TEST_CASE("functions for a message refuse one that is not being handled", "[abi][host]") {
  RealHost real("frozen_1_0");
  const lope_host& table = *real.host->table();
  const lope_message stranger = message_with("ack");
  lope_value value{};
  lope_header header{};
  CHECK(table.header_get(&table, &stranger, str("colour"), &value) == LOPE_E_WRONG_THREAD);
  CHECK(table.header_at(&table, &stranger, 0, &header) == LOPE_E_WRONG_THREAD);
  CHECK(table.explain(&table, &stranger, str("why")) == LOPE_E_WRONG_THREAD);
}
