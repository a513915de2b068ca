/* A struct_size that ends before handle. */
#include <lope/handler.h>

const lope_plugin lope_plugin_v1 = {.struct_size = 16, .name = "short_table", .version = "1.0.0"};
