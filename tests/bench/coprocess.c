/* A co-process of the handler exec that acks each line: as little as one can be, in large reads and
 * writes. The id comes first in a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char input[1 << 20];

int main(void) {
  setvbuf(stdout, NULL, _IOFBF, 1 << 16);
  size_t size = 0;
  for (;;) {
    const ssize_t n = read(STDIN_FILENO, input + size, sizeof input - size);
    if (n <= 0) return n < 0;
    size += (size_t)n;
    char* line = input;
    for (char* end; (end = memchr(line, '\n', size - (size_t)(line - input))); line = end + 1) {
      printf("{\"id\":%llu,\"outcome\":\"ack\"}\n", strtoull(line + strlen("{\"id\":"), NULL, 10));
    }
    if (fflush(stdout) != 0) return 1;
    size -= (size_t)(line - input);
    memmove(input, line, size);
    if (size == sizeof input) return 1; /* a line longer than the bench makes */
  }
}
