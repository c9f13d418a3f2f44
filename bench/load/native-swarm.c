/*
 * The load generator in C, for latencies at rates at which swarm.ts is late: it allocates nothing per message, has no
 * garbage collector, and sends what is due before it reads. It knows no protocol: native-swarm.ts writes the bytes to
 * send and the meaning of lines on its stdin, and reads figures from its stdout.
 *
 * An open loop sends on time whether or not earlier messages have arrived, and a latency counts from the time at which
 * a message was due (no coordinated omission) until the kernel received its bytes (SO_TIMESTAMPNS, socket(7)). So the
 * time that this program needs to read thousands of sockets does not count. Of several segments that are read together,
 * the kernel returns the time of the last.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <regex.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include "native-parts.h"

enum { STEPS_MAX = 4, EVENTS_MAX = 64, READ_BYTES = 256 << 10, SOURCE_ADDRESSES = 16 };
/* Messages of an open loop that are sent before the next socket is read, also when many are late. */
enum { DUE_SENDS_MAX = 2 };
/* A resumable session acknowledges after this many bytes, and each second. */
enum { ACK_BYTES = 64 << 10 };
enum { BROADCASTS_IN_FLIGHT_MAX = 1 << 12 };
/* Positions of digits in a payload, see payload.ts; and kinds of lines without one, see protocol-adapter.ts. */
enum { SENDER = 1, SEQUENCE = 4, STAMP = 9, RUN = 14, MESSAGE_MARK = '~', BROADCAST_MARK = '|' };
enum { REPLY = '1', CLOSER = '2' };
static const uint32_t STAMP_MASK = (1u << 30) - 1;
enum { LOGIN_TIMEOUT_S = 30, DRAIN_TIMEOUT_S = 20 };

struct client {
  int descriptor, port, resumable, dirty;
  /* The step of the login that is not complete; `steps` after the login. */
  int step;
  struct text sends[STEPS_MAX], message, broadcast;
  uint32_t messages_sent, broadcasts_sent;
  /* Requests without a reply; and when the `alive` without a reply was due, 0 when there is none. */
  int64_t unanswered, alive_due;
  /* The message whose reply is timed, one after another: its due time, and replies until then; 0 when there is none. */
  int64_t timed_due, timed_left;
  /* Messages that may be sent, and wait until there are `messages_at_once`. */
  int64_t owed;
  size_t received, acked;
  struct buffer in, out;
};

/* The input in this order: see WorkloadSpec and ProtocolAdapter. `gap` is the time between two messages in ns. */
static struct text host, alive, kinds;
static int64_t window, messages_at_once, gap, warmup_ms, measure_ms, run, payload_bytes, payload_end, logins_at_once;
static int64_t has_messages, has_alives, alive_each, broadcasters, broadcast_each, has_replies, broadcasters_receive;
static int64_t sleeps, senders, clients_count, steps;
static regex_t expected[STEPS_MAX];
static struct client *clients;

static struct histogram latency, last, lateness, reply;
static long long accepted, delivered, lost, twice, disordered, sent;
/* By stream (from one sender to one receiver): the next number that is expected. */
static uint32_t *next_sequence;
/* By broadcaster and sequence number: receivers that the broadcast has not reached. */
static uint32_t *receivers_left;
static struct client **dirty;
static uint32_t dirty_count, logins_begun, logins_done, next_sender, next_broadcaster;
/* When the next message of an open loop is due: never before all clients are logged in. */
static int64_t due = INT64_MAX;
static int poll_descriptor, is_working;
static char chunk[READ_BYTES];

static void flush(struct client *client) {
  struct buffer *out = &client->out;
  client->dirty = 0;
  if (out->start == out->end) return;
  ssize_t count = send(client->descriptor, out->bytes + out->start, out->end - out->start, MSG_NOSIGNAL);
  if (count > 0) out->start += (size_t)count;
  if (out->start == out->end) out->start = out->end = 0;
}

/* Flushes the dirty clients from dirty[first] on. */
static void flush_from(uint32_t first) {
  for (uint32_t i = first; i < dirty_count; i++) flush(dirty[i]);
  dirty_count = first;
}

static void send_later(struct client *client, struct text text) {
  append(&client->out, text.bytes, text.count);
  if (client->dirty) return;
  client->dirty = 1;
  dirty[dirty_count++] = client;
}

static void request(struct client *client, struct text text) {
  client->unanswered++;
  send_later(client, text);
}

static void send_stamped(struct client *client, struct text text, uint32_t sequence, int64_t at) {
  char *payload = text.bytes + text.count - 1 - payload_end - payload_bytes;
  write_digits(payload + SEQUENCE, 5, sequence);
  write_digits(payload + STAMP, 5, (uint32_t)(at / 100));
  request(client, text);
  sent++;
  if (client->timed_left > 0) return;
  client->timed_left = client->unanswered;
  client->timed_due = at;
}

