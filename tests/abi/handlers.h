// Handlers and messages for the tests of the ABI.
#pragma once

#include <dlfcn.h>
#include <lope/handler.h>

#include <catch2/catch.hpp>
#include <string>
#include <string_view>

namespace lope::test {

inline std::string_view view(lope_str text) {
  return text.size == 0 ? std::string_view() : std::string_view(text.data, text.size);
}
inline lope_str str(std::string_view text) { return {text.data(), text.size()}; }

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
