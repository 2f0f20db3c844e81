// A minimal HTTPS client on the system's libssl, for tests: every way of calling it that a tap must
// understand (blocking or not, SSL_read/SSL_read_ex, whole or partial writes, memory that was touched before
// or not). It must never hide a failure: whatever does not go as asked ends it with status 1 and a line on
// stderr.
//
//   tls_client [options] HOST PORT [GET:/path | PUT:/path=FILE]...
//   tls_client [options] --loop PREFIX HOST PORT      GET PREFIX/0, /1, ... until stdin ends
//   tls_client [options] --loop PREFIX --hold N HOST PORT
//                              N connections, one GET on each, all held open until stdin ends
//
// Prints one JSON object a line: for each request, or one summary of a loop, or how many are held as soon as
// they are.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { io_timeout_ms = 30000 };

struct options {
  const char* ca;
  const char* name;   // SNI and the certificate's name; the host when not given
  const char* proxy;  // HOST:PORT of a CONNECT proxy
  const char* loop;
  bool nonblocking, extended, partial, reconnect;
  bool touched, untouched;  // the memory that libssl reads from and writes to; neither: as it comes
  size_t read_size;
  size_t room;        // for an answer
  unsigned pause_us;  // between a loop's requests
  unsigned hold;
  const char* host;
  const char* port;
};

struct connection {
  int fd;
  SSL* ssl;
  unsigned long long cookie;
  unsigned local_port;
  unsigned long long written, got;  // plaintext bytes so far
  char* response;                   // options.room bytes
};

struct request {
  char method[8];
  char path[1024];
  const char* file;
};

static struct options options = {.read_size = 16384, .room = 8 << 20};

static void fail(const char* what) {
  fprintf(stderr, "tls_client: %s: %s\n", what, strerror(errno));
  ERR_print_errors_fp(stderr);
  exit(1);
}

static void require(bool ok, const char* what) {
  if (!ok) fail(what);
}

static void wait_for_socket(int fd, short events) {
  struct pollfd waiting = {.fd = fd, .events = events};
  require(poll(&waiting, 1, io_timeout_ms) == 1, "no progress");
}

// Returns when the call may be tried again.
static void wait_for_tls(struct connection* c, int result, const char* what) {
  switch (SSL_get_error(c->ssl, result)) {
    case SSL_ERROR_WANT_READ:
      wait_for_socket(c->fd, POLLIN);
      break;
    case SSL_ERROR_WANT_WRITE:
      wait_for_socket(c->fd, POLLOUT);
      break;
    default:
      fail(what);
  }
}

#ifdef OPENSSL_IS_BORINGSSL
#define SSL_write_ex(ssl, data, size, written) (fail("BoringSSL has no SSL_write_ex"), 0)
#define SSL_read_ex(ssl, data, size, got) (fail("BoringSSL has no SSL_read_ex"), 0)
#endif

static size_t write_some(struct connection* c, const char* data, size_t size) {
  for (;;) {
    size_t written = 0;
    int result =
        options.extended ? SSL_write_ex(c->ssl, data, size, &written) : SSL_write(c->ssl, data, (int)size);
    if (result > 0) {
      if (!options.extended) written = (size_t)result;
      c->written += written;
      return written;
    }
    wait_for_tls(c, result, "SSL_write");
  }
}

static size_t read_some(struct connection* c, char* data, size_t size) {
  for (;;) {
    size_t got = 0;
    int result = options.extended ? SSL_read_ex(c->ssl, data, size, &got) : SSL_read(c->ssl, data, (int)size);
    if (result > 0) {
      if (!options.extended) got = (size_t)result;
      c->got += got;
      return got;
    }
    wait_for_tls(c, result, "SSL_read");
  }
}

static void write_all(struct connection* c, const char* data, size_t size) {
  while (size > 0) {
    size_t written = write_some(c, data, size);
    data += written;
    size -= written;
  }
}

