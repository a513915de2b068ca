/* The entries of a layout table, for the lope/handler.h included before. */
#include "layout.h"
#include "pins_1_0.h"

#define LOPE_STRUCT(type, pinned) {#type, 0, sizeof(type), 0, pinned},
#define LOPE_MEMBER(type, member, pinned_offset, pinned_size)                            \
  {#type "." #member, offsetof(type, member), sizeof(((type*)0)->member), pinned_offset, \
   pinned_size},
#define LOPE_WORD(name, pinned) {#name, (size_t)(name), 0, pinned, 0},
