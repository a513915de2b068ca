/* ABI 1.0 as a C99 compiler sees it. A member that moved makes an array of negative size. */
#include <lope/handler.h>

#include "pins_1_0.h"

/* Grown structs may be larger than they were. */
#define LOPE_STRUCT(type, pinned) \
  typedef char pin_size_of_##type[sizeof(type) >= (pinned) ? 1 : -1];
#define LOPE_MEMBER(type, member, pinned_offset, pinned_size)                            \
  typedef char pin_##type##_##member[offsetof(type, member) == (pinned_offset) &&        \
                                             sizeof(((type*)0)->member) == (pinned_size) \
                                         ? 1                                             \
                                         : -1];
#define LOPE_WORD(name, pinned) typedef char pin_##name[(int)(name) == (pinned) ? 1 : -1];
LOPE_PINS_1_0

/* Frozen: passed by value, or in arrays. */
typedef char pin_frozen_lope_str[sizeof(lope_str) == 16 ? 1 : -1];
typedef char pin_frozen_lope_bytes[sizeof(lope_bytes) == 16 ? 1 : -1];
typedef char pin_frozen_lope_value[sizeof(lope_value) == 24 ? 1 : -1];
typedef char pin_frozen_lope_header[sizeof(lope_header) == 40 ? 1 : -1];
typedef char pin_frozen_lope_option[sizeof(lope_option) == 48 ? 1 : -1];
typedef char pin_major[LOPE_ABI_MAJOR == 1 ? 1 : -1];
