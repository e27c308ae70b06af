/* A peer for Longhaul's SCTP, standing on Linux's own. Built by scripts/linux-sctp, which runs it in a guest with sctp.ko.
 *
 *   linux-peer echo   --port N [options]                       sends every message of one association back, on its stream
 *   linux-peer client --port N --remote A --remote-port N --sizes 1,1200,200000 --count ROUNDS --streams N [options]
 * Options: --local A,B (any), --key HEX --key-id N (key 0 is deleted), --idata, --every MICROSECONDS
 *
 * On standard input it takes `add A`, `delete A`, `peer-primary A`, `primary A`, `reset-out 1,2`. It prints "listening", "connected" and "ok N messages".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
/* After the C library's headers: it defines what they do not. */
#include <linux/sctp.h>

enum { SOL_SCTP = 132, LARGEST = 1 << 20, STREAMS = 1 << 16, BUFFER = 4 << 20 };

static struct {
  const char *local, *remote, *key, *sizes;
  int port, remote_port, streams, rounds, key_id, idata, every;
} o = {.sizes = "1", .port = 7600, .remote_port = 7600, .streams = 1, .rounds = 1};

static int live;

static void die(const char *what) {
  printf("linux-peer: %s: %s\n", what, strerror(errno));
  exit(1);
}

static struct sockaddr_in address(const char *text, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, text, &a.sin_addr) != 1) die(text);
  return a;
}

static void set(int s, int option, const void *value, size_t length, const char *name) {
  if (setsockopt(s, SOL_SCTP, option, value, (socklen_t)length)) die(name);
}

static unsigned char message[LARGEST];

/* One whole message, and its stream; 0 at the end. */
static ssize_t receive(int s, uint16_t *stream, uint32_t *ppid) {
  size_t have = 0;
  for (;;) {
    char control[CMSG_SPACE(sizeof(struct sctp_rcvinfo))];
    struct iovec part = {message + have, LARGEST - have};
    struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(s, &head, 0);
    if (n <= 0) return n;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&head); c; c = CMSG_NXTHDR(&head, c))
      if (c->cmsg_level == IPPROTO_SCTP && c->cmsg_type == SCTP_RCVINFO) {
        struct sctp_rcvinfo info;
        memcpy(&info, CMSG_DATA(c), sizeof info);
        *stream = info.rcv_sid;
        *ppid = info.rcv_ppid;
      }
    have += (size_t)n;
    if (head.msg_flags & MSG_EOR) return (ssize_t)have;
  }
}

static void transmit(int s, const void *bytes, size_t count, uint16_t stream, uint32_t ppid) {
  char control[CMSG_SPACE(sizeof(struct sctp_sndinfo))] = {0};
  struct iovec part = {(void *)bytes, count};
  struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *c = CMSG_FIRSTHDR(&head);
  struct sctp_sndinfo info = {.snd_sid = stream, .snd_ppid = ppid};
  c->cmsg_level = IPPROTO_SCTP;
  c->cmsg_type = SCTP_SNDINFO;
  c->cmsg_len = CMSG_LEN(sizeof info);
  memcpy(CMSG_DATA(c), &info, sizeof info);
  if (sendmsg(s, &head, MSG_NOSIGNAL) != (ssize_t)count) die("send");
}

static int echo(int s) {
  uint16_t stream = 0;
  uint32_t ppid = 0;
  ssize_t n;
  int messages = 0;
  while ((n = receive(s, &stream, &ppid)) > 0) {
    transmit(s, message, (size_t)n, stream, ppid);
    messages++;
  }
  printf("ok %d messages\n", messages);
  return 0;
}

static int sizes[1 << 16], count;

static void *send_all(void *nothing) {
  static unsigned char text[LARGEST];
  (void)nothing;
  for (int i = 0; i < count; i++) {
    memset(text, i & 255, (size_t)sizes[i]);
    transmit(live, text, (size_t)sizes[i], (uint16_t)(i % o.streams), htonl(7));
    if (o.every) usleep((useconds_t)o.every);
  }
  return NULL;
}

