/* A peer for Longhaul's SCTP over UDP, standing on usrsctp (Debian's libusrsctp-dev). Built by build-peer.sh, run by Tests/InteroperationTests.
 *
 *   usrsctp-peer echo | sink     --udp PORT --port SCTP-PORT [options]      takes messages; echo sends each back, on its stream
 *   usrsctp-peer client | source --udp PORT --port SCTP-PORT --remote-udp PORT --remote-port SCTP-PORT --sizes 1,1200,200000 --streams N [options]
 *                                                                  sends each size once; client wants each back as it was
 * Options: --local A,B --remote A (127.0.0.1), --remote-udp PORT (also of addresses that the peer adds), --key HEX --key-id N (RFC 4895; with N > 0 key 0 is refused), --auth-data (wants DATA authenticated),
 *          --unordered, --count N (rounds), --every MICROSECONDS (between two messages), --rtx N or --ttl MILLISECONDS (RFC 3758), --idata (RFC 8260)
 *
 * On standard input it takes commands, one a line: `add A`, `delete A`, `peer-primary A` (asks the peer to send there), `primary A` (sends there),
 * `ask A` (with HEARTBEAT), `reset-out 1,2`, `reset-in 1,2`, `shutdown`; each is answered with "done ..." or "failed ...".
 *
 * It prints "listening", "connected", events, and at the end "ok N messages, sent DIGEST, received DIGEST, gap MILLISECONDS"; a digest is the sum of all messages'
 * FNV-1a hashes (stream, place on the stream, identifier, octets), so it tells a message that was lost, doubled, changed, or out of turn. Status 0 only if all went well.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <usrsctp.h>

enum { LARGEST = 1 << 20, MOST_SIZES = 1 << 16, BUFFER = 8 << 20, STREAMS = 1 << 16, PPID = 7 };
#ifndef SCTP_INTERLEAVING_SUPPORTED
#define SCTP_INTERLEAVING_SUPPORTED 0x00001206 /* usrsctp has it, its public header does not name it */
#endif

static struct {
  const char *local, *remote, *key, *sizes;
  int udp, port, remote_port, remote_udp, streams, unordered, rounds, authenticate, key_id, every, rtx, ttl, idata;
} o = {.local = "127.0.0.1", .remote = "127.0.0.1", .sizes = "1", .port = 7600, .remote_port = 7600, .streams = 1, .rounds = 1};

static struct socket *live; /* the association's */

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

static void set(struct socket *s, int option, const void *value, size_t length, const char *name) {
  if (usrsctp_setsockopt(s, IPPROTO_SCTP, option, value, (socklen_t)length)) die(name);
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- Messages ---- */

/* What message `number` holds; the tests in Swift fill theirs the same way. */
static void fill(unsigned char *to, size_t count, uint64_t number) {
  uint64_t x = (number + 1) * 0x9e3779b97f4a7c15u;
  for (size_t i = 0; i < count; i += 8) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    for (size_t j = 0; j < 8 && i + j < count; j++) to[i + j] = (unsigned char)(x >> 8 * j);
  }
}

struct side {
  uint64_t digest;
  uint32_t place[STREAMS];
};

static void digest(struct side *side, unsigned stream, int unordered, uint32_t ppid, const unsigned char *bytes, size_t count) {
  uint32_t place = unordered ? 0xffffffff : side->place[stream]++;
  uint64_t h = 0xcbf29ce484222325u;
  unsigned char head[10] = {stream >> 8, stream, place >> 24, place >> 16, place >> 8, place, ppid >> 24, ppid >> 16, ppid >> 8, ppid};
  for (size_t i = 0; i < sizeof head; i++) h = (h ^ head[i]) * 0x100000001b3u;
  for (size_t i = 0; i < count; i++) h = (h ^ bytes[i]) * 0x100000001b3u;
  side->digest += h;
}

static struct side sent, received;

