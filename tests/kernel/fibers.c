// Several TLS connections on one thread, each on a stack of its own: read() switches to the next fiber while
// its socket has nothing, so SSL_read calls return in another order than they were made. Usage: fibers PORT
// COUNT. Says "whole" when every response came.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#define MOST 16
#define STACK_BYTES (1 << 20)

static ucontext_t scheduler, fibers[MOST];
static int current = -1, port, left, finished[MOST], failed;

ssize_t read(int descriptor, void* buffer, size_t size) {
  for (;;) {
    ssize_t got = recv(descriptor, buffer, size, current >= 0 ? MSG_DONTWAIT : 0);
    if (got >= 0 || errno != EAGAIN || current < 0) return got;
    swapcontext(&fibers[current], &scheduler);
  }
}

static void converse(int number) {
  struct sockaddr_in origin = {.sin_family = AF_INET, .sin_port = htons(port)};
  origin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(descriptor, (struct sockaddr*)&origin, sizeof origin) != 0) failed = 1;
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* tls = SSL_new(context);
  SSL_set_fd(tls, descriptor);
  if (SSL_connect(tls) != 1) failed = 1;
  char text[4096];
  int size = sprintf(text, "GET /100 HTTP/1.1\r\nHost: fiber-%d\r\n\r\n", number);
  if (SSL_write(tls, text, size) != size) failed = 1;
  while (SSL_read(tls, text, 50) > 0) {
  }
  SSL_shutdown(tls);
  SSL_free(tls);
  SSL_CTX_free(context);
  close(descriptor);
  finished[number] = 1;
  left--;
  swapcontext(&fibers[number], &scheduler);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  port = atoi(argv[1]);
  int count = atoi(argv[2]);
  if (count < 1 || count > MOST) return 2;
  left = count;
  for (int i = 0; i < count; i++) {
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = malloc(STACK_BYTES);
    fibers[i].uc_stack.ss_size = STACK_BYTES;
    makecontext(&fibers[i], (void (*)(void))converse, 1, i);
  }
  while (left > 0) {
    for (int i = 0; i < count; i++) {
      if (finished[i]) continue;
      current = i;
      swapcontext(&scheduler, &fibers[i]);
      current = -1;
    }
  }
  if (!failed) puts("whole");
  return failed;
}