static uint32_t *receivers_of(uint32_t broadcaster, uint32_t sequence) {
  return &receivers_left[broadcaster * BROADCASTS_IN_FLIGHT_MAX + sequence % BROADCASTS_IN_FLIGHT_MAX];
}

static void send_broadcast(uint32_t index, int64_t at) {
  struct client *client = &clients[index];
  *receivers_of(index, client->broadcasts_sent) =
      (uint32_t)(clients_count - (broadcasters_receive ? 1 : broadcasters));
  send_stamped(client, client->broadcast, client->broadcasts_sent++, at);
}

static void send_message(uint32_t index, int64_t at) {
  static uint64_t count;
  struct client *client = &clients[index];
  send_stamped(client, client->message, client->messages_sent++, at);
  if (alive_each > 0 && client->messages_sent % alive_each == 0) request(client, alive);
  if (broadcast_each > 0 && ++count % broadcast_each == 0) send_broadcast(next_broadcaster++ % broadcasters, at);
}

/* Open loop: sends all messages that are due. A late one still has the stamp of its due time. */
static void send_due(void) {
  int64_t now = clock_now();
  for (int i = 0; i < DUE_SENDS_MAX && gap > 0 && due <= now; i++, due += gap, now = clock_now()) {
    uint32_t first = dirty_count;
    is_working = 1;
    record(&lateness, now - due);
    if (has_alives) {
      struct client *client = &clients[next_sender++ % clients_count];
      client->alive_due = due;
      request(client, alive);
    } else if (has_messages) send_message(next_sender++ % senders, due);
    else send_broadcast(next_sender++ % broadcasters, due);
    flush_from(first);
  }
}

/* Counts a number of a stream: each must arrive once and in order. An old number is late while any is missing. */
static void count_sequence(uint32_t stream, uint32_t sequence) {
  uint32_t next = next_sequence[stream];
  if (sequence >= next) {
    lost += sequence - next;
    next_sequence[stream] = sequence + 1;
  } else if (lost > 0) {
    lost--;
    disordered++;
  } else twice++;
}

static void payload_received(struct client *client, const char *payload, int64_t arrived, int64_t now) {
  uint32_t index = (uint32_t)(client - clients), sender = read_digits(payload + SENDER, 3);
  uint32_t sequence = read_digits(payload + SEQUENCE, 5);
  /* Mail of an earlier run. */
  if (read_digits(payload + RUN, 3) != run) return;
  int64_t age = 100 * (int64_t)(((uint32_t)(arrived / 100) - read_digits(payload + STAMP, 5)) & STAMP_MASK);
  delivered++;
  /* With messages, broadcasts are timed until their last receiver only. */
  if (*payload == MESSAGE_MARK || !has_messages) record(&latency, age);
  if (*payload == MESSAGE_MARK) {
    if (sender != (index ^ 1)) die("a message arrived at the wrong client", payload);
    count_sequence(index, sequence);
    accepted++;
    if (window > 0 && ++clients[sender].owed == messages_at_once)
      for (; clients[sender].owed > 0; clients[sender].owed--) send_message(sender, now);
  } else {
    if (sender >= broadcasters) die("a broadcast arrived that was not sent", payload);
    count_sequence((uint32_t)(clients_count + index * broadcasters + sender), sequence);
    if (--*receivers_of(sender, sequence) > 0) return;
    accepted++;
    record(&last, age);
    if (window > 0 && broadcast_each == 0) send_broadcast(sender, now);
  }
}

static void reply_received(struct client *client, int64_t arrived) {
  client->unanswered--;
  if (client->timed_left > 0 && --client->timed_left == 0) record(&reply, arrived - client->timed_due);
  if (client->alive_due == 0) return;
  record(&latency, arrived - client->alive_due);
  client->alive_due = 0;
  accepted++;
}

/* A line of the login, or one of kind `closer`. Its LF or CR LF is replaced. */
static void other_line(struct client *client, char *line, size_t count, int64_t arrived) {
  if (count > 0 && line[count - 1] == '\r') count--;
  line[count] = 0;
  if (strncmp(line, "PING", 4) == 0) {
    char answer[128];
    int bytes = snprintf(answer, sizeof answer, "PONG%.100s\r\n", line + 4);
    send_later(client, (struct text){answer, (size_t)bytes});
  } else if (client->step == steps) {
    if (strcmp(line, "PONG") != 0) die("unexpected line of the server", line);
    reply_received(client, arrived);
  } else if (regexec(&expected[client->step], line, 0, NULL, 0) == 0) {
    if (++client->step < steps) send_later(client, client->sends[client->step]);
    else logins_done++;
  } else if (strncmp(line, "err ", 4) == 0 || *line == '-') die("the server refused the login", line);
}

