/* A handler that needs a host of a later minor. */
#include <lope/handler.h>

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .abi_minor = LOPE_ABI_MINOR + 1,
                                    .name = "newer_minor",
                                    .version = "1.0.0",
                                    .handle = handle};