static int connect_tcp(const char* host, const char* port) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  require(getaddrinfo(host, port, &hints, &found) == 0, "getaddrinfo");
  int fd = -1;
  for (struct addrinfo* a = found; a != NULL && fd < 0; a = a->ai_next) {
    fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(fd >= 0, "socket");
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
    close(fd);
    fd = -1;
  }
  freeaddrinfo(found);
  require(fd >= 0, "connect");
  return fd;
}

static int connect_through_proxy(void) {
  char* host = strdup(options.proxy);
  char* colon = strrchr(host, ':');
  require(colon != NULL, "--proxy needs HOST:PORT");
  *colon = '\0';
  int fd = connect_tcp(host, colon + 1);
  dprintf(fd, "CONNECT %s:%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", options.host, options.port, options.host,
          options.port);
  char answer[4096];
  size_t size = 0;
  // Byte by byte: what follows the answer's head belongs to TLS.
  do {
    require(size + 1 < sizeof answer && read(fd, answer + size, 1) == 1, "CONNECT's answer");
    answer[++size] = '\0';
  } while (strstr(answer, "\r\n\r\n") == NULL);
  require(strncmp(answer, "HTTP/1.1 200", 12) == 0, answer);
  free(host);
  return fd;
}

static void identify_socket(struct connection* c) {
  socklen_t size = sizeof c->cookie;
  require(getsockopt(c->fd, SOL_SOCKET, SO_COOKIE, &c->cookie, &size) == 0, "SO_COOKIE");
  struct sockaddr_storage local;
  size = sizeof local;
  char port[16];
  require(getsockname(c->fd, (struct sockaddr*)&local, &size) == 0, "getsockname");
  require(getnameinfo((struct sockaddr*)&local, size, NULL, 0, port, sizeof port, NI_NUMERICSERV) == 0,
          "port");
  c->local_port = (unsigned)atoi(port);
}

static void make_untouched(struct connection* c) {
  if (options.untouched) require(madvise(c->response, options.room, MADV_DONTNEED) == 0, "madvise");
}

// SSL_set1_host() knows addresses from OpenSSL 3.0 on.
static int set_expected_peer(SSL* ssl, const char* name) {
  return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1 || SSL_set1_host(ssl, name) == 1;
}

static struct connection open_connection(SSL_CTX* context) {
  struct connection c = {.fd = options.proxy ? connect_through_proxy()
                                             : connect_tcp(options.host, options.port)};
  identify_socket(&c);
  if (options.nonblocking) require(fcntl(c.fd, F_SETFL, O_NONBLOCK) == 0, "O_NONBLOCK");
  const char* name = options.name ? options.name : options.host;
  c.ssl = SSL_new(context);
  require(c.ssl != NULL && SSL_set_fd(c.ssl, c.fd) == 1, "SSL_new");
  require(SSL_set_tlsext_host_name(c.ssl, name) == 1 && set_expected_peer(c.ssl, name) == 1, "name");
  for (int result; (result = SSL_connect(c.ssl)) != 1;) wait_for_tls(&c, result, "SSL_connect");
  c.response = mmap(NULL, options.room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(c.response != MAP_FAILED, "mmap");
  if (options.touched) memset(c.response, 1, options.room);
  return c;
}

static void close_connection(struct connection* c) {
  SSL_shutdown(c->ssl);
  SSL_free(c->ssl);
  close(c->fd);
  munmap(c->response, options.room);
}

struct body {
  char* data;
  size_t size;
};

static struct body load_body(const char* file) {
  struct body body = {0};
  if (file == NULL) return body;
  int fd = open(file, O_RDONLY);
  struct stat status;
  require(fd >= 0 && fstat(fd, &status) == 0 && status.st_size > 0, file);
  body.size = (size_t)status.st_size;
  body.data = mmap(NULL, body.size, PROT_READ, MAP_PRIVATE, fd, 0);
  require(body.data != MAP_FAILED, file);
  close(fd);
  if (options.untouched) return body;
  struct body copy = {.data = malloc(body.size), .size = body.size};
  require(copy.data != NULL, "malloc");
  memcpy(copy.data, body.data, body.size);
  munmap(body.data, body.size);
  return copy;
}

static void free_body(struct body* body) {
  if (options.untouched && body->data != NULL) {
    munmap(body->data, body->size);
  } else {
    free(body->data);
  }
}

static void sha256_hex(const char* data, size_t size, char hex[65]) {
  unsigned char digest[32];
  require(EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL) == 1, "SHA-256");
  for (int i = 0; i < 32; ++i) sprintf(hex + 2 * i, "%02x", digest[i]);
}

