/*
 * The minimum of a chat server, as a reference: one thread, epoll, lines in, lines out, each dirty socket written once
 * per round. It stores nothing, checks nothing, and knows only the requests of the load generator:
 *
 *   login <user> <password>   ok <token> 35
 *   message <user> <text>     ok sent; to that user: message <from> <text>
 *   broadcast <text>          ok <number>; to every other user: broadcast <from> <text>
 *   anything else             ok
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 65536, SLOTS = 1 << 17, EVENTS_MAX = 1024, READ_BYTES = 512 << 10, NAME_BYTES_MAX = 32 };

struct buffer {
  char *bytes;
  size_t start, end, room;
};

struct client {
  int descriptor;
  char name[NAME_BYTES_MAX];
  size_t name_bytes;
  struct buffer in, out;
  /* In the list of dirty clients; the socket is full, so EPOLLOUT is watched. */
  int dirty, full;
  /* Index in `online`, from 1; 0 before the login. */
  size_t online_index;
};

static struct client *clients[DESCRIPTORS_MAX];
static struct client *slots[SLOTS];
static struct client *dirty[DESCRIPTORS_MAX];
static size_t dirty_count;
/* Clients that have logged in. */
static struct client *online[DESCRIPTORS_MAX];
static size_t online_count;
static char chunk[READ_BYTES];
static int poll_descriptor;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void append(struct buffer *buffer, const char *bytes, size_t count) {
  if (buffer->end + count > buffer->room) {
    size_t used = buffer->end - buffer->start;
    if (buffer->start > 0) memmove(buffer->bytes, buffer->bytes + buffer->start, used);
    buffer->start = 0;
    buffer->end = used;
    while (used + count > buffer->room) buffer->room = buffer->room == 0 ? 4096 : buffer->room * 2;
    buffer->bytes = realloc(buffer->bytes, buffer->room);
    if (buffer->bytes == NULL) die("realloc");
  }
  memcpy(buffer->bytes + buffer->end, bytes, count);
  buffer->end += count;
}

static void send_to(struct client *client, const char *bytes, size_t count) {
  append(&client->out, bytes, count);
  if (client->dirty) return;
  client->dirty = 1;
  dirty[dirty_count++] = client;
}

static size_t slot_of(const char *name, size_t count) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < count; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
  size_t at = hash % SLOTS;
  while (slots[at] != NULL && (slots[at]->name_bytes != count || memcmp(slots[at]->name, name, count) != 0))
    at = (at + 1) % SLOTS;
  return at;
}

static void handle_line(struct client *client, const char *line, size_t count) {
  if (count > 8 && memcmp(line, "message ", 8) == 0) {
    const char *name = line + 8;
    const char *space = memchr(name, ' ', count - 8);
    struct client *to = space == NULL ? NULL : slots[slot_of(name, (size_t)(space - name))];
    if (to == NULL) return send_to(client, "err unknown_user\n", 17);
    send_to(to, "message ", 8);
    send_to(to, client->name, client->name_bytes);
    send_to(to, space, (size_t)(line + count - space));
    send_to(to, "\n", 1);
    send_to(client, "ok sent\n", 8);
  } else if (count > 10 && memcmp(line, "broadcast ", 10) == 0) {
    char frame[4096 + NAME_BYTES_MAX + 1], reply[32];
    size_t bytes = 10 + client->name_bytes + count - 9 + 1;
    if (client->online_index == 0 || bytes > sizeof frame) return send_to(client, "err bad_request\n", 16);
    memcpy(frame, line, 10);
    memcpy(frame + 10, client->name, client->name_bytes);
    memcpy(frame + 10 + client->name_bytes, line + 9, count - 9);
    frame[bytes - 1] = '\n';
    for (size_t i = 0; i < online_count; i++)
      if (online[i] != client) send_to(online[i], frame, bytes);
    send_to(client, reply, (size_t)snprintf(reply, sizeof reply, "ok %zu\n", online_count - 1));
  } else if (count > 6 && memcmp(line, "login ", 6) == 0) {
    const char *space = memchr(line + 6, ' ', count - 6);
    size_t bytes = space == NULL ? 0 : (size_t)(space - line - 6);
    if (bytes == 0 || bytes > NAME_BYTES_MAX) return send_to(client, "err bad_request\n", 16);
    memcpy(client->name, line + 6, bytes);
    client->name_bytes = bytes;
    slots[slot_of(client->name, bytes)] = client;
    online[online_count++] = client;
    client->online_index = online_count;
    send_to(client, "ok AAAAAAAAAAAAAAAAAAAAAA 35\n", 29);
  } else
    send_to(client, "ok\n", 3);
}

