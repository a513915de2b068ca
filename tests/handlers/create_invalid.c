/* create() says that its configuration is wrong. */
#include <lope/handler.h>
#include <string.h>

static lope_status create(const lope_host* host, lope_handler** handler) {
  static const char why[] = "option 'colour' must be a colour";
  const lope_str text = {why, strlen(why)};
  (void)handler;
  host->explain(host, NULL, text);
  return LOPE_E_INVALID;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "create_invalid",
                                    .version = "1.0.0",
                                    .create = create,
                                    .handle = handle};
