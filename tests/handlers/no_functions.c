/* Neither handle() nor handle_batch(). */
#include <lope/handler.h>

const lope_plugin lope_plugin_v1 = {
    .struct_size = sizeof(lope_plugin), .name = "no_functions", .version = "1.0.0"};
