/* create() fails for a reason that may pass. */
#include <lope/handler.h>
#include <string.h>

static lope_status create(const lope_host* host, lope_handler** handler) {
  static const char why[] = "the database is away";
  const lope_str text = {why, strlen(why)};
  (void)handler;
  host->explain(host, NULL, text);
  return LOPE_E_FAILED;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "create_failed",
                                    .version = "1.0.0",
                                    .create = create,
                                    .handle = handle};
