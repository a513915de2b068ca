/* The smallest command that takes a message: it reads its input, as amqp-consume wants it. Without
 * a C library, whose start asks the processor about itself: where that is a virtual machine's, each
 * question costs more than the rest of the command. */
#if defined(__x86_64__)

enum { kRead = 0, kExit = 60 };

static long call(long number, long first, long second, long third) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(first), "S"(second), "d"(third)
                   : "rcx", "r11", "memory");
  return result;
}

void _start(void) {
  static char bytes[4096];
  long size;
  while ((size = call(kRead, 0, (long)bytes, sizeof bytes)) > 0) {
  }
  call(kExit, size == 0 ? 0 : 1, 0, 0);
  for (;;) {
  }
}

#else
#include <unistd.h>

int main(void) {
  char bytes[4096];
  ssize_t size;
  while ((size = read(STDIN_FILENO, bytes, sizeof bytes)) > 0) {
  }
  return size == 0 ? 0 : 1;
}
#endif
