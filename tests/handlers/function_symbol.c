/* The right name on the wrong thing. */
__attribute__((visibility("default"))) int lope_plugin_v1(void);
int lope_plugin_v1(void) { return 1; }
