/* A worker with this handler never gets ready. */
#include <lope/handler.h>
#include <unistd.h>

static lope_status create(const lope_host* host, lope_handler** handler) {
  (void)host;
  (void)handler;
  while (pause() != 0) {
  }
  return LOPE_E_FAILED;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "create_hangs",
                                    .version = "1.0.0",
                                    .create = create,
                                    .handle = handle};
