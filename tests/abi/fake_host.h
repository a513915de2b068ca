// A host for tests of handlers: remembers what it is told, answers what it is set to.
#pragma once

#include <dlfcn.h>
#include <lope/handler.h>

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lope::test {

inline std::string_view view(lope_str text) {
  return text.size == 0 ? std::string_view() : std::string_view(text.data, text.size);
}
inline lope_str str(std::string_view text) { return {text.data(), text.size()}; }

struct FakeHost {
  // What it answers.
  std::map<std::string, std::string, std::less<>> options;
  std::vector<lope_header> headers;
  lope_status publish_status = LOPE_OK;
  lope_status settle_status = LOPE_OK;
  lope_status retry_after_status = LOPE_OK;
  lope_status keep_alive_status = LOPE_OK;

  // What it was told.
  std::vector<std::string> lines;
  std::vector<std::pair<const lope_message*, std::string>> explanations;
  std::vector<std::uint64_t> delays;
  struct Sent {
    bool is_reply = false;
    std::string body, exchange, routing_key, content_type;
    std::uint32_t flags = 0;
    std::uint64_t delay_ms = 0;
    std::vector<std::pair<std::string, lope_value>> headers;
    std::map<std::string, std::string> texts;  // of headers that are text or bytes
  };
  std::vector<Sent> sent;
  std::vector<std::pair<std::uint64_t, lope_outcome>> settled;

  lope_host table{};

  FakeHost() {
    table.struct_size = sizeof(table);
    table.abi_minor = LOPE_ABI_MINOR;
    table.host_data = this;
    table.group = str("edge");
    table.log = [](const lope_host* host, int32_t, lope_str text) noexcept {
      self(host).lines.emplace_back(view(text));
    };
    table.log_enabled = [](const lope_host*, int32_t) noexcept -> int32_t { return 1; };
    table.monotonic_ns = [](const lope_host*) noexcept -> uint64_t { return 1; };
    table.unix_ns = [](const lope_host*) noexcept -> uint64_t { return 1; };
    table.stopping = [](const lope_host*) noexcept -> int32_t { return 0; };
    table.metric_record = [](const lope_host*, uint32_t, int64_t) noexcept -> lope_status {
      return LOPE_E_UNSUPPORTED;
    };
    table.settle = [](const lope_host* host, uint64_t id, lope_outcome outcome) noexcept {
      self(host).settled.emplace_back(id, outcome);
      return self(host).settle_status;
    };
    table.option = [](const lope_host* host, lope_str key,
                      lope_str* value) noexcept -> lope_status {
      const auto found = self(host).options.find(view(key));
      *value = found == self(host).options.end() ? lope_str{} : str(found->second);
      return found == self(host).options.end() ? LOPE_E_NOT_FOUND : LOPE_OK;
    };
    table.options_json = [](const lope_host*) noexcept { return str("{}"); };
    table.metric_register = [](const lope_host*, int32_t, lope_str, lope_str,
                               uint32_t*) noexcept -> lope_status { return LOPE_E_WRONG_THREAD; };
    table.header_get = [](const lope_host* host, const lope_message*, lope_str name,
                          lope_value* value) noexcept -> lope_status {
      for (const lope_header& header : self(host).headers) {
        if (view(header.name) != view(name)) continue;
        *value = header.value;
        return LOPE_OK;
      }
      return LOPE_E_NOT_FOUND;
    };
    table.header_at = [](const lope_host* host, const lope_message*, uint32_t index,
                         lope_header* header) noexcept -> lope_status {
      if (index >= self(host).headers.size()) return LOPE_E_NOT_FOUND;
      *header = self(host).headers[index];
      return LOPE_OK;
    };
    table.publish = [](const lope_host* host, const lope_message*,
                       const lope_publication* publication) noexcept {
      return self(host).keep(*publication, false);
    };
    table.reply = [](const lope_host* host, const lope_message*,
                     const lope_publication* publication) noexcept {
      return self(host).keep(*publication, true);
    };
    table.explain = [](const lope_host* host, const lope_message* message,
                       lope_str reason) noexcept -> lope_status {
      self(host).explanations.emplace_back(message, view(reason));
      return LOPE_OK;
    };
    table.retry_after = [](const lope_host* host, const lope_message*, uint64_t ms) noexcept {
      self(host).delays.push_back(ms);
      return self(host).retry_after_status;
    };
    table.keep_alive = [](const lope_host* host, const lope_message*) noexcept -> lope_status {
      return self(host).keep_alive_status;
    };
    table.extension = [](const lope_host*, const char*) noexcept -> const void* { return nullptr; };
  }
  FakeHost(const FakeHost&) = delete;
  FakeHost& operator=(const FakeHost&) = delete;

  // The last explanation; empty when there is none.
  std::string explanation() const { return explanations.empty() ? "" : explanations.back().second; }

 private:
  static FakeHost& self(const lope_host* host) { return *static_cast<FakeHost*>(host->host_data); }

  lope_status keep(const lope_publication& publication, bool is_reply) {
    if (publish_status != LOPE_OK) return publish_status;
    Sent one;
    one.is_reply = is_reply;
    one.body.assign(static_cast<const char*>(publication.body.data), publication.body.size);
    one.exchange = view(publication.exchange);
    one.routing_key = view(publication.routing_key);
    one.content_type = view(publication.content_type);
    one.flags = publication.flags;
    one.delay_ms = publication.delay_ms;
    for (std::size_t i = 0; i < publication.header_count; ++i) {
      const lope_header& header = publication.headers[i];
      one.headers.emplace_back(view(header.name), header.value);
      if (header.value.kind == LOPE_TEXT || header.value.kind == LOPE_BYTES) {
        one.texts[one.headers.back().first] = view(header.value.as.s);
      }
    }
    sent.push_back(one);
    return LOPE_OK;
  }
};

// A handler's table, loaded for good from the folder of handlers for tests.
inline const lope_plugin& load_handler(const std::string& name) {
  const std::string path = LOPE_TEST_HANDLERS_DIR "/" + name + ".so";
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  INFO(path);
  REQUIRE(library != nullptr);
  const void* const table = ::dlsym(library, "lope_plugin_v1");
  REQUIRE(table != nullptr);
  return *static_cast<const lope_plugin*>(table);
}

inline lope_message message_with(std::string_view body) {
  lope_message message{};
  message.struct_size = sizeof(message);
  message.id = 41;
  message.attempt = 1;
  message.body = {body.data(), body.size()};
  message.queue = str("edge");
  return message;
}

}  // namespace lope::test
