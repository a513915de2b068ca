/* A handler built with a later header, which leaves the members that this host does not know at
 * zero: it runs. */
#include <lope/handler.h>

struct later_plugin {
  lope_plugin known;
  void (*unknown)(lope_handler* handler);
};

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return LOPE_ACK;
}

extern LOPE_EXPORT const struct later_plugin later_plugin_v1 __asm__("lope_plugin_v1");
const struct later_plugin later_plugin_v1 = {{.struct_size = sizeof(struct later_plugin),
                                              .name = "newer_unused",
                                              .version = "1.0.0",
                                              .handle = handle},
                                             NULL};