static int client(int s) {
  static int next[STREAMS];
  pthread_t sender;
  for (int i = 0; i < o.streams; i++) next[i] = i;
  if (pthread_create(&sender, NULL, send_all, NULL)) die("thread");
  for (int i = 0; i < count; i++) {
    uint16_t stream = 0;
    uint32_t ppid = 0;
    ssize_t n = receive(s, &stream, &ppid);
    if (n <= 0) die("the association ended early");
    int which = next[stream];
    next[stream] += o.streams;
    if (which >= count || n != sizes[which]) {
      printf("linux-peer: %zd octets on stream %d are not what was sent\n", n, stream);
      return 1;
    }
    for (ssize_t j = 0; j < n; j++)
      if (message[j] != (which & 255)) {
        printf("linux-peer: message %d came back changed\n", which);
        return 1;
      }
  }
  pthread_join(sender, NULL);
  shutdown(s, SHUT_WR);
  printf("ok %d messages\n", count);
  return 0;
}

static int bindx(int s, const char *text, int option) {
  struct sockaddr_in a = address(text, o.port);
  return setsockopt(s, SOL_SCTP, option, &a, sizeof a);
}

static int obey(const char *command, const char *what) {
  if (!strcmp(command, "add")) return bindx(live, what, SCTP_SOCKOPT_BINDX_ADD);
  if (!strcmp(command, "delete")) return bindx(live, what, SCTP_SOCKOPT_BINDX_REM);
  if (!strcmp(command, "peer-primary")) {
    struct sctp_setpeerprim request = {0};
    struct sockaddr_in a = address(what, o.port);
    memcpy(&request.sspp_addr, &a, sizeof a);
    return setsockopt(live, SOL_SCTP, SCTP_SET_PEER_PRIMARY_ADDR, &request, sizeof request);
  }
  if (!strcmp(command, "primary")) {
    struct sctp_prim request = {0};
    struct sockaddr_in a = address(what, o.remote_port);
    memcpy(&request.ssp_addr, &a, sizeof a);
    return setsockopt(live, SOL_SCTP, SCTP_PRIMARY_ADDR, &request, sizeof request);
  }
  if (!strcmp(command, "reset-out")) {
    static struct { struct sctp_reset_streams head; uint16_t list[STREAMS]; } request;
    request.head.srs_flags = SCTP_STREAM_RESET_OUTGOING;
    request.head.srs_number_streams = 0;
    for (const char *at = what; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
      request.head.srs_stream_list[request.head.srs_number_streams++] = (uint16_t)atoi(at);
    return setsockopt(live, SOL_SCTP, SCTP_RESET_STREAMS, &request,
      (socklen_t)(sizeof request.head + request.head.srs_number_streams * sizeof(uint16_t)));
  }
  errno = ENOSYS;
  return -1;
}

static void *commands(void *nothing) {
  static char line[1 << 12];
  (void)nothing;
  while (fgets(line, sizeof line, stdin)) {
    char *rest = line, *command = strsep(&rest, " \n"), *what = strsep(&rest, "\n");
    if (obey(command, what ? what : "")) printf("failed %s %s: %s\n", command, what ? what : "", strerror(errno));
    else printf("done %s %s\n", command, what ? what : "");
  }
  return NULL;
}

static void authenticate(int s) {
  size_t octets = strlen(o.key) / 2;
  struct sctp_authkey *k = calloc(1, sizeof *k + octets);
  k->sca_keynumber = (uint16_t)o.key_id;
  k->sca_keylength = (uint16_t)octets;
  for (size_t i = 0; i < octets; i++) sscanf(o.key + 2 * i, "%2hhx", &k->sca_key[i]);
  set(s, SCTP_AUTH_KEY, k, sizeof *k + octets, "SCTP_AUTH_KEY");
  if (!o.key_id) return;
  struct sctp_authkeyid id = {.scact_keynumber = (uint16_t)o.key_id};
  set(s, SCTP_AUTH_ACTIVE_KEY, &id, sizeof id, "SCTP_AUTH_ACTIVE_KEY");
  id.scact_keynumber = 0;
  set(s, SCTP_AUTH_DELETE_KEY, &id, sizeof id, "SCTP_AUTH_DELETE_KEY");
}

static void prepare(int s) {
  const int on = 1, buffer = BUFFER;
  struct sctp_initmsg init = {.sinit_num_ostreams = 65535, .sinit_max_instreams = 65535};
  struct sctp_assoc_value reset = {.assoc_value = SCTP_ENABLE_RESET_STREAM_REQ | SCTP_ENABLE_CHANGE_ASSOC_REQ};
  setsockopt(s, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  setsockopt(s, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
  set(s, SCTP_INITMSG, &init, sizeof init, "SCTP_INITMSG");
  set(s, SCTP_RECVRCVINFO, &on, sizeof on, "SCTP_RECVRCVINFO");
  set(s, SCTP_NODELAY, &on, sizeof on, "SCTP_NODELAY");
  set(s, SCTP_ENABLE_STREAM_RESET, &reset, sizeof reset, "SCTP_ENABLE_STREAM_RESET");
  if (o.idata) {
    struct sctp_assoc_value value = {.assoc_value = 1};
    set(s, SCTP_FRAGMENT_INTERLEAVE, &on, sizeof on, "SCTP_FRAGMENT_INTERLEAVE");
    set(s, SCTP_INTERLEAVING_SUPPORTED, &value, sizeof value, "SCTP_INTERLEAVING_SUPPORTED");
  }
  if (o.key) authenticate(s);
  if (!o.local) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o.port)};
    if (bind(s, (struct sockaddr *)&any, sizeof any)) die("bind");
    return;
  }
  char *list = strdup(o.local), *rest = list, *each = strsep(&rest, ",");
  struct sockaddr_in own = address(each, o.port);
  if (bind(s, (struct sockaddr *)&own, sizeof own)) die("bind");
  while ((each = strsep(&rest, ",")))
    if (bindx(s, each, SCTP_SOCKOPT_BINDX_ADD)) die(each);
}

