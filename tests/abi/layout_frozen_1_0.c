#include "frozen/1.0/handler.h"

#include "layout_table.h"

const layout_entry layout_frozen_1_0[] = {LOPE_PINS_1_0{NULL, 0, 0, 0, 0}};