static void disconnect(struct client *client) {
  close(client->descriptor);
  clients[client->descriptor] = NULL;
  if (client->online_index > 0) {
    struct client *last = online[--online_count];
    online[client->online_index - 1] = last;
    last->online_index = client->online_index;
    client->online_index = 0;
  }
  /* The name stays in the table, so the client is not freed. A run is short. */
  client->descriptor = -1;
  client->out.start = client->out.end = 0;
}

static void receive(struct client *client) {
  ssize_t count = recv(client->descriptor, chunk, sizeof chunk, 0);
  if (count <= 0) {
    if (count == 0 || (errno != EAGAIN && errno != EINTR)) disconnect(client);
    return;
  }
  const char *at = chunk, *end = chunk + count;
  struct buffer *in = &client->in;
  if (in->end > in->start) {
    const char *lf = memchr(at, '\n', (size_t)(end - at));
    if (lf == NULL) return append(in, at, (size_t)(end - at));
    append(in, at, (size_t)(lf - at));
    handle_line(client, in->bytes + in->start, in->end - in->start);
    in->start = in->end = 0;
    at = lf + 1;
  }
  for (const char *lf; (lf = memchr(at, '\n', (size_t)(end - at))) != NULL; at = lf + 1)
    handle_line(client, at, (size_t)(lf - at));
  if (at < end) append(in, at, (size_t)(end - at));
}

static void watch(struct client *client, int operation, int full) {
  struct epoll_event event = {.events = EPOLLIN | (full ? EPOLLOUT : 0), .data.ptr = client};
  if (epoll_ctl(poll_descriptor, operation, client->descriptor, &event) < 0) die("epoll_ctl");
  client->full = full;
}

static void flush(struct client *client) {
  struct buffer *out = &client->out;
  if (client->descriptor < 0 || out->start == out->end) return;
  ssize_t count = send(client->descriptor, out->bytes + out->start, out->end - out->start, MSG_NOSIGNAL);
  if (count < 0 && errno != EAGAIN) return disconnect(client);
  if (count > 0) out->start += (size_t)count;
  if (out->start == out->end) out->start = out->end = 0;
  int full = out->end > 0;
  if (full != client->full) watch(client, EPOLL_CTL_MOD, full);
}

static void accept_connections(int listener) {
  int descriptor;
  while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    if (descriptor >= DESCRIPTORS_MAX) die("too many connections");
    int one = 1;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct client *client = calloc(1, sizeof *client);
    if (client == NULL) die("calloc");
    client->descriptor = descriptor;
    clients[descriptor] = client;
    watch(client, EPOLL_CTL_ADD, 0);
  }
}

int main(int count, char **arguments) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t bytes = sizeof address;
  address.sin_port = htons((uint16_t)(count > 1 ? atoi(arguments[1]) : 0));
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, bytes) < 0) die("bind");
  if (listen(listener, 4096) < 0) die("listen");
  getsockname(listener, (struct sockaddr *)&address, &bytes);
  poll_descriptor = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS_MAX];
  if (epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll_ctl");
  printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    int ready = epoll_wait(poll_descriptor, events, EVENTS_MAX, -1);
    for (int i = 0; i < ready; i++) {
      struct client *client = events[i].data.ptr;
      if (client == NULL) accept_connections(listener);
      else if (client->descriptor >= 0) {
        if (events[i].events & EPOLLOUT) send_to(client, "", 0);
        if (events[i].events & ~(uint32_t)EPOLLOUT) receive(client);
      }
    }
    for (size_t i = 0; i < dirty_count; i++) {
      dirty[i]->dirty = 0;
      flush(dirty[i]);
    }
    dirty_count = 0;
  }
}