static void line_received(struct client *client, char *line, size_t count, int64_t arrived, int64_t now) {
  if (client->step < steps) return other_line(client, line, count, arrived);
  /* The stream begins after the reply to the login. */
  client->received += count + 1;
  const char *payload = line + count - payload_end - payload_bytes;
  if (payload >= line && (*payload == MESSAGE_MARK || *payload == BROADCAST_MARK))
    return payload_received(client, payload, arrived, now);
  char kind = kinds.bytes[(unsigned char)*line];
  if (kind == REPLY) reply_received(client, arrived);
  else if (kind == CLOSER) other_line(client, line, count, arrived);
}

static void send_ack(struct client *client) {
  char line[32];
  if (!client->resumable || client->received == client->acked) return;
  client->acked = client->received;
  request(client, (struct text){line, (size_t)snprintf(line, sizeof line, "alive %zu\n", client->received)});
}

/* Reads a socket until it is empty. */
static void receive(struct client *client) {
  char control[CMSG_SPACE(sizeof(struct timespec))];
  for (ssize_t count = sizeof chunk; count == sizeof chunk;) {
    struct iovec place = {chunk, sizeof chunk};
    struct msghdr header = {
        .msg_iov = &place, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    count = recvmsg(client->descriptor, &header, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) die("the server closed a connection", count < 0 ? strerror(errno) : "end of stream");
    /* A pause between the two clocks makes a latency longer, never shorter. */
    int64_t age = age_of(&header), now = clock_now(), arrived = now - age;
    char *at = chunk, *end = chunk + count, *lf;
    struct buffer *in = &client->in;
    if (in->end > 0 && (lf = memchr(at, '\n', (size_t)(end - at))) != NULL) {
      append(in, at, (size_t)(lf + 1 - at));
      line_received(client, in->bytes, in->end - 1, arrived, now);
      in->end = 0;
      at = lf + 1;
    }
    for (; (lf = memchr(at, '\n', (size_t)(end - at))) != NULL; at = lf + 1)
      line_received(client, at, (size_t)(lf - at), arrived, now);
    if (at < end) append(in, at, (size_t)(end - at));
    if (client->received - client->acked >= ACK_BYTES) send_ack(client);
  }
}

/* Begins to connect. The first step of the login is sent when the connection is there. */
static void connect_to(struct address *server, struct client *client) {
  int one = 1, descriptor = socket(server->bytes.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (descriptor < 0) die_of("socket");
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
  if (strncmp(host.bytes, "127.", 4) == 0) {
    /* A closed port is reserved for a minute (TIME_WAIT), so one source address may run out of ports. */
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000002u + (uint32_t)(client - clients) % SOURCE_ADDRESSES);
    setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(descriptor, (struct sockaddr *)&source, sizeof source) < 0) die_of("bind");
  }
  if (connect(descriptor, at_port(server, client->port), server->count) < 0 && errno != EINPROGRESS) die_of("connect");
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = client};
  if (epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, descriptor, &event) < 0) die_of("epoll_ctl");
  client->descriptor = descriptor;
  append(&client->out, client->sends[0].bytes, client->sends[0].count);
}

/* Sends what is due, reads sockets that are ready, and sends what follows from that. Sleeps until `end` at most. */
static void run_round(int64_t end) {
  struct epoll_event events[EVENTS_MAX];
  send_due();
  struct timespec pause = sleeps ? time_until(gap > 0 && due < end ? due : end) : (struct timespec){0, 0};
  int ready = epoll_pwait2(poll_descriptor, events, EVENTS_MAX, &pause, NULL);
  for (int i = 0; i < ready; i++) {
    struct client *client = events[i].data.ptr;
    is_working = 1;
    if (events[i].events & EPOLLOUT && !client->dirty) flush(client);
    if (events[i].events & ~(uint32_t)EPOLLOUT) receive(client);
    send_due();
  }
  flush_from(0);
}

/* Runs rounds until `end`. Returns the time in which there was something to do, in ns. */
static int64_t run_until(int64_t end) {
  static uint32_t next_ack;
  int64_t now = clock_now(), acks_at = now, ack_gap = SECOND / clients_count, busy = 0;
  for (int64_t before = now; now < end; before = now) {
    is_working = 0;
    run_round(acks_at < end ? acks_at : end);
    now = clock_now();
    if (is_working) busy += now - before;
    /* One client after another, so that they do not all acknowledge at once. At the end nothing more is asked. */
    for (; acks_at <= now; acks_at += ack_gap)
      if (window + gap > 0) send_ack(&clients[next_ack++ % clients_count]);
  }
  return busy;
}

