// Processes whose identity is hard to keep: they make requests over TLS to 127.0.0.1, and each notes itself
// who it was. Scenarios:
//   short    processes of one request each, which get the same few pids again and again, each as another user
//   fork     the parent connects and shakes hands, its child speaks
//   memory   the same, and the library is given the bytes in memory: it never sees the socket
//   pass     one process connects, another is handed the socket and speaks TLS over it
//   exec     a process connects, then becomes another program (OTHER_PROGRAM), which speaks
//   threads  threads of one process, with a connection each
//   clear    one SSL object for one connection after the other (SSL_clear and a new socket)
//   reuse    one descriptor's number for one connection after the other
// Usage: identity_client SCENARIO COUNT PORT CA LOG     with FIRST_PID for `short`
// Each request appends a line to LOG: {"path","pid","cookie","executable","uid"}; each connect one with
// "opener".
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIDS = 8, AT_ONCE = 4, FIRST_UID = 20000, UIDS = 1000 };

static const char* scenario;
static int port;
static const char* ca_file;
static const char* log_file;
static SSL_CTX* context;

static void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "identity_client: %s: %s: %s\n", scenario, what, strerror(errno));
  ERR_print_errors_fp(stderr);
  _exit(1);
}

// One write: processes and threads append at once.
static void note(const char* line) {
  static int file = -1;
  if (file < 0) file = open(log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  require(file >= 0 && write(file, line, strlen(line)) == (ssize_t)strlen(line), "log");
}

static unsigned long long cookie_of(int fd) {
  unsigned long long cookie = 0;
  socklen_t size = sizeof cookie;
  require(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0, "SO_COOKIE");
  return cookie;
}

static int connect_to_origin(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  require(fd >= 0 && connect(fd, (struct sockaddr*)&address, sizeof address) == 0, "connect");
  char line[128];
  snprintf(line, sizeof line, "{\"opener\":%d,\"cookie\":\"%llu\"}\n", getpid(), cookie_of(fd));
  note(line);
  return fd;
}

// The socket of the one connection whose object has its bytes in memory; -1 for all others.
static int memory_fd = -1;

static int socket_of(SSL* ssl) {
  return memory_fd >= 0 ? memory_fd : SSL_get_fd(ssl);
}

// Does what the library would have done with its socket, after a call of it that gave `result`. False: the
// call is to be made again.
static bool is_done(SSL* ssl, int result) {
  if (memory_fd < 0) return true;
  char bytes[16384];
  for (int size; (size = BIO_read(SSL_get_wbio(ssl), bytes, sizeof bytes)) > 0;)
    require(send(memory_fd, bytes, (size_t)size, 0) == size, "send");
  if (result > 0 || SSL_get_error(ssl, result) != SSL_ERROR_WANT_READ) return true;
  ssize_t size = recv(memory_fd, bytes, sizeof bytes, 0);
  require(size > 0 && BIO_write(SSL_get_rbio(ssl), bytes, (int)size) == size, "recv");
  return false;
}

static int read_from(SSL* ssl, char* into, int room) {
  int result;
  do result = SSL_read(ssl, into, room);
  while (!is_done(ssl, result));
  return result;
}

static int write_to(SSL* ssl, const char* from, int size) {
  int result;
  do result = SSL_write(ssl, from, size);
  while (!is_done(ssl, result));
  return result;
}

static SSL* shake_hands(SSL* ssl, int fd) {
  if (!ssl) ssl = SSL_new(context);
  require(ssl, "SSL_new");
  if (memory_fd >= 0)
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  else
    require(SSL_set_fd(ssl, fd) == 1, "SSL_set_fd");
  X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), "127.0.0.1");
  int result;
  do result = SSL_connect(ssl);
  while (!is_done(ssl, result));
  require(result == 1, "SSL_connect");
  return ssl;
}

