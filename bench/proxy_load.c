// The load of bench/proxy: threads with a TLS connection each, straight to a server or through a proxy's
// CONNECT, that send one GET after the other and measure each.
//
// Usage: proxy_load keep|new CONNECTIONS SECONDS CA NAME PATH SERVER_PORT [PROXY_PORT]
//   keep: over one connection each; new: over a new one each time. Both ports are loopback's.
// Prints {"requests":N,"seconds":S,"bytes":N,"p50_us":N,"p99_us":N,"errors":N}.
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static SSL_CTX* context;
static const char *name, *path;
static int server_port, proxy_port, new_each;
static atomic_int stop;

#define MOST_TIMES 400000
struct worker {
  pthread_t thread;
  long requests, bytes, errors;
  unsigned* times;  // microseconds of each request
};

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static int connect_to(int port) {
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof(one));
  // A port may be used again at once: thousands of connections a second would use them up.
  struct linger none = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
  if (connect(fd, (struct sockaddr*)&to, sizeof(to)) == 0) return fd;
  close(fd);
  return -1;
}

static SSL* open_connection(void) {
  int fd = connect_to(proxy_port ? proxy_port : server_port);
  if (fd < 0) return 0;
  if (proxy_port) {
    char text[512];
    int size = snprintf(text, sizeof(text), "CONNECT localhost:%d HTTP/1.1\r\nHost: localhost:%d\r\n\r\n",
                        server_port, server_port);
    ssize_t got = write(fd, text, size) == size ? read(fd, text, sizeof(text) - 1) : -1;
    if (got < 12 || memcmp(text + 8, " 200", 4) != 0) {
      close(fd);
      return 0;
    }
  }
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, fd);
  SSL_set_tlsext_host_name(ssl, name);
  SSL_set1_host(ssl, name);
  if (SSL_connect(ssl) == 1) return ssl;
  SSL_free(ssl);
  close(fd);
  return 0;
}

static void close_connection(SSL* ssl) {
  if (!ssl) return;
  int fd = SSL_get_fd(ssl);
  SSL_free(ssl);
  close(fd);
}

// The bytes of the answer's body, or -1.
static long ask(SSL* ssl) {
  static _Thread_local char buffer[65536];
  int size =
      snprintf(buffer, sizeof(buffer), "GET %s HTTP/1.1\r\nHost: %s:%d\r\n\r\n", path, name, server_port);
  if (SSL_write(ssl, buffer, size) != size) return -1;
  int got = 0;
  char* end = 0;
  while (!end) {
    int more = SSL_read(ssl, buffer + got, sizeof(buffer) - 1 - got);
    if (more <= 0) return -1;
    got += more;
    buffer[got] = 0;
    end = strstr(buffer, "\r\n\r\n");
  }
  char* length = strcasestr(buffer, "\r\ncontent-length:");
  if (memcmp(buffer + 8, " 200", 4) != 0 || !length) return -1;
  long whole = atol(length + 17), left = whole - (got - (end + 4 - buffer));
  while (left > 0) {
    int more = SSL_read(ssl, buffer, sizeof(buffer));
    if (more <= 0) return -1;
    left -= more;
  }
  return whole;
}

static void* work(void* argument) {
  struct worker* self = argument;
  SSL* ssl = 0;
  while (!stop) {
    double began = now();
    if (!ssl) ssl = open_connection();
    long bytes = ssl ? ask(ssl) : -1;
    if (bytes < 0) {
      self->errors++;
    } else {
      if (self->requests < MOST_TIMES) self->times[self->requests] = (now() - began) * 1e6;
      self->requests++;
      self->bytes += bytes;
    }
    if (new_each || bytes < 0) {
      close_connection(ssl);
      ssl = 0;
    }
  }
  close_connection(ssl);
  return 0;
}

static int by_size(const void* a, const void* b) {
  return (*(const unsigned*)a > *(const unsigned*)b) - (*(const unsigned*)a < *(const unsigned*)b);
}

int main(int count, char** arguments) {
  if (count < 8) return 2;
  signal(SIGPIPE, SIG_IGN);
  new_each = strcmp(arguments[1], "new") == 0;
  int connections = atoi(arguments[2]);
  double seconds = atof(arguments[3]);
  name = arguments[5];
  path = arguments[6];
  server_port = atoi(arguments[7]);
  proxy_port = count > 8 ? atoi(arguments[8]) : 0;
  context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, 0);
  if (SSL_CTX_load_verify_file(context, arguments[4]) != 1) return 2;

  struct worker* workers = calloc(connections, sizeof(*workers));
  double began = now();
  for (int i = 0; i < connections; i++) {
    workers[i].times = malloc(MOST_TIMES * sizeof(unsigned));
    pthread_create(&workers[i].thread, 0, work, &workers[i]);
  }
  usleep(seconds * 1e6);
  stop = 1;
  struct worker all = {0};
  for (int i = 0; i < connections; i++) {
    pthread_join(workers[i].thread, 0);
    all.requests += workers[i].requests;
    all.bytes += workers[i].bytes;
    all.errors += workers[i].errors;
  }
  double took = now() - began;
  unsigned* times = malloc((all.requests + 1) * sizeof(unsigned));
  long kept = 0;
  for (int i = 0; i < connections; i++)
    for (long j = 0; j < workers[i].requests && j < MOST_TIMES; j++) times[kept++] = workers[i].times[j];
  qsort(times, kept, sizeof(unsigned), by_size);
  printf("{\"requests\":%ld,\"seconds\":%.3f,\"bytes\":%ld,\"p50_us\":%u,\"p99_us\":%u,\"errors\":%ld}\n",
         all.requests, took, all.bytes, kept ? times[kept / 2] : 0, kept ? times[kept * 99 / 100] : 0,
         all.errors);
  return 0;
}
