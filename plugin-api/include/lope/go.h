/* The table of a handler in Go, whose package main has this in a file table.c:
 *
 *   #include <lope/go.h>
 *
 *   static const lope_option options[] = {
 *       {.name = "greeting", .help = "the word to greet with"},
 *       {.name = "times", .default_value = "1", .help = "how often", .kind = LOPE_UINT64},
 *       {.name = NULL},
 *   };
 *
 *   LOPE_GO_HANDLER(.name = "greet", .version = "1.0.0", .options = options);
 *
 * Without .options it takes any. A handler that is a lope.BatchHandler adds LOPE_GO_BATCHES, one
 * that is a lope.Flusher LOPE_GO_FLUSHES. In C, and not in Go, because Lope reads it before any Go
 * has run. */
#ifndef LOPE_GO_H
#define LOPE_GO_H

#include <lope/handler.h>

/* Of Go's package lope. Weak, because cgo links each package alone once before it links them all.
 */
#define LOPE_GO_WEAK __attribute__((weak))
LOPE_GO_WEAK lope_status lope_go_create(const lope_host* host, lope_handler** handler);
LOPE_GO_WEAK void lope_go_destroy(lope_handler* handler);
LOPE_GO_WEAK lope_outcome lope_go_handle(lope_handler* handler, const lope_message* message);
LOPE_GO_WEAK void lope_go_handle_batch(lope_handler* handler, const lope_batch* batch,
                                       lope_outcome* outcomes);
LOPE_GO_WEAK lope_status lope_go_flush(lope_handler* handler, uint32_t reason);

#define LOPE_GO_BATCHES .handle_batch = lope_go_handle_batch
#define LOPE_GO_FLUSHES .flush = lope_go_flush
#define LOPE_GO_HANDLER(...)                                              \
  const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin), \
                                      .create = lope_go_create,           \
                                      .destroy = lope_go_destroy,         \
                                      .handle = lope_go_handle,           \
                                      __VA_ARGS__}

#endif /* LOPE_GO_H */
