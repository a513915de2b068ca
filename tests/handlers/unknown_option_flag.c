/* An option with a flag that this host does not know. */
#include <lope/handler.h>

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

static const lope_option options[] = {{"colour", "red", "", LOPE_TEXT, 1u << 7, {NULL, NULL}},
                                      {NULL, NULL, NULL, 0, 0, {NULL, NULL}}};

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "unknown_option_flag",
                                    .version = "1.0.0",
                                    .options = options,
                                    .handle = handle};
