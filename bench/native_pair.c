// What a pair of SSL_write and SSL_read costs the process that makes it: exchanges of a request and a
// response (two pairs) between a client and a server in one thread, over a TCP connection or, after a
// handshake over one, in memory. What is read must be what was written. Made and run by bench/native.
//
//   native_pair CERTIFICATE KEY tcp|memory BURSTS EXCHANGES
//
// Each burst waits for a line on stdin and prints one: CPU time of a pair in nanoseconds. Requests are
// numbered.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static _Noreturn void fail(const char* what) {
  perror(what);
  ERR_print_errors_fp(stderr);
  exit(1);
}

static void check(bool held, const char* what) {
  if (!held) fail(what);
}

static unsigned connect_pair(int ends[2]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(address);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  check(!bind(listener, (struct sockaddr*)&address, length) && !listen(listener, 1), "listen");
  getsockname(listener, (struct sockaddr*)&address, &length);
  ends[0] = socket(AF_INET, SOCK_STREAM, 0);
  check(!connect(ends[0], (struct sockaddr*)&address, length), "connect");
  ends[1] = accept(listener, NULL, NULL);
  check(ends[1] >= 0, "accept");
  close(listener);
  return ntohs(address.sin_port);
}

static void shake_hands(SSL* client, SSL* server) {
  bool done = false;
  while (!done) {
    int first = SSL_do_handshake(client), second = SSL_do_handshake(server);
    check(first == 1 || SSL_get_error(client, first) == SSL_ERROR_WANT_READ, "handshake");
    check(second == 1 || SSL_get_error(server, second) == SSL_ERROR_WANT_READ, "handshake");
    done = first == 1 && second == 1;
  }
}

static void join_in_memory(SSL* client, SSL* server) {
  BIO* there = BIO_new(BIO_s_mem());
  BIO* back = BIO_new(BIO_s_mem());
  BIO_up_ref(there);
  BIO_up_ref(back);
  SSL_set_bio(client, back, there);
  SSL_set_bio(server, there, back);
}

static void pass(SSL* from, SSL* to, const char* text, int length) {
  char got[256];
  check(SSL_write(from, text, length) == length, "SSL_write");
  check(SSL_read(to, got, sizeof(got)) == length && !memcmp(text, got, (size_t)length), "SSL_read");
}

static long long cpu_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

int main(int count, char** arguments) {
  if (count != 6) return 2;
  bool memory = !strcmp(arguments[3], "memory");
  int bursts = atoi(arguments[4]), exchanges = atoi(arguments[5]);

  SSL_CTX* server_context = SSL_CTX_new(TLS_server_method());
  SSL_CTX* client_context = SSL_CTX_new(TLS_client_method());
  check(SSL_CTX_use_certificate_file(server_context, arguments[1], SSL_FILETYPE_PEM) == 1 &&
            SSL_CTX_use_PrivateKey_file(server_context, arguments[2], SSL_FILETYPE_PEM) == 1,
        "certificate");
  SSL_CTX_set_num_tickets(server_context, 0);
  int ends[2];
  unsigned port = connect_pair(ends);
  SSL* client = SSL_new(client_context);
  SSL* server = SSL_new(server_context);
  SSL_set_fd(client, ends[0]);
  SSL_set_fd(server, ends[1]);
  SSL_set_connect_state(client);
  SSL_set_accept_state(server);
  struct timeval little = {.tv_usec = 1000};
  for (int i = 0; i < 2; i++) setsockopt(ends[i], SOL_SOCKET, SO_RCVTIMEO, &little, sizeof(little));
  shake_hands(client, server);
  struct timeval long_enough = {.tv_sec = 10};
  for (int i = 0; i < 2; i++) setsockopt(ends[i], SOL_SOCKET, SO_RCVTIMEO, &long_enough, sizeof(long_enough));
  // Said before the memory takes over, so that the objects are known by their sockets.
  pass(client, server, "GET /hello HTTP/1.1\r\nHost: pair.test\r\n\r\n", 40);
  pass(server, client, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 38);
  if (memory) join_in_memory(client, server);

  char request[128], response[128], line[16];
  int number = 0;
  printf("%u\n", port);
  fflush(stdout);
  for (int burst = 0; burst < bursts && fgets(line, sizeof(line), stdin); burst++) {
    long long began = cpu_ns();
    for (int i = 0; i < exchanges; i++, number++) {
      int asked = snprintf(request, sizeof(request),
                           "GET /%08d HTTP/1.1\r\nHost: pair.test\r\nX-Padding: 0\r\n\r\n", number);
      int answered = snprintf(response, sizeof(response),
                              "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nbody of %08d", number);
      pass(client, server, request, asked);
      pass(server, client, response, answered);
    }
    printf("%lld\n", (cpu_ns() - began) / (2 * exchanges));
    fflush(stdout);
  }
  SSL_shutdown(client);
  SSL_shutdown(server);
  SSL_free(client);
  SSL_free(server);
  close(ends[0]);
  close(ends[1]);
  return 0;
}
