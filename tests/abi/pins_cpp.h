// ABI 1.0 as a C++ compiler sees it, and what C cannot hold it to: the types of the functions.
#include <lope/handler.h>
#include <lope/handler.hpp>
#include <lope/testing.hpp>

#include <type_traits>

#include "pins_1_0.h"

#define LOPE_STRUCT(type, pinned) static_assert(sizeof(type) >= (pinned), #type);
#define LOPE_MEMBER(type, member, pinned_offset, pinned_size)             \
  static_assert(offsetof(type, member) == (pinned_offset) &&              \
                    sizeof(std::declval<type>().member) == (pinned_size), \
                #type "." #member);
#define LOPE_WORD(name, pinned) static_assert(static_cast<int>(name) == (pinned), #name);
LOPE_PINS_1_0

static_assert(sizeof(lope_str) == 16 && sizeof(lope_bytes) == 16 && sizeof(lope_value) == 24 &&
                  sizeof(lope_header) == 40 && sizeof(lope_option) == 48,
              "frozen");
static_assert(std::is_standard_layout_v<lope_message> &&
              std::is_trivially_copyable_v<lope_message>);
static_assert(std::is_standard_layout_v<lope_host> && std::is_trivially_copyable_v<lope_host>);
static_assert(std::is_standard_layout_v<lope_plugin> && std::is_trivially_copyable_v<lope_plugin>);
static_assert(std::is_same_v<lope_status, int32_t> && std::is_same_v<lope_outcome, int32_t>);
static_assert(std::is_same_v<decltype(lope_plugin_v1), const lope_plugin>);

template <typename Function>
using Pointer = Function*;
#define LOPE_SIGNATURE(type, member, ...)                                              \
  static_assert(std::is_same_v<decltype(type::member), Pointer<__VA_ARGS__ noexcept>>, \
                #type "." #member)

LOPE_SIGNATURE(lope_host, log, void(const lope_host*, int32_t, lope_str));
LOPE_SIGNATURE(lope_host, log_enabled, int32_t(const lope_host*, int32_t));
LOPE_SIGNATURE(lope_host, monotonic_ns, uint64_t(const lope_host*));
LOPE_SIGNATURE(lope_host, unix_ns, uint64_t(const lope_host*));
LOPE_SIGNATURE(lope_host, stopping, int32_t(const lope_host*));
LOPE_SIGNATURE(lope_host, metric_record, lope_status(const lope_host*, uint32_t, int64_t));
LOPE_SIGNATURE(lope_host, settle, lope_status(const lope_host*, uint64_t, lope_outcome));
LOPE_SIGNATURE(lope_host, option, lope_status(const lope_host*, lope_str, lope_str*));
LOPE_SIGNATURE(lope_host, options_json, lope_str(const lope_host*));
LOPE_SIGNATURE(lope_host, metric_register,
               lope_status(const lope_host*, int32_t, lope_str, lope_str, uint32_t*));
LOPE_SIGNATURE(lope_host, header_get,
               lope_status(const lope_host*, const lope_message*, lope_str, lope_value*));
LOPE_SIGNATURE(lope_host, header_at,
               lope_status(const lope_host*, const lope_message*, uint32_t, lope_header*));
LOPE_SIGNATURE(lope_host, publish,
               lope_status(const lope_host*, const lope_message*, const lope_publication*));
LOPE_SIGNATURE(lope_host, reply,
               lope_status(const lope_host*, const lope_message*, const lope_publication*));
LOPE_SIGNATURE(lope_host, explain, lope_status(const lope_host*, const lope_message*, lope_str));
LOPE_SIGNATURE(lope_host, retry_after,
               lope_status(const lope_host*, const lope_message*, uint64_t));
LOPE_SIGNATURE(lope_host, keep_alive, lope_status(const lope_host*, const lope_message*));
LOPE_SIGNATURE(lope_host, extension, const void*(const lope_host*, const char*));
LOPE_SIGNATURE(lope_plugin, create, lope_status(const lope_host*, lope_handler**));
LOPE_SIGNATURE(lope_plugin, destroy, void(lope_handler*));
LOPE_SIGNATURE(lope_plugin, handle, lope_outcome(lope_handler*, const lope_message*));
LOPE_SIGNATURE(lope_plugin, handle_batch, void(lope_handler*, const lope_batch*, lope_outcome*));
LOPE_SIGNATURE(lope_plugin, flush, lope_status(lope_handler*, uint32_t));
