/* When a message was published, and when its handling began and ended: CLOCK_MONOTONIC, in ns. */
#ifndef LOPE_TESTS_BENCH_STAMP_H
#define LOPE_TESTS_BENCH_STAMP_H

#include <errno.h>
#include <stdint.h>
#include <time.h>

struct stamp {
  uint64_t tag;          /* the delivery's */
  uint64_t published_ns; /* the first 8 bytes of its body */
  uint64_t start_ns;
  uint64_t end_ns;
};

static inline uint64_t stamp_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void stamp_pause(long us) {
  struct timespec left = {us / 1000000, us % 1000000 * 1000};
  while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
  }
}

#endif