static void notify(const union sctp_notification *n) {
  char text[INET6_ADDRSTRLEN] = "?";
  switch (n->sn_header.sn_type) {
  case SCTP_PEER_ADDR_CHANGE: {
    const struct sockaddr_in *a = (const struct sockaddr_in *)&n->sn_paddr_change.spc_aaddr;
    static const char *const states[] = {"?", "available", "unreachable", "removed", "added", "primary", "confirmed"};
    inet_ntop(AF_INET, &a->sin_addr, text, sizeof text);
    printf("event %s %s\n", n->sn_paddr_change.spc_state <= 6 ? states[n->sn_paddr_change.spc_state] : "?", text);
    break;
  }
  case SCTP_STREAM_RESET_EVENT: {
    const struct sctp_stream_reset_event *e = &n->sn_strreset_event;
    int failed = e->strreset_flags & (SCTP_STREAM_RESET_DENIED | SCTP_STREAM_RESET_FAILED);
    size_t resets = (e->strreset_length - sizeof *e) / sizeof e->strreset_stream_list[0];
    for (size_t i = 0; i < resets; i++) {
      unsigned stream = e->strreset_stream_list[i];
      printf("event reset%s%s %u%s\n", e->strreset_flags & SCTP_STREAM_RESET_INCOMING_SSN ? " incoming" : "",
        e->strreset_flags & SCTP_STREAM_RESET_OUTGOING_SSN ? " outgoing" : "", stream, failed ? " failed" : "");
      if (!failed && e->strreset_flags & SCTP_STREAM_RESET_INCOMING_SSN) received.place[stream] = 0;
      if (!failed && e->strreset_flags & SCTP_STREAM_RESET_OUTGOING_SSN) sent.place[stream] = 0;
    }
    break;
  }
  case SCTP_ASSOC_CHANGE: printf("event association %u\n", n->sn_assoc_change.sac_state); break;
  case SCTP_SEND_FAILED_EVENT: puts("event abandoned"); break;
  default: break;
  }
}

/* One whole message; 0 at the end of the association, -1 on an error. With I-DATA the pieces of several streams come mixed, so each has its own place. */
static ssize_t receive(struct socket *s, struct sctp_rcvinfo *info, unsigned char **message) {
  static unsigned char piece[LARGEST];
  static struct { unsigned char *bytes; size_t have; } parts[2][STREAMS], *part;
  static unsigned char *last;
  free(last);
  last = NULL;
  for (;;) {
    socklen_t length = sizeof *info;
    unsigned int type = 0;
    int flags = 0;
    ssize_t n = usrsctp_recvv(s, piece, sizeof piece, NULL, NULL, info, &length, &type, &flags);
    if (n <= 0) return n;
    if (flags & MSG_NOTIFICATION) {
      notify((const union sctp_notification *)piece);
      continue;
    }
    part = &parts[!!(info->rcv_flags & SCTP_UNORDERED)][info->rcv_sid];
    if (part->have + (size_t)n > LARGEST) return -1;
    part->bytes = realloc(part->bytes, part->have + (size_t)n);
    memcpy(part->bytes + part->have, piece, (size_t)n);
    part->have += (size_t)n;
    if (!(flags & MSG_EOR)) continue;
    *message = last = part->bytes;
    n = (ssize_t)part->have;
    part->bytes = NULL;
    part->have = 0;
    digest(&received, info->rcv_sid, info->rcv_flags & SCTP_UNORDERED, ntohl(info->rcv_ppid), last, (size_t)n);
    return n;
  }
}

static void transmit(struct socket *s, const void *bytes, size_t count, uint16_t stream, uint32_t ppid, int unordered) {
  struct sctp_sendv_spa spa;
  memset(&spa, 0, sizeof spa);
  spa.sendv_flags = SCTP_SEND_SNDINFO_VALID | (o.rtx || o.ttl ? SCTP_SEND_PRINFO_VALID : 0);
  spa.sendv_sndinfo.snd_sid = stream;
  spa.sendv_sndinfo.snd_ppid = ppid;
  spa.sendv_sndinfo.snd_flags = unordered ? SCTP_UNORDERED : 0;
  spa.sendv_prinfo.pr_policy = o.ttl ? SCTP_PR_SCTP_TTL : SCTP_PR_SCTP_RTX;
  spa.sendv_prinfo.pr_value = (uint32_t)(o.ttl ? o.ttl : o.rtx - 1);
  digest(&sent, stream, unordered, ntohl(ppid), bytes, count);
  if (usrsctp_sendv(s, bytes, count, NULL, 0, &spa, sizeof spa, SCTP_SENDV_SPA, 0) != (ssize_t)count) die("send");
}

/* ---- Roles ---- */

static int *sizes, count;

static int finish(int messages, int64_t gap) {
  printf("ok %d messages, sent %016llx, received %016llx, gap %lld\n", messages, (unsigned long long)sent.digest, (unsigned long long)received.digest,
    (long long)gap / 1000);
  return 0;
}

