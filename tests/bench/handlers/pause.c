/* Sleeps for option `us` and acks; with option `stamps`, a file, writes a struct stamp of each
 * message there when it ends. */
#include <lope/handler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../stamp.h"

struct lope_handler {
  long us;
  char path[1024];
  struct stamp* stamps;
  size_t count, capacity;
};

static lope_str text(const char* literal) {
  lope_str str;
  str.data = literal;
  str.size = strlen(literal);
  return str;
}

static lope_status create(const lope_host* host, lope_handler** handler) {
  lope_str us, path;
  lope_handler* made = calloc(1, sizeof *made);
  if (made == NULL) return LOPE_E_FAILED;
  if (host->option(host, text("us"), &us) == LOPE_OK) made->us = strtol(us.data, NULL, 10);
  if (host->option(host, text("stamps"), &path) == LOPE_OK && path.size < sizeof made->path) {
    memcpy(made->path, path.data, path.size);
  }
  *handler = made;
  return LOPE_OK;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  struct stamp stamp = {message->delivery_tag, 0, stamp_now(), 0};
  if (handler->us > 0) stamp_pause(handler->us);
  if (handler->path[0] == '\0' || message->body.size < sizeof stamp.published_ns) return LOPE_ACK;
  if (handler->count == handler->capacity) {
    handler->capacity = handler->capacity == 0 ? 65536 : 2 * handler->capacity;
    handler->stamps = realloc(handler->stamps, handler->capacity * sizeof stamp);
    if (handler->stamps == NULL) abort();
  }
  memcpy(&stamp.published_ns, message->body.data, sizeof stamp.published_ns);
  stamp.end_ns = stamp_now();
  handler->stamps[handler->count++] = stamp;
  return LOPE_ACK;
}

static void destroy(lope_handler* handler) {
  if (handler->path[0] != '\0') {
    FILE* file = fopen(handler->path, "wb");
    if (file == NULL ||
        fwrite(handler->stamps, sizeof *handler->stamps, handler->count, file) != handler->count ||
        fclose(file) != 0) {
      abort();
    }
  }
  free(handler->stamps);
  free(handler);
}

static const lope_option options[] = {
    {"us", "0", "microseconds to sleep for each message", LOPE_UINT64, 0, {NULL, NULL}},
    {"stamps", "", "file for the stamps", LOPE_TEXT, 0, {NULL, NULL}},
    {NULL, NULL, NULL, 0, 0, {NULL, NULL}}};

const lope_plugin lope_plugin_v1 = {
    .struct_size = sizeof(lope_plugin),
    .name = "pause",
    .version = "1.0.0",
    .description = "sleeps and acks",
    .options = options,
    .create = create,
    .destroy = destroy,
    .handle = handle,
};
