/* Acks everything. The smallest handler there can be: no state, no options of its own. */
#include <lope/handler.h>

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

static const lope_option options[] = {{NULL, NULL, NULL, 0, 0, {NULL, NULL}}};

const lope_plugin lope_plugin_v1 = {
    .struct_size = sizeof(lope_plugin),
    .name = "null",
    .version = "1.0.0",
    .description = "acks everything",
    .options = options,
    .handle = handle,
};
