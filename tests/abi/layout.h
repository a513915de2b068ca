/* What one header says of its structs and words, as data, so that two headers can be compared: each
 * table comes from a translation unit of its own. */
#ifndef LOPE_TESTS_ABI_LAYOUT_H
#define LOPE_TESTS_ABI_LAYOUT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct layout_entry {
  const char* name; /* "lope_message.body", "lope_message", "LOPE_ACK"; NULL ends the table */
  size_t offset;    /* of a member; a word's value */
  size_t size;      /* of a member or struct */
  size_t pinned_offset;
  size_t pinned_size;
} layout_entry;

extern const layout_entry layout_current[];
extern const layout_entry layout_frozen_1_0[];

#ifdef __cplusplus
}
#endif

#endif
