/* A peer for Longhaul's SCTP over UDP, standing on usrsctp (Debian's libusrsctp-dev). Built by build-peer.sh, run by Tests/InteroperationTests.
 *
 *   usrsctp-peer echo   --udp PORT --port SCTP-PORT [options]      sends every message back, on its stream; ends with the association
 *   usrsctp-peer client --udp PORT --port SCTP-PORT --remote-udp PORT --remote-port SCTP-PORT --sizes 1,1200,200000 --streams N [options]
 *                                                                  sends each size once, and wants each back as it was
 * Options: --local A --remote A (127.0.0.1), --key HEX (RFC 4895, key 0), --auth-data (wants DATA authenticated), --unordered, --count N (rounds)
 *
 * It prints "listening", "connected", "ok N messages", and ends with status 0 only if all went well.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <usrsctp.h>

enum { LARGEST = 1 << 20, MOST_SIZES = 4096, BUFFER = 8 << 20 };

static void die(const char *what) {
  fprintf(stderr, "usrsctp-peer: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void say(const char *format, ...) {
  va_list list;
  va_start(list, format);
  vfprintf(stderr, format, list);
  va_end(list);
}

static struct sockaddr_in address(const char *text, int port) {
  struct sockaddr_in a;
  memset(&a, 0, sizeof a);
  a.sin_family = AF_INET;
  a.sin_port = htons((uint16_t)port);
  if (inet_pton(AF_INET, text, &a.sin_addr) != 1) die(text);
  return a;
}

static int number(const char *text) { return text ? atoi(text) : 0; }

static unsigned char buffer[LARGEST];

/* One whole message; 0 at the end of the association, -1 on an error. */
static ssize_t receive(struct socket *s, struct sctp_rcvinfo *info) {
  size_t have = 0;
  for (;;) {
    socklen_t length = sizeof *info;
    unsigned int type = 0;
    int flags = 0;
    if (have == LARGEST) return -1;
    ssize_t n = usrsctp_recvv(s, buffer + have, LARGEST - have, NULL, NULL, info, &length, &type, &flags);
    if (n <= 0) return n;
    if (flags & MSG_NOTIFICATION) continue;
    have += (size_t)n;
    if (flags & MSG_EOR) return (ssize_t)have;
  }
}

static int transmit(struct socket *s, const void *bytes, size_t count, uint16_t stream, uint32_t ppid, int unordered) {
  struct sctp_sndinfo info;
  memset(&info, 0, sizeof info);
  info.snd_sid = stream;
  info.snd_ppid = ppid;
  info.snd_flags = unordered ? SCTP_UNORDERED : 0;
  return usrsctp_sendv(s, bytes, count, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) == (ssize_t)count ? 0 : -1;
}

static int echo(struct socket *s) {
  struct sctp_rcvinfo info;
  ssize_t n;
  int count = 0;
  while ((n = receive(s, &info)) > 0) {
    if (transmit(s, buffer, (size_t)n, info.rcv_sid, info.rcv_ppid, info.rcv_flags & SCTP_UNORDERED)) die("send");
    count++;
  }
  printf("ok %d messages\n", count);
  return n == 0 ? 0 : 1;
}

/* Message i goes on stream i % streams and is filled with i; those of one stream come back in order, unordered ones in any. */
static int client(struct socket *s, const int *sizes, int count, int streams, int unordered) {
  static unsigned char text[LARGEST];
  static int next[65536];
  static unsigned char seen[MOST_SIZES];
  for (int i = 0; i < streams; i++) next[i] = i;
  for (int i = 0; i < count; i++) {
    memset(text, i & 255, (size_t)sizes[i]);
    if (transmit(s, text, (size_t)sizes[i], (uint16_t)(i % streams), htonl(7), unordered)) die("send");
  }
  for (int i = 0; i < count; i++) {
    struct sctp_rcvinfo info;
    ssize_t n = receive(s, &info);
    if (n <= 0) die("the association ended early");
    int which = next[info.rcv_sid];
    if (unordered) {
      for (which = 0; which < count; which++)
        if (!seen[which] && which % streams == info.rcv_sid && sizes[which] == n && buffer[0] == (which & 255)) break;
    }
    if (which >= count || n != sizes[which]) {
      fprintf(stderr, "usrsctp-peer: %zd octets on stream %d are not what was sent\n", n, info.rcv_sid);
      return 1;
    }
    for (ssize_t j = 0; j < n; j++)
      if (buffer[j] != (which & 255)) {
        fprintf(stderr, "usrsctp-peer: message %d came back changed at octet %zd\n", which, j);
        return 1;
      }
    seen[which] = 1;
    next[info.rcv_sid] = which + streams;
  }
  printf("ok %d messages\n", count);
  fflush(stdout);
  usrsctp_shutdown(s, SHUT_WR);
  struct sctp_rcvinfo info;
  while (receive(s, &info) > 0) {}
  return 0;
}