static int take(struct socket *s, int echoes) {
  struct sctp_rcvinfo info;
  unsigned char *message;
  ssize_t n;
  int messages = 0;
  while ((n = receive(s, &info, &message)) > 0) {
    if (echoes) transmit(s, message, (size_t)n, info.rcv_sid, info.rcv_ppid, info.rcv_flags & SCTP_UNORDERED);
    messages++;
  }
  /* A peer that closes at once is an error to usrsctp as often as an end; the digests say whether all was there. */
  return finish(messages, 0);
}

/* Message i goes on stream i % streams and holds the pattern of its number; those of one stream come back in order, unordered ones in any. */
static void *send_all(void *s) {
  static unsigned char text[LARGEST];
  int64_t next = now();
  for (int i = 0; i < count; i++) {
    fill(text, (size_t)sizes[i], (uint64_t)i);
    transmit(s, text, (size_t)sizes[i], (uint16_t)(i % o.streams), htonl(PPID), o.unordered);
    next += o.every;
    if (o.every && next > now()) usleep((useconds_t)(next - now()));
  }
  return NULL;
}

static int client(struct socket *s) {
  static int next[STREAMS];
  static unsigned char seen[MOST_SIZES], wanted[LARGEST];
  int64_t gap = 0, before = 0;
  pthread_t sender;
  struct sctp_rcvinfo info;
  unsigned char *message;
  for (int i = 0; i < o.streams; i++) next[i] = i;
  if (pthread_create(&sender, NULL, send_all, s)) die("thread");
  for (int i = 0; i < count; i++) {
    ssize_t n = receive(s, &info, &message);
    if (n <= 0) die("the association ended early");
    if (before && now() - before > gap) gap = now() - before;
    before = now();
    int which = next[info.rcv_sid];
    for (int j = o.unordered ? info.rcv_sid : count; j < count; j += o.streams) {
      fill(wanted, (size_t)sizes[j], (uint64_t)j);
      if (!seen[j] && sizes[j] == n && !memcmp(message, wanted, (size_t)n)) { which = j; break; }
    }
    if (which < count) fill(wanted, (size_t)sizes[which], (uint64_t)which);
    if (which >= count || n != sizes[which] || memcmp(message, wanted, (size_t)n)) {
      fprintf(stderr, "usrsctp-peer: %zd octets on stream %d are not what was sent\n", n, info.rcv_sid);
      return 1;
    }
    seen[which] = 1;
    next[info.rcv_sid] = which + o.streams;
  }
  pthread_join(sender, NULL);
  finish(count, gap);
  usrsctp_shutdown(s, SHUT_WR);
  while (receive(s, &info, &message) > 0) {}
  return 0;
}

static int source(struct socket *s) {
  struct sctp_rcvinfo info;
  unsigned char *message;
  send_all(s);
  usrsctp_shutdown(s, SHUT_WR);
  while (receive(s, &info, &message) > 0) {}
  return finish(count, 0);
}

/* ---- Commands ---- */