static void read_input(void) {
  host = text(), alive = text(), kinds = text();
  int64_t *numbers[] = {&window, &messages_at_once, &gap, &warmup_ms, &measure_ms, &run, &payload_bytes, &payload_end,
      &logins_at_once, &has_messages, &has_alives, &alive_each, &broadcasters, &broadcast_each, &has_replies,
      &broadcasters_receive, &sleeps, &senders, &clients_count, &steps};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) *numbers[i] = number();
  for (int i = 0; i < steps; i++) {
    struct text pattern = text();
    if (i >= STEPS_MAX || regcomp(&expected[i], pattern.bytes, REG_EXTENDED | REG_NOSUB) != 0)
      die("invalid pattern", pattern.bytes);
  }
  /* One more than needed: the last client may have no partner. */
  clients = allocated(clients_count + 1, sizeof *clients);
  dirty = allocated(clients_count, sizeof *dirty);
  next_sequence = allocated(clients_count * (1 + broadcasters), sizeof *next_sequence);
  receivers_left = allocated(broadcasters * BROADCASTS_IN_FLIGHT_MAX, sizeof *receivers_left);
  for (struct client *client = clients; client < clients + clients_count; client++) {
    client->port = (int)number(), client->resumable = (int)number();
    client->message = text(), client->broadcast = text();
    for (int i = 0; i < steps; i++) client->sends[i] = text();
  }
}

static void log_in(void) {
  struct address server = address_of(host.bytes);
  int64_t reported = clock_now(), progress = reported, now = reported;
  for (uint32_t before = 0; logins_done < clients_count; before = logins_done, now = clock_now()) {
    while (logins_begun < clients_count && logins_begun - logins_done < logins_at_once)
      connect_to(&server, &clients[logins_begun++]);
    run_round(now + 10 * MS);
    if (logins_done > before) progress = now;
    if (now - progress > LOGIN_TIMEOUT_S * SECOND) die("the server does not reply", "a login took longer than 30 s");
    if (now - reported < SECOND) continue;
    reported = now;
    printf("online %u\n", logins_done);
  }
}

/* Closed loop: sends the first messages. Each delivery sends the next one. */
static void fill_window(void) {
  for (int i = 0; i < window; i++) {
    for (uint32_t each = 0; has_messages && each < senders; each++) send_message(each, due);
    for (uint32_t each = 0; broadcast_each == 0 && each < broadcasters; each++) send_broadcast(each, due);
  }
}

static int64_t measure(void) {
  const char *names[] = {"latency", "last", "lateness", "reply"};
  struct histogram *histograms[] = {&latency, &last, &lateness, &reply};
  for (int i = 0; i < 4; i++) memset(histograms[i], 0, sizeof latency);
  int64_t busy = 0, now = clock_now(), end = now + measure_ms * MS, used = time_of(CLOCK_PROCESS_CPUTIME_ID);
  printf("measuring %lld %lld %lld\n", (long long)now / 1000, accepted, delivered);
  while (now < end) {
    busy += run_until(end - now < SECOND ? end : now + SECOND);
    now = clock_now();
    printf("second %lld %lld %lld\n", (long long)now / 1000, accepted, delivered);
  }
  used = time_of(CLOCK_PROCESS_CPUTIME_ID) - used;
  for (int i = 0; i < 4; i++) print_histogram(names[i], histograms[i]);
  return sleeps ? used : busy;
}

static int64_t missing_messages(void) {
  int64_t count = 0;
  for (uint32_t index = 0; index < clients_count; index++) {
    count += clients[index ^ 1].messages_sent - next_sequence[index];
    for (uint32_t b = 0; b < broadcasters; b++)
      if (b != index && (broadcasters_receive || index >= broadcasters))
        count += clients[b].broadcasts_sent - next_sequence[clients_count + index * broadcasters + b];
  }
  return count;
}

static int64_t missing_replies(void) {
  int64_t count = 0;
  for (uint32_t i = 0; has_replies && i < clients_count; i++) count += clients[i].unanswered;
  return count;
}

int main(void) {
  static char output[1 << 16];
  setvbuf(stdout, output, _IOLBF, sizeof output);
  read_input();
  /* Otherwise a sleep may last 50 us longer (prctl(2)). */
  prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  poll_descriptor = epoll_create1(0);
  log_in();
  due = clock_now();
  fill_window();
  printf("warming up\n");
  run_until(due + warmup_ms * MS);
  int64_t busy = measure();
  window = gap = 0;
  for (int64_t i = 0; i < DRAIN_TIMEOUT_S * 50 && (missing_messages() != 0 || missing_replies() != 0); i++)
    run_until(clock_now() + 20 * MS);
  lost += missing_messages();
  printf("end %lld %lld %lld %lld %lld %lld\n", sent, lost, twice, disordered, (long long)missing_replies(),
      (long long)busy);
  return 0;
}
