// Preloaded into clients under test: counts the plaintext that OpenSSL says it sent and received, and appends
// {"pid", "sent", "received"} to $WEIR_TEST_PLAINTEXT when the process ends. It must never change what a call
// does or returns.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_ullong sent, received;

static void* real(const char* name) {
  return dlsym(RTLD_NEXT, name);
}

int SSL_write(void* ssl, const void* buffer, int length) {
  int (*call)(void*, const void*, int);
  *(void**)&call = real("SSL_write");
  int result = call(ssl, buffer, length);
  if (result > 0) sent += (unsigned)result;
  return result;
}

int SSL_write_ex(void* ssl, const void* buffer, size_t length, size_t* written) {
  int (*call)(void*, const void*, size_t, size_t*);
  *(void**)&call = real("SSL_write_ex");
  int result = call(ssl, buffer, length, written);
  if (result == 1) sent += *written;
  return result;
}

int SSL_read(void* ssl, void* buffer, int length) {
  int (*call)(void*, void*, int);
  *(void**)&call = real("SSL_read");
  int result = call(ssl, buffer, length);
  if (result > 0) received += (unsigned)result;
  return result;
}

int SSL_read_ex(void* ssl, void* buffer, size_t length, size_t* count) {
  int (*call)(void*, void*, size_t, size_t*);
  *(void**)&call = real("SSL_read_ex");
  int result = call(ssl, buffer, length, count);
  if (result == 1) received += *count;
  return result;
}

__attribute__((destructor)) static void tell(void) {
  const char* file = getenv("WEIR_TEST_PLAINTEXT");
  if (file == NULL || sent + received == 0) return;
  int out = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (out < 0) return;
  dprintf(out, "{\"pid\":%d,\"sent\":%llu,\"received\":%llu}\n", getpid(), (unsigned long long)sent,
          (unsigned long long)received);
  close(out);
}
