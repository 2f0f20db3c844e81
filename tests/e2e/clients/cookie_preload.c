// Preloaded into clients under test: appends the socket cookie of each TCP connect() to $WEIR_TEST_COOKIES,
// one JSON object a line, so that a record's weir.socket.cookie can be checked against SO_COOKIE. It must
// never change what connect() does or returns.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned port_of(const struct sockaddr_storage* address) {
  return address->ss_family == AF_INET6 ? ntohs(((const struct sockaddr_in6*)address)->sin6_port)
                                        : ntohs(((const struct sockaddr_in*)address)->sin_port);
}

static int is_tcp(int fd, const struct sockaddr* peer) {
  int type = 0;
  socklen_t size = sizeof type;
  return peer != NULL && (peer->sa_family == AF_INET || peer->sa_family == AF_INET6) &&
         getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

static void note(int fd, const struct sockaddr* peer, const char* file) {
  unsigned long long cookie = 0;
  socklen_t size = sizeof cookie;
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) return;
  struct sockaddr_storage local = {0};
  size = sizeof local;
  getsockname(fd, (struct sockaddr*)&local, &size);
  int out = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (out < 0) return;
  dprintf(out, "{\"pid\":%d,\"cookie\":\"%llu\",\"local_port\":%u,\"peer_port\":%u}\n", getpid(), cookie,
          port_of(&local), port_of((const struct sockaddr_storage*)peer));
  close(out);
}

int connect(int fd, const struct sockaddr* peer, socklen_t size) {
  static int (*real)(int, const struct sockaddr*, socklen_t);
  if (real == NULL) *(void**)&real = dlsym(RTLD_NEXT, "connect");
  int result = real(fd, peer, size);
  int error = errno;
  const char* file = getenv("WEIR_TEST_COOKIES");
  if ((result == 0 || error == EINPROGRESS) && file != NULL && is_tcp(fd, peer)) note(fd, peer, file);
  errno = error;
  return result;
}
