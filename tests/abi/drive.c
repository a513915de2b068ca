/* A small host in plain C99: loads one handler, makes an instance, and runs messages through it.
 *   lope-abi-drive x.so
 * Which messages, and what must come of them, goes by the plugin's name. Exit 0 when all is as
 * expected. */
#include <dlfcn.h>
#include <lope/handler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
static int log_lines;
static char explanation[256];

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                             \
    }                                                                         \
  } while (0)

static lope_str text(const char* literal) {
  lope_str str;
  str.data = literal;
  str.size = strlen(literal);
  return str;
}

static int same(lope_str a, lope_str b) {
  return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static const lope_plugin* plugin;

static void host_log(const lope_host* host, int32_t level, lope_str line) {
  (void)host;
  (void)level;
  (void)line;
  ++log_lines;
}
static int32_t host_log_enabled(const lope_host* host, int32_t level) {
  (void)host;
  return level >= LOPE_LOG_INFO;
}
static uint64_t host_time(const lope_host* host) {
  (void)host;
  return 1;
}
static int32_t host_stopping(const lope_host* host) {
  (void)host;
  return 0;
}
static lope_status host_metric_record(const lope_host* host, uint32_t id, int64_t value) {
  (void)host;
  (void)value;
  return id == 1 ? LOPE_OK : LOPE_E_NOT_FOUND;
}
static lope_status host_settle(const lope_host* host, uint64_t id, lope_outcome outcome) {
  (void)host;
  (void)id;
  (void)outcome;
  return LOPE_E_STALE;
}
static lope_status host_option(const lope_host* host, lope_str key, lope_str* value) {
  const lope_option* option = plugin->options;
  (void)host;
  for (; option != NULL && option->name != NULL; ++option) {
    if (!same(key, text(option->name)) || option->default_value == NULL) continue;
    *value = text(option->default_value);
    return LOPE_OK;
  }
  *value = text("");
  return LOPE_E_NOT_FOUND;
}
static lope_str host_options_json(const lope_host* host) {
  (void)host;
  return text("{}");
}
static lope_status host_metric_register(const lope_host* host, int32_t kind, lope_str name,
                                        lope_str help, uint32_t* id) {
  (void)host;
  (void)kind;
  (void)name;
  (void)help;
  *id = 1;
  return LOPE_OK;
}
static lope_status host_header_get(const lope_host* host, const lope_message* message,
                                   lope_str name, lope_value* value) {
  (void)host;
  (void)message;
  memset(value, 0, sizeof *value);
  if (!same(name, text("colour"))) return LOPE_E_NOT_FOUND;
  value->kind = LOPE_TEXT;
  value->as.s = text("red");
  return LOPE_OK;
}
static lope_status host_header_at(const lope_host* host, const lope_message* message,
                                  uint32_t index, lope_header* header) {
  memset(header, 0, sizeof *header);
  if (index >= message->header_count) return LOPE_E_NOT_FOUND;
  header->name = text("colour");
  return host_header_get(host, message, header->name, &header->value);
}
static lope_status host_publish(const lope_host* host, const lope_message* cause,
                                const lope_publication* publication) {
  (void)host;
  (void)cause;
  CHECK(publication->struct_size == sizeof *publication);
  CHECK(publication->body.size == 4);
  return LOPE_E_UNSUPPORTED;
}
static lope_status host_reply(const lope_host* host, const lope_message* request,
                              const lope_publication* publication) {
  (void)publication;
  (void)host;
  return request->reply_to.size == 0 ? LOPE_E_INVALID : LOPE_OK;
}
static lope_status host_explain(const lope_host* host, const lope_message* message,
                                lope_str reason) {
  (void)host;
  (void)message;
  snprintf(explanation, sizeof explanation, "%.*s", (int)reason.size, reason.data);
  return LOPE_OK;
}
static lope_status host_retry_after(const lope_host* host, const lope_message* message,
                                    uint64_t ms) {
  (void)host;
  (void)message;
  (void)ms;
  return LOPE_E_UNSUPPORTED;
}
static lope_status host_keep_alive(const lope_host* host, const lope_message* message) {
  (void)host;
  (void)message;
  return LOPE_OK;
}
static const void* host_extension(const lope_host* host, const char* id) {
  (void)host;
  (void)id;
  return NULL;
}

static const lope_host the_host = {
    .struct_size = sizeof(lope_host),
    .abi_minor = LOPE_ABI_MINOR,
    .group = {"drive", 5},
    .log = host_log,
    .log_enabled = host_log_enabled,
    .monotonic_ns = host_time,
    .unix_ns = host_time,
    .stopping = host_stopping,
    .metric_record = host_metric_record,
    .settle = host_settle,
    .option = host_option,
    .options_json = host_options_json,
    .metric_register = host_metric_register,
    .header_get = host_header_get,
    .header_at = host_header_at,
    .publish = host_publish,
    .reply = host_reply,
    .explain = host_explain,
    .retry_after = host_retry_after,
    .keep_alive = host_keep_alive,
    .extension = host_extension,
};

static lope_message message_with(const char* body) {
  lope_message message;
  memset(&message, 0, sizeof message);
  message.struct_size = sizeof message;
  message.id = 1;
  message.attempt = 1;
  message.body.data = body;
  message.body.size = strlen(body);
  message.queue = text("drive");
  message.header_count = 1;
  return message;
}

static lope_outcome outcome_of(lope_handler* handler, const char* body) {
  const lope_message message = message_with(body);
  explanation[0] = '\0';
  return plugin->handle(handler, &message);
}

static void drive_frozen(lope_handler* handler) {
  CHECK(outcome_of(handler, "ack") == LOPE_ACK);
  CHECK(outcome_of(handler, "reject") == LOPE_REJECT);
  CHECK(outcome_of(handler, "hold") == LOPE_HOLD);
  CHECK(outcome_of(handler, "none") == LOPE_NO_OUTCOME);
  CHECK(outcome_of(handler, "header") == LOPE_ACK);
  CHECK(outcome_of(handler, "calls") == LOPE_ACK);
  CHECK(log_lines == 1);
  CHECK(outcome_of(handler, "retry") == LOPE_RETRY);
  CHECK(strcmp(explanation, "told to retry") == 0);

  const lope_message first = message_with("ack"), second = message_with("reject");
  const lope_message* const both[] = {&first, &second};
  const lope_batch batch = {sizeof batch, 2, both};
  lope_outcome outcomes[2] = {LOPE_NO_OUTCOME, LOPE_NO_OUTCOME};
  plugin->handle_batch(handler, &batch, outcomes);
  CHECK(outcomes[0] == LOPE_ACK);
  CHECK(outcomes[1] == LOPE_REJECT);
  CHECK(plugin->flush(handler, LOPE_FLUSH_DRAIN) == LOPE_OK);
  CHECK(plugin->flush(handler, 77) == LOPE_E_INVALID);
}

static void drive_null(lope_handler* handler) {
  CHECK(outcome_of(handler, "anything") == LOPE_ACK);
  CHECK(outcome_of(handler, "") == LOPE_ACK);
  CHECK(LOPE_HAS(plugin, lope_plugin, flush) && plugin->flush == NULL);
}

int main(int argc, char** argv) {
  void* library;
  lope_handler* handler = NULL;
  if (argc != 2) {
    fprintf(stderr, "usage: lope-abi-drive x.so\n");
    return 2;
  }
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  plugin = (const lope_plugin*)dlsym(library, "lope_plugin_v1");
  if (plugin == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  CHECK(plugin->struct_size >= offsetof(lope_plugin, handle) + sizeof plugin->handle);
  CHECK(plugin->abi_minor <= LOPE_ABI_MINOR);
  if (plugin->create != NULL && plugin->create(&the_host, &handler) != LOPE_OK) {
    fprintf(stderr, "create: %s\n", explanation);
    return 1;
  }
  if (strcmp(plugin->name, "frozen_1_0") == 0) {
    drive_frozen(handler);
  } else if (strcmp(plugin->name, "null") == 0) {
    drive_null(handler);
  } else {
    fprintf(stderr, "a handler this test knows nothing of: %s\n", plugin->name);
    return 1;
  }
  if (plugin->destroy != NULL) plugin->destroy(handler);
  return failures == 0 ? 0 : 1;
}