static size_t content_length(const char* head) {
  const char* field = strcasestr(head, "\r\ncontent-length:");
  require(field != NULL, "no Content-Length in the answer");
  return strtoull(field + strlen("\r\ncontent-length:"), NULL, 10);
}

// Leaves the body at *body and gives the status.
static int read_response(struct connection* c, char** body, size_t* size) {
  size_t got = 0;
  char* end = NULL;
  while (end == NULL) {
    require(got + 1 < options.room, "the answer's head is too long");
    size_t room = options.room - got - 1;
    got += read_some(c, c->response + got, room < options.read_size ? room : options.read_size);
    end = memmem(c->response, got, "\r\n\r\n", 4);
  }
  *end = '\0';
  *size = content_length(c->response);
  *body = end + 4;
  size_t wanted = (size_t)(*body - c->response) + *size;
  require(wanted < options.room && got <= wanted, "the answer's length");
  while (got < wanted) {
    size_t left = wanted - got;
    got += read_some(c, c->response + got, left < options.read_size ? left : options.read_size);
  }
  int status = 0;
  require(sscanf(c->response, "HTTP/1.1 %d", &status) == 1, "the answer's status");
  return status;
}

static int exchange(struct connection* c, const struct request* request, char** body, size_t* size) {
  struct body sent = load_body(request->file);
  char head[2048];
  int length = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Length: %zu\r\n\r\n",
                        request->method, request->path, options.name ? options.name : options.host,
                        options.port, sent.size);
  write_all(c, head, (size_t)length);
  write_all(c, sent.data, sent.size);
  int status = read_response(c, body, size);
  free_body(&sent);
  return status;
}

static struct request parse_request(char* text) {
  struct request request = {0};
  char* path = strchr(text, ':');
  require(path != NULL && path - text < (long)sizeof request.method, text);
  memcpy(request.method, text, (size_t)(path - text));
  char* file = strchr(path, '=');
  if (file != NULL) {
    *file = '\0';
    request.file = file + 1;
  }
  snprintf(request.path, sizeof request.path, "%s", path + 1);
  return request;
}

static void run_requests(SSL_CTX* context, char** texts, int count) {
  struct connection c = open_connection(context);
  for (int i = 0; i < count; ++i) {
    struct request request = parse_request(texts[i]);
    char* body;
    size_t size;
    make_untouched(&c);
    int status = exchange(&c, &request, &body, &size);
    char hash[65];
    sha256_hex(body, size, hash);
    printf(
        "{\"pid\":%d,\"cookie\":\"%llu\",\"local_port\":%u,\"method\":\"%s\",\"path\":\"%s\",\"status\":%d,"
        "\"size\":%zu,\"sha256\":\"%s\",\"plaintext\":%llu}\n",
        getpid(), c.cookie, c.local_port, request.method, request.path, status, size, hash,
        c.written + c.got);
    fflush(stdout);
  }
  close_connection(&c);
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static bool stdin_ended(void) {
  struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
  return poll(&in, 1, 0) == 1;
}

static void run_loop(SSL_CTX* context) {
  unsigned long count = 0;
  double slowest = 0;
  struct connection c;
  for (; !stdin_ended(); ++count) {
    double began = now_ms();
    if (count == 0 || options.reconnect) c = open_connection(context);
    struct request request = {.method = "GET"};
    snprintf(request.path, sizeof request.path, "%s/%lu", options.loop, count);
    char* body;
    size_t size;
    int status = exchange(&c, &request, &body, &size);
    require(status == 200, "a status other than 200");
    if (options.reconnect) close_connection(&c);
    double took = now_ms() - began;
    if (took > slowest) slowest = took;
    if (options.pause_us > 0) usleep(options.pause_us);
  }
  if (count > 0 && !options.reconnect) close_connection(&c);
  printf("{\"pid\":%d,\"requests\":%lu,\"slowest_ms\":%.3f}\n", getpid(), count, slowest);
}

static void run_hold(SSL_CTX* context) {
  struct connection* held = calloc(options.hold, sizeof *held);
  require(held != NULL, "calloc");
  for (unsigned i = 0; i < options.hold; ++i) {
    held[i] = open_connection(context);
    struct request request = {.method = "GET"};
    snprintf(request.path, sizeof request.path, "%s/%u", options.loop, i);
    char* body;
    size_t size;
    require(exchange(&held[i], &request, &body, &size) == 200, "a status other than 200");
    require(madvise(held[i].response, options.room, MADV_DONTNEED) == 0, "madvise");
  }
  printf("{\"pid\":%d,\"held\":%u}\n", getpid(), options.hold);
  fflush(stdout);
  struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
  require(poll(&in, 1, -1) == 1, "stdin");
  for (unsigned i = 0; i < options.hold; ++i) close_connection(&held[i]);
  free(held);
}

static SSL_CTX* make_context(void) {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  require(context != NULL, "SSL_CTX_new");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  if (options.partial) SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE);
  int loaded = options.ca ? SSL_CTX_load_verify_locations(context, options.ca, NULL)
                          : SSL_CTX_set_default_verify_paths(context);
  require(loaded == 1, "the CA file");
  return context;
}