static int obey(const char *command, const char *what) {
  struct sockaddr_in a;
  if (!strcmp(command, "shutdown")) return usrsctp_shutdown(live, SHUT_WR);
  if (!strncmp(command, "reset-", 6)) {
    static struct { struct sctp_reset_streams head; uint16_t list[STREAMS]; } request;
    request.head.srs_flags = strcmp(command, "reset-in") ? SCTP_STREAM_RESET_OUTGOING : SCTP_STREAM_RESET_INCOMING;
    request.head.srs_number_streams = 0;
    for (const char *at = what; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
      request.head.srs_stream_list[request.head.srs_number_streams++] = (uint16_t)atoi(at);
    return usrsctp_setsockopt(live, IPPROTO_SCTP, SCTP_RESET_STREAMS, &request,
      (socklen_t)(sizeof request.head + request.head.srs_number_streams * sizeof(uint16_t)));
  }
  a = address(what, !strcmp(command, "primary") || !strcmp(command, "ask") ? o.remote_port : o.port);
  if (!strcmp(command, "add")) return usrsctp_bindx(live, (struct sockaddr *)&a, 1, SCTP_BINDX_ADD_ADDR);
  if (!strcmp(command, "delete")) return usrsctp_bindx(live, (struct sockaddr *)&a, 1, SCTP_BINDX_REM_ADDR);
  if (!strcmp(command, "primary")) {
    struct sctp_setprim request = {0};
    memcpy(&request.ssp_addr, &a, sizeof a);
    return usrsctp_setsockopt(live, IPPROTO_SCTP, SCTP_PRIMARY_ADDR, &request, sizeof request);
  }
  if (!strcmp(command, "ask")) {
    struct sctp_paddrparams request = {.spp_flags = SPP_HB_DEMAND};
    memcpy(&request.spp_address, &a, sizeof a);
    return usrsctp_setsockopt(live, IPPROTO_SCTP, SCTP_PEER_ADDR_PARAMS, &request, sizeof request);
  }
  if (!strcmp(command, "peer-primary")) {
    struct sctp_setpeerprim request = {0};
    memcpy(&request.sspp_addr, &a, sizeof a);
    return usrsctp_setsockopt(live, IPPROTO_SCTP, SCTP_SET_PEER_PRIMARY_ADDR, &request, sizeof request);
  }
  errno = ENOSYS;
  return -1;
}

static void *commands(void *nothing) {
  static char line[1 << 16];
  (void)nothing;
  while (fgets(line, sizeof line, stdin)) {
    char *rest = line, *command = strsep(&rest, " \n"), *what = strsep(&rest, "\n");
    if (obey(command, what)) printf("failed %s %s: %s\n", command, what ? what : "", strerror(errno));
    else printf("done %s %s\n", command, what ? what : "");
  }
  return NULL;
}

/* ---- Setting up ---- */

static void read_options(int argc, char **argv) {
  struct { const char *name; int *number; const char **text; int *flag; } known[] = {
    {"--udp", &o.udp, 0, 0}, {"--port", &o.port, 0, 0}, {"--remote-port", &o.remote_port, 0, 0}, {"--remote-udp", &o.remote_udp, 0, 0},
    {"--local", 0, &o.local, 0}, {"--remote", 0, &o.remote, 0}, {"--key", 0, &o.key, 0}, {"--key-id", &o.key_id, 0, 0},
    {"--sizes", 0, &o.sizes, 0}, {"--streams", &o.streams, 0, 0}, {"--count", &o.rounds, 0, 0}, {"--every", &o.every, 0, 0},
    {"--rtx", &o.rtx, 0, 0}, {"--ttl", &o.ttl, 0, 0}, {"--idata", 0, 0, &o.idata}, {"--unordered", 0, 0, &o.unordered},
    {"--auth-data", 0, 0, &o.authenticate},
  };
  for (int i = 2; i < argc; i++) {
    size_t k = 0;
    while (k < sizeof known / sizeof *known && strcmp(argv[i], known[k].name)) k++;
    errno = EINVAL;
    if (k == sizeof known / sizeof *known || (!known[k].flag && i + 1 == argc)) die(argv[i]);
    if (known[k].flag) *known[k].flag = 1;
    else if (known[k].number) *known[k].number = atoi(argv[++i]);
    else *known[k].text = argv[++i];
  }
}

static void authenticate(struct socket *s) {
  size_t octets = strlen(o.key) / 2;
  struct sctp_authkey *k = calloc(1, sizeof *k + octets);
  k->sca_assoc_id = SCTP_FUTURE_ASSOC;
  k->sca_keynumber = (uint16_t)o.key_id;
  k->sca_keylength = (uint16_t)octets;
  for (size_t i = 0; i < octets; i++) sscanf(o.key + 2 * i, "%2hhx", &k->sca_key[i]);
  set(s, SCTP_AUTH_KEY, k, sizeof *k + octets, "SCTP_AUTH_KEY");
  free(k);
  if (!o.key_id) return;
  struct sctp_authkeyid id = {.scact_assoc_id = SCTP_FUTURE_ASSOC, .scact_keynumber = (uint16_t)o.key_id};
  set(s, SCTP_AUTH_ACTIVE_KEY, &id, sizeof id, "SCTP_AUTH_ACTIVE_KEY");
  id.scact_keynumber = 0; /* the empty key that every endpoint begins with */
  set(s, SCTP_AUTH_DELETE_KEY, &id, sizeof id, "SCTP_AUTH_DELETE_KEY");
}

static void tell_events(struct socket *s) {
  static const uint16_t types[] = {SCTP_ASSOC_CHANGE, SCTP_PEER_ADDR_CHANGE, SCTP_STREAM_RESET_EVENT, SCTP_SEND_FAILED_EVENT};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    struct sctp_event event = {.se_assoc_id = SCTP_ALL_ASSOC, .se_type = types[i], .se_on = 1};
    set(s, SCTP_EVENT, &event, sizeof event, "SCTP_EVENT");
  }
}

