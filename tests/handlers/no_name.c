/* No name and no version. */
#include <lope/handler.h>

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin), .handle = handle};