static void parse_options(int argc, char** argv) {
  static const struct option known[] = {{"ca", required_argument, NULL, 'c'},
                                        {"name", required_argument, NULL, 'n'},
                                        {"proxy", required_argument, NULL, 'p'},
                                        {"loop", required_argument, NULL, 'l'},
                                        {"nonblocking", no_argument, NULL, 'b'},
                                        {"ex", no_argument, NULL, 'e'},
                                        {"partial", no_argument, NULL, 'w'},
                                        {"touched", no_argument, NULL, 't'},
                                        {"untouched", no_argument, NULL, 'u'},
                                        {"reconnect", no_argument, NULL, 'r'},
                                        {"read-size", required_argument, NULL, 's'},
                                        {"pause-us", required_argument, NULL, 'd'},
                                        {"hold", required_argument, NULL, 'h'},
                                        {"room", required_argument, NULL, 'm'},
                                        {NULL, 0, NULL, 0}};
  for (int flag; (flag = getopt_long(argc, argv, "+", known, NULL)) != -1;) {
    switch (flag) {
      case 'c':
        options.ca = optarg;
        break;
      case 'n':
        options.name = optarg;
        break;
      case 'p':
        options.proxy = optarg;
        break;
      case 'l':
        options.loop = optarg;
        break;
      case 'b':
        options.nonblocking = true;
        break;
      case 'e':
        options.extended = true;
        break;
      case 'w':
        options.partial = true;
        break;
      case 't':
        options.touched = true;
        break;
      case 'u':
        options.untouched = true;
        break;
      case 'r':
        options.reconnect = true;
        break;
      case 's':
        options.read_size = strtoull(optarg, NULL, 10);
        break;
      case 'd':
        options.pause_us = (unsigned)strtoul(optarg, NULL, 10);
        break;
      case 'h':
        options.hold = (unsigned)strtoul(optarg, NULL, 10);
        break;
      case 'm':
        options.room = strtoull(optarg, NULL, 10);
        break;
      default:
        exit(2);
    }
  }
}

int main(int argc, char** argv) {
  parse_options(argc, argv);
  if (argc - optind < 2) {
    fprintf(stderr, "tls_client: HOST and PORT are missing\n");
    return 2;
  }
  options.host = argv[optind];
  options.port = argv[optind + 1];
  SSL_CTX* context = make_context();
  if (options.hold > 0) {
    run_hold(context);
  } else if (options.loop) {
    run_loop(context);
  } else {
    run_requests(context, argv + optind + 2, argc - optind - 2);
  }
  SSL_CTX_free(context);
  return 0;
}
