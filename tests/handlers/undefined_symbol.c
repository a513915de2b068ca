/* Needs a function that no library provides. */
#include <lope/handler.h>

int lope_test_function_that_is_nowhere(void);

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  (void)handler;
  (void)message;
  return lope_test_function_that_is_nowhere();
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "undefined_symbol",
                                    .version = "1.0.0",
                                    .handle = handle};
