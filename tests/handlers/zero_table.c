/* A table that nobody has filled in. */
#include <lope/handler.h>

const lope_plugin lope_plugin_v1 = {0};