static struct socket *prepare(void) {
  const int on = 1, level = 2;
  struct sctp_initmsg init = {.sinit_num_ostreams = 65535, .sinit_max_instreams = 65535};
  struct sctp_assoc_value value = {.assoc_id = SCTP_FUTURE_ASSOC, .assoc_value = SCTP_ENABLE_RESET_STREAM_REQ | SCTP_ENABLE_CHANGE_ASSOC_REQ};
  usrsctp_init((uint16_t)o.udp, NULL, say);
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
  set(s, SCTP_INITMSG, &init, sizeof init, "SCTP_INITMSG");
  set(s, SCTP_RECVRCVINFO, &on, sizeof on, "SCTP_RECVRCVINFO");
  set(s, SCTP_NODELAY, &on, sizeof on, "SCTP_NODELAY");
  set(s, SCTP_ENABLE_STREAM_RESET, &value, sizeof value, "SCTP_ENABLE_STREAM_RESET");
  if (o.idata) {
    set(s, SCTP_FRAGMENT_INTERLEAVE, &level, sizeof level, "SCTP_FRAGMENT_INTERLEAVE");
    value.assoc_value = 1;
    set(s, SCTP_INTERLEAVING_SUPPORTED, &value, sizeof value, "SCTP_INTERLEAVING_SUPPORTED");
  }
  if (o.remote_udp) {
    struct sctp_udpencaps encapsulation = {.sue_assoc_id = SCTP_FUTURE_ASSOC, .sue_port = htons((uint16_t)o.remote_udp)};
    encapsulation.sue_address.ss_family = AF_UNSPEC;
    set(s, SCTP_REMOTE_UDP_ENCAPS_PORT, &encapsulation, sizeof encapsulation, "SCTP_REMOTE_UDP_ENCAPS_PORT");
  }
  if (o.key) authenticate(s);
  if (o.authenticate) {
    struct sctp_authchunk chunk = {.sauth_chunk = SCTP_DATA};
    set(s, SCTP_AUTH_CHUNK, &chunk, sizeof chunk, "SCTP_AUTH_CHUNK");
  }
  tell_events(s);
  char *list = strdup(o.local), *rest = list, *each = strsep(&rest, ",");
  struct sockaddr_in own = address(each, o.port);
  if (usrsctp_bind(s, (struct sockaddr *)&own, sizeof own)) die("bind");
  while ((each = strsep(&rest, ","))) {
    own = address(each, o.port);
    if (usrsctp_bindx(s, (struct sockaddr *)&own, 1, SCTP_BINDX_ADD_ADDR)) die(each);
  }
  free(list);
  return s;
}

static void read_sizes(void) {
  sizes = calloc(MOST_SIZES, sizeof *sizes);
  for (int round = 0; round < o.rounds; round++)
    for (const char *at = o.sizes; at && count < MOST_SIZES; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) sizes[count++] = atoi(at);
}

int main(int argc, char **argv) {
  const int on = 1;
  int status;
  pthread_t reader;
  errno = EINVAL;
  if (argc < 2) die("echo, sink, client or source?");
  read_options(argc, argv);
  alarm(90); /* longer than any test waits: it outlives none */
  setvbuf(stdout, NULL, _IOLBF, 0);
  live = prepare();
  struct socket *listening = NULL;
  if (!strcmp(argv[1], "echo") || !strcmp(argv[1], "sink")) {
    listening = live;
    if (usrsctp_listen(listening, 1)) die("listen");
    puts("listening");
    live = usrsctp_accept(listening, NULL, NULL);
    if (!live) die("accept");
    set(live, SCTP_RECVRCVINFO, &on, sizeof on, "SCTP_RECVRCVINFO");
    tell_events(live);
  } else {
    struct sockaddr_in there = address(o.remote, o.remote_port);
    read_sizes();
    if (usrsctp_connect(live, (struct sockaddr *)&there, sizeof there)) die("connect");
  }
  puts("connected");
  if (pthread_create(&reader, NULL, commands, NULL)) die("thread");
  if (listening) status = take(live, !strcmp(argv[1], "echo"));
  else status = !strcmp(argv[1], "client") ? client(live) : source(live);
  usrsctp_close(live);
  if (listening) usrsctp_close(listening);
  for (int i = 0; i < 50 && usrsctp_finish(); i++) usleep(100000);
  return status;
}
