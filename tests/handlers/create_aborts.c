/* A worker with this handler dies before it is ready. */
#include <lope/handler.h>
#include <signal.h>
#include <stdlib.h>

static lope_status create(const lope_host* host, lope_handler** handler) {
  (void)host;
  (void)handler;
  signal(SIGABRT, SIG_DFL);
  abort();
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "create_aborts",
                                    .version = "1.0.0",
                                    .create = create,
                                    .handle = handle};
