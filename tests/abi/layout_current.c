#include <lope/handler.h>

#include "layout_table.h"

const layout_entry layout_current[] = {LOPE_PINS_1_0{NULL, 0, 0, 0, 0}};