// Asks for /SCENARIO/NUMBER, and notes who asks.
static void request(SSL* ssl, int number, bool last) {
  char text[4096], executable[1024], line[2048];
  const char* then = last ? "close" : "keep-alive";
  int size =
      snprintf(text, sizeof text, "GET /%s/%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: %s\r\n\r\n",
               scenario, number, port, then);
  require(write_to(ssl, text, size) == size, "SSL_write");
  int got = 0;
  char* end = NULL;
  while (!end) {
    int more = read_from(ssl, text + got, (int)sizeof text - got - 1);
    require(more > 0, "SSL_read");
    got += more;
    text[got] = '\0';
    end = strstr(text, "\r\n\r\nthis is ");
    if (end && text[got - 1] != '\n') end = NULL;
  }
  require(strncmp(text, "HTTP/1.1 200 ", 13) == 0, "status");
  ssize_t length = readlink("/proc/self/exe", executable, sizeof executable - 1);
  executable[length > 0 ? length : 0] = '\0';
  snprintf(line, sizeof line,
           "{\"path\":\"/%s/%d\",\"pid\":%d,\"cookie\":\"%llu\",\"executable\":\"%s\",\"uid\":%d}\n",
           scenario, number, getpid(), cookie_of(socket_of(ssl)), executable, (int)getuid());
  note(line);
}

static void end_connection(SSL* ssl) {
  int fd = socket_of(ssl);
  is_done(ssl, SSL_shutdown(ssl) < 0 ? -1 : 1);
  SSL_free(ssl);
  close(fd);
}

static void one_request(int number) {
  SSL* ssl = shake_hands(NULL, connect_to_origin());
  request(ssl, number, true);
  end_connection(ssl);
}

static void reap(pid_t pid) {
  int status = 0;
  require(waitpid(pid, &status, 0) > 0 && status == 0, "a child failed");
}

static pid_t child_of(void (*work)(int), int number) {
  pid_t pid = fork();
  require(pid >= 0, "fork");
  if (pid == 0) {
    work(number);
    _exit(0);
  }
  return pid;
}

