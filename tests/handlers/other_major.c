/* A handler for another major of the ABI only. */
#include <lope/handler.h>

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

extern LOPE_EXPORT const lope_plugin lope_plugin_v2;
const lope_plugin lope_plugin_v2 = {.struct_size = sizeof(lope_plugin),
                                    .name = "other_major",
                                    .version = "1.0.0",
                                    .handle = handle};
