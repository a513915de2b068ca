/* What Go cannot do itself: call the functions of the host's table. */
#include <lope/handler.h>
#include <stdlib.h>
#include <string.h>

static inline lope_str lope_go_str(const void* data, size_t size) {
  lope_str text = {(const char*)data, size};
  return text;
}

static inline void lope_go_log(const lope_host* host, int32_t level, _GoString_ text) {
  host->log(host, level, lope_go_str(_GoStringPtr(text), _GoStringLen(text)));
}
static inline int32_t lope_go_log_enabled(const lope_host* host, int32_t level) {
  return host->log_enabled(host, level);
}
static inline int32_t lope_go_stopping(const lope_host* host) { return host->stopping(host); }
static inline lope_status lope_go_metric_record(const lope_host* host, uint32_t id, int64_t value) {
  return host->metric_record(host, id, value);
}
static inline lope_status lope_go_settle(const lope_host* host, uint64_t id, lope_outcome outcome) {
  return host->settle(host, id, outcome);
}
static inline lope_status lope_go_option(const lope_host* host, _GoString_ key, lope_str* value) {
  return host->option(host, lope_go_str(_GoStringPtr(key), _GoStringLen(key)), value);
}
static inline lope_str lope_go_options_json(const lope_host* host) {
  return host->options_json(host);
}
static inline lope_status lope_go_metric_register(const lope_host* host, int32_t kind,
                                                  _GoString_ name, _GoString_ help, uint32_t* id) {
  return host->metric_register(host, kind, lope_go_str(_GoStringPtr(name), _GoStringLen(name)),
                               lope_go_str(_GoStringPtr(help), _GoStringLen(help)), id);
}
static inline lope_status lope_go_header_get(const lope_host* host, const lope_message* message,
                                             _GoString_ name, lope_value* value) {
  return host->header_get(host, message, lope_go_str(_GoStringPtr(name), _GoStringLen(name)),
                          value);
}
static inline lope_status lope_go_header_at(const lope_host* host, const lope_message* message,
                                            uint32_t index, lope_header* header) {
  return host->header_at(host, message, index, header);
}
static inline lope_status lope_go_explain(const lope_host* host, const lope_message* message,
                                          _GoString_ reason) {
  return host->explain(host, message, lope_go_str(_GoStringPtr(reason), _GoStringLen(reason)));
}
static inline lope_status lope_go_retry_after(const lope_host* host, const lope_message* message,
                                              uint64_t ms) {
  return host->retry_after(host, message, ms);
}
static inline lope_status lope_go_keep_alive(const lope_host* host, const lope_message* message) {
  return host->keep_alive(host, message);
}

/* The texts of a publication lie one behind the other in `texts`: first its own, then those of its
 * headers, in which there are sizes only. Go's memory is not to hold pointers to Go's memory. */
static inline lope_status lope_go_publish(const lope_host* host, const lope_message* message,
                                          int is_reply, lope_publication publication,
                                          const size_t* sizes, const char* texts,
                                          const lope_header* headers, const void* body) {
  lope_str* const members[] = {&publication.exchange,       &publication.routing_key,
                               &publication.content_type,   &publication.content_encoding,
                               &publication.correlation_id, &publication.reply_to,
                               &publication.message_id,     &publication.type};
  lope_header* const copies = malloc((publication.header_count + 1) * sizeof *copies);
  lope_status status;
  if (copies == NULL) return LOPE_E_FAILED;
  for (size_t i = 0; i < sizeof members / sizeof *members; ++i) {
    *members[i] = lope_go_str(texts, sizes[i]);
    texts += sizes[i];
  }
  for (size_t i = 0; i < publication.header_count; ++i) {
    lope_value* const value = &copies[i].value;
    copies[i] = headers[i];
    copies[i].name.data = texts;
    texts += copies[i].name.size;
    if (value->kind != LOPE_TEXT && value->kind != LOPE_BYTES) continue;
    value->as.s.data = texts;
    texts += value->as.s.size;
  }
  publication.struct_size = sizeof publication;
  publication.headers = copies;
  publication.body.data = body;
  status = is_reply ? host->reply(host, message, &publication)
                    : host->publish(host, message, &publication);
  free(copies);
  return status;
}

/* The members of a union, which Go sees as bytes. */
static inline int64_t lope_go_i(const lope_value* value) { return value->as.i; }
static inline uint64_t lope_go_u(const lope_value* value) { return value->as.u; }
static inline double lope_go_d(const lope_value* value) { return value->as.d; }
static inline lope_str lope_go_s(const lope_value* value) { return value->as.s; }
static inline void lope_go_set_u(lope_value* value, uint64_t u) { value->as.u = u; }
static inline void lope_go_set_d(lope_value* value, double d) { value->as.d = d; }
static inline void lope_go_set_size(lope_value* value, size_t size) { value->as.s.size = size; }

/* Is `key` declared a secret? As lope::detail::is_option() has it. */
extern const lope_plugin lope_plugin_v1 __attribute__((weak));
static inline int lope_go_is_secret(_GoString_ key) {
  const lope_option* option = &lope_plugin_v1 == NULL ? NULL : lope_plugin_v1.options;
  for (; option != NULL && option->name != NULL; ++option) {
    size_t size = strlen(option->name);
    const int is_list = size >= 2 && strcmp(option->name + size - 2, ".*") == 0;
    if (is_list) --size;
    if ((option->flags & LOPE_OPTION_SECRET) == 0) continue;
    if (is_list ? _GoStringLen(key) > size : _GoStringLen(key) == size)
      if (memcmp(_GoStringPtr(key), option->name, size) == 0) return 1;
  }
  return 0;
}