// fork() with the pid of an earlier process.
static pid_t fork_as(pid_t pid) {
  struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
  return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

// Others may hold the pid just now: the next one will do.
static pid_t start_short(pid_t* next, pid_t first, int number) {
  for (int tries = 0; tries < 10000; tries++) {
    pid_t pid = fork_as(*next);
    if (pid == 0) {
      uid_t uid = (uid_t)(FIRST_UID + number % UIDS);
      require(setresuid(uid, uid, uid) == 0, "setresuid");
      one_request(number);
      _exit(0);
    }
    *next = *next + 1 < first + PIDS ? *next + 1 : first;
    if (pid > 0) return pid;
    require(errno == EEXIST, "clone3 with set_tid");
    usleep(1000);
  }
  require(false, "no pid is free");
  return -1;
}

static void run_short(int count) {
  pid_t first = (pid_t)atoi(getenv("FIRST_PID")), next = first;
  pid_t running[AT_ONCE] = {0};
  for (int i = 0; i < count; i++) {
    if (running[i % AT_ONCE]) reap(running[i % AT_ONCE]);
    running[i % AT_ONCE] = start_short(&next, first, i);
  }
  for (int i = 0; i < AT_ONCE; i++)
    if (running[i]) reap(running[i]);
}

static SSL* inherited;

static void speak_over_inherited(int number) {
  request(inherited, number, true);
  end_connection(inherited);
}

static void run_fork(int count) {
  for (int i = 0; i < count; i += 2) {
    inherited = shake_hands(NULL, connect_to_origin());
    request(inherited, i, false);
    reap(child_of(speak_over_inherited, i + 1));
    close(SSL_get_fd(inherited));
    SSL_free(inherited);
  }
}

static void run_memory(int count) {
  for (int i = 0; i < count; i += 2) {
    memory_fd = connect_to_origin();
    inherited = shake_hands(NULL, memory_fd);
    // Every second object has said nothing before it changes hands.
    if (i % 4) request(inherited, i, false);
    reap(child_of(speak_over_inherited, i + 1));
    SSL_free(inherited);
    close(memory_fd);
    if (i % 4) continue;
    memory_fd = connect_to_origin();
    inherited = shake_hands(NULL, memory_fd);
    reap(child_of(speak_over_inherited, i));
    SSL_free(inherited);
    close(memory_fd);
  }
}

static int channel[2];

static void send_socket(int number) {
  (void)number;
  int fd = connect_to_origin();
  char byte = 'x';
  struct iovec data = {&byte, 1};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  *header =
      (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  require(sendmsg(channel[1], &message, 0) == 1, "sendmsg");
}

static void run_pass(int count) {
  require(socketpair(AF_UNIX, SOCK_DGRAM, 0, channel) == 0, "socketpair");
  for (int i = 0; i < count; i++) {
    reap(child_of(send_socket, i));
    char byte;
    struct iovec data = {&byte, 1};
    union {
      struct cmsghdr header;
      char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    require(recvmsg(channel[0], &message, 0) == 1 && CMSG_FIRSTHDR(&message), "recvmsg");
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    SSL* ssl = shake_hands(NULL, fd);
    request(ssl, i, true);
    end_connection(ssl);
  }
}

static void become_other(int number) {
  char fd[16], count[16], port_text[16];
  snprintf(fd, sizeof fd, "%d", connect_to_origin());
  snprintf(count, sizeof count, "%d", number);
  snprintf(port_text, sizeof port_text, "%d", port);
  setenv("INHERITED_SOCKET", fd, 1);
  char* program = getenv("OTHER_PROGRAM");
  execl(program, program, "exec", count, port_text, ca_file, log_file, NULL);
  require(false, "exec");
}

static void run_exec(int count) {
  const char* fd = getenv("INHERITED_SOCKET");
  if (fd) {
    SSL* ssl = shake_hands(NULL, atoi(fd));
    request(ssl, count, true);
    end_connection(ssl);
    return;
  }
  for (int i = 0; i < count; i++) reap(child_of(become_other, i));
}

struct share {
  int first, count;
};

static void* run_thread(void* argument) {
  struct share* share = argument;
  for (int i = 0; i < share->count; i++) one_request(share->first + i);
  return NULL;
}

static void run_threads(int count) {
  enum { THREADS = 8 };
  pthread_t threads[THREADS];
  struct share shares[THREADS];
  for (int i = 0; i < THREADS; i++) {
    shares[i] = (struct share){count / THREADS * i, count / THREADS};
    require(pthread_create(&threads[i], NULL, run_thread, &shares[i]) == 0, "pthread_create");
  }
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void run_clear(int count) {
  SSL* ssl = NULL;
  for (int i = 0; i < count; i++) {
    ssl = shake_hands(ssl, connect_to_origin());
    request(ssl, i, true);
    int fd = SSL_get_fd(ssl);
    SSL_shutdown(ssl);
    close(fd);
    require(SSL_clear(ssl) == 1, "SSL_clear");
  }
  SSL_free(ssl);
}

static void run_reuse(int count) {
  int number = -1;
  for (int i = 0; i < count; i++) {
    int fd = connect_to_origin();
    require(number < 0 || fd == number, "another descriptor");
    number = fd;
    SSL* ssl = shake_hands(NULL, fd);
    request(ssl, i, true);
    end_connection(ssl);
  }
}

static const struct {
  const char* name;
  void (*run)(int count);
} scenarios[] = {{"short", run_short}, {"fork", run_fork},  {"memory", run_memory},
                 {"pass", run_pass},   {"exec", run_exec},  {"threads", run_threads},
                 {"clear", run_clear}, {"reuse", run_reuse}};

int main(int argc, char** argv) {
  if (argc != 6) {
    fprintf(stderr, "usage: identity_client SCENARIO COUNT PORT CA LOG\n");
    return 2;
  }
  scenario = argv[1];
  port = atoi(argv[3]);
  ca_file = argv[4];
  log_file = argv[5];
  context = SSL_CTX_new(TLS_client_method());
  require(context && SSL_CTX_load_verify_locations(context, ca_file, NULL) == 1, "CA");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
    if (strcmp(scenario, scenarios[i].name) != 0) continue;
    scenarios[i].run(atoi(argv[2]));
    return 0;
  }
  fprintf(stderr, "identity_client: unknown scenario %s\n", scenario);
  return 2;
}
