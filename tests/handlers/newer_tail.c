/* A handler built with a later header, which uses a member that this host does not know. */
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

static void unknown(lope_handler* handler) { (void)handler; }

extern LOPE_EXPORT const struct later_plugin later_plugin_v1 __asm__("lope_plugin_v1");
const struct later_plugin later_plugin_v1 = {{.struct_size = sizeof(struct later_plugin),
                                              .name = "newer_tail",
                                              .version = "1.0.0",
                                              .handle = handle},
                                             unknown};