int main(int argc, char **argv) {
  const char *local = "127.0.0.1", *remote = "127.0.0.1", *key = NULL, *list = "1";
  int udp = 0, port = 7600, remote_port = 7600, remote_udp = 0, streams = 1, unordered = 0, rounds = 1, authenticate = 0;
  if (argc < 2) die("echo or client?");
  for (int i = 2; i < argc; i++) {
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    if (!strcmp(argv[i], "--unordered")) { unordered = 1; continue; }
    if (!strcmp(argv[i], "--auth-data")) { authenticate = 1; continue; }
    if (!strcmp(argv[i], "--udp")) udp = number(next);
    else if (!strcmp(argv[i], "--port")) port = number(next);
    else if (!strcmp(argv[i], "--remote-port")) remote_port = number(next);
    else if (!strcmp(argv[i], "--remote-udp")) remote_udp = number(next);
    else if (!strcmp(argv[i], "--local")) local = next;
    else if (!strcmp(argv[i], "--remote")) remote = next;
    else if (!strcmp(argv[i], "--key")) key = next;
    else if (!strcmp(argv[i], "--sizes")) list = next;
    else if (!strcmp(argv[i], "--streams")) streams = number(next);
    else if (!strcmp(argv[i], "--count")) rounds = number(next);
    else die(argv[i]);
    if (!next) die(argv[i]);
    i++;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  usrsctp_init((uint16_t)udp, NULL, say);
  usrsctp_sysctl_set_sctp_blackhole(2);
  usrsctp_sysctl_set_sctp_rto_min_default(200);
  usrsctp_sysctl_set_sctp_rto_initial_default(500);
  usrsctp_sysctl_set_sctp_nr_outgoing_streams_default(65535);
  usrsctp_sysctl_set_sctp_assoc_rtx_max_default(40);
  usrsctp_sysctl_set_sctp_path_rtx_max_default(20);
  usrsctp_sysctl_set_sctp_sendspace(BUFFER);
  usrsctp_sysctl_set_sctp_recvspace(BUFFER);
  struct socket *s = usrsctp_socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
  if (!s) die("socket");
  struct sctp_initmsg init = {.sinit_num_ostreams = 65535, .sinit_max_instreams = 65535};
  if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_INITMSG, &init, sizeof init)) die("SCTP_INITMSG");
  int on = 1;
  if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_RECVRCVINFO, &on, sizeof on)) die("SCTP_RECVRCVINFO");
  if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_NODELAY, &on, sizeof on)) die("SCTP_NODELAY");
  if (key) {
    size_t octets = strlen(key) / 2;
    struct sctp_authkey *k = calloc(1, sizeof *k + octets);
    k->sca_assoc_id = SCTP_FUTURE_ASSOC;
    k->sca_keylength = (uint16_t)octets;
    for (size_t i = 0; i < octets; i++) sscanf(key + 2 * i, "%2hhx", &k->sca_key[i]);
    if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_AUTH_KEY, k, (socklen_t)(sizeof *k + octets))) die("SCTP_AUTH_KEY");
  }
  if (authenticate) {
    struct sctp_authchunk chunk = {.sauth_chunk = SCTP_DATA};
    if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_AUTH_CHUNK, &chunk, sizeof chunk)) die("SCTP_AUTH_CHUNK");
  }
  struct sockaddr_in own = address(local, port);
  if (usrsctp_bind(s, (struct sockaddr *)&own, sizeof own)) die("bind");

  int status;
  if (!strcmp(argv[1], "echo")) {
    if (usrsctp_listen(s, 1)) die("listen");
    puts("listening");
    struct socket *peer = usrsctp_accept(s, NULL, NULL);
    if (!peer) die("accept");
    puts("connected");
    if (usrsctp_setsockopt(peer, IPPROTO_SCTP, SCTP_RECVRCVINFO, &on, sizeof on)) die("SCTP_RECVRCVINFO");
    status = echo(peer);
    usrsctp_close(peer);
  } else {
    static int sizes[MOST_SIZES];
    int count = 0;
    for (int round = 0; round < rounds; round++)
      for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (count < MOST_SIZES) sizes[count++] = atoi(at);
    struct sctp_udpencaps encapsulation;
    memset(&encapsulation, 0, sizeof encapsulation);
    struct sockaddr_in there = address(remote, remote_port);
    memcpy(&encapsulation.sue_address, &there, sizeof there);
    encapsulation.sue_address.ss_family = AF_UNSPEC;
    encapsulation.sue_port = htons((uint16_t)remote_udp);
    if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_REMOTE_UDP_ENCAPS_PORT, &encapsulation, sizeof encapsulation)) die("encapsulation");
    if (usrsctp_connect(s, (struct sockaddr *)&there, sizeof there)) die("connect");
    puts("connected");
    status = client(s, sizes, count, streams, unordered);
  }
  usrsctp_close(s);
  for (int i = 0; i < 50 && usrsctp_finish(); i++) usleep(100000);
  return status;
}
