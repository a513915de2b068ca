/* The smallest command that takes a message: it reads its input, as amqp-consume wants it. Linked
 * statically, so that what is measured is not the start of a C library. */
#include <unistd.h>

int main(void) {
  char bytes[4096];
  ssize_t size;
  while ((size = read(STDIN_FILENO, bytes, sizeof bytes)) > 0) {
  }
  return size == 0 ? 0 : 1;
}