int main(int argc, char **argv) {
  struct { const char *name; int *number; const char **text; } known[] = {
    {"--port", &o.port, 0}, {"--remote-port", &o.remote_port, 0}, {"--local", 0, &o.local}, {"--remote", 0, &o.remote},
    {"--key", 0, &o.key}, {"--key-id", &o.key_id, 0}, {"--sizes", 0, &o.sizes}, {"--streams", &o.streams, 0}, {"--count", &o.rounds, 0},
    {"--every", &o.every, 0},
  };
  setvbuf(stdout, NULL, _IOLBF, 0);
  errno = EINVAL;
  if (argc < 2) die("echo or client?");
  for (int i = 2; i < argc; i++) {
    size_t k = 0;
    if (!strcmp(argv[i], "--idata")) { o.idata = 1; continue; }
    while (k < sizeof known / sizeof *known && strcmp(argv[i], known[k].name)) k++;
    if (k == sizeof known / sizeof *known || i + 1 == argc) die(argv[i]);
    if (known[k].number) *known[k].number = atoi(argv[++i]);
    else *known[k].text = argv[++i];
  }
  live = socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP);
  if (live < 0) die("socket");
  prepare(live);
  int isEcho = !strcmp(argv[1], "echo");
  if (isEcho) {
    int listening = live;
    if (listen(listening, 1)) die("listen");
    puts("listening");
    live = accept(listening, NULL, NULL);
    if (live < 0) die("accept");
    close(listening);
  } else {
    struct sockaddr_in there = address(o.remote ? o.remote : "", o.remote_port);
    for (int round = 0; round < o.rounds; round++)
      for (const char *at = o.sizes; at && count < 1 << 16; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) sizes[count++] = atoi(at);
    if (connect(live, (struct sockaddr *)&there, sizeof there)) die("connect");
  }
  puts("connected");
  pthread_t reader;
  if (pthread_create(&reader, NULL, commands, NULL)) die("thread");
  int status = isEcho ? echo(live) : client(live);
  close(live);
  return status;
}
