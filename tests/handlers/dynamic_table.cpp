// A table that a constructor fills in: the file itself holds nothing but zeros.
#include <lope/handler.h>

static lope_outcome handle(lope_handler*, const lope_message*) noexcept { return LOPE_ACK; }

static lope_plugin make_table() {
  lope_plugin table{};
  table.struct_size = sizeof(lope_plugin);
  table.name = "dynamic_table";
  table.version = "1.0.0";
  table.handle = handle;
  asm volatile("" ::"r"(&table) : "memory");  // or the compiler makes a constant of it
  return table;
}

const lope_plugin lope_plugin_v1 = make_table();
