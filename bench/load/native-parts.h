/*
 * Parts of native-swarm.c that know nothing of clients and runs: errors, addresses, clocks, the format of the input,
 * buffers, histograms, and the digits of payloads.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static const int64_t SECOND = 1000000000, MS = 1000000;

struct text {
  char *bytes;
  size_t count;
};

struct buffer {
  char *bytes;
  size_t start, end, room;
};

struct address {
  struct sockaddr_storage bytes;
  socklen_t count;
};

/* Log-linear buckets of tenths of a microsecond, as in histogram.ts. */
struct histogram {
  uint32_t counts[128 * 26], max;
};

/* A run that fails has no figures. */
static void die(const char *what, const char *why) {
  fprintf(stderr, "%s: %.200s\n", what, why);
  exit(1);
}

/* Of a call that sets errno. */
static void die_of(const char *call) {
  die(call, strerror(errno));
}

/* Of a host, without a port. */
static struct address address_of(const char *host) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  int error = getaddrinfo(host, NULL, &hints, &found);
  if (error != 0) die(host, gai_strerror(error));
  struct address address = {.count = found->ai_addrlen};
  memcpy(&address.bytes, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return address;
}

/* IPv6 has the port in the same place. */
static struct sockaddr *at_port(struct address *address, int port) {
  ((struct sockaddr_in *)&address->bytes)->sin_port = htons((uint16_t)port);
  return (struct sockaddr *)&address->bytes;
}

static int64_t ns_of(struct timespec time) {
  return time.tv_sec * SECOND + time.tv_nsec;
}

static int64_t time_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return ns_of(now);
}

static int64_t clock_now(void) {
  return time_of(CLOCK_MONOTONIC);
}

static struct timespec time_until(int64_t end) {
  int64_t left = end - clock_now();
  return left > 0 ? (struct timespec){left / SECOND, left % SECOND} : (struct timespec){0, 0};
}

/* How long ago the kernel received what was read; 0 when it did not say so, or its clock was set since then. */
static int64_t age_of(struct msghdr *header) {
  struct cmsghdr *message = CMSG_FIRSTHDR(header);
  if (message == NULL || message->cmsg_type != SCM_TIMESTAMPNS) return 0;
  struct timespec stamp;
  memcpy(&stamp, CMSG_DATA(message), sizeof stamp);
  int64_t age = time_of(CLOCK_REALTIME) - ns_of(stamp);
  return age < 0 || age > SECOND ? 0 : age;
}

static void *allocated(size_t count, size_t bytes) {
  void *memory = calloc(count, bytes);
  if (memory == NULL && count > 0) die_of("calloc");
  return memory;
}

static int64_t number(void) {
  long long value;
  if (scanf("%lld", &value) != 1) die("invalid input", "a number is missing");
  return value;
}

/* Text of the input: <number of bytes>:<bytes> */
static struct text text(void) {
  struct text text = {.count = (size_t)number()};
  text.bytes = allocated(text.count + 1, 1);
  if (getchar() != ':' || fread(text.bytes, 1, text.count, stdin) != text.count) die("invalid input", "it ends early");
  return text;
}

static void record(struct histogram *histogram, int64_t ns) {
  uint32_t value = ns < 0 ? 0 : ns / 100 > INT32_MAX ? INT32_MAX : (uint32_t)(ns / 100);
  int shift = value < 256 ? 0 : 24 - __builtin_clz(value);
  histogram->counts[128 * shift + (int)(value >> shift)]++;
  if (value > histogram->max) histogram->max = value;
}

static void print_histogram(const char *name, const struct histogram *histogram) {
  printf("%s %u", name, histogram->max);
  for (int i = 0; i < 128 * 26; i++)
    if (histogram->counts[i] > 0) printf(" %d:%u", i, histogram->counts[i]);
  printf("\n");
}

static void write_digits(char *at, int count, uint32_t value) {
  for (int i = count - 1; i >= 0; i--, value >>= 6) at[i] = (char)('0' + (value & 63));
}

static uint32_t read_digits(const char *at, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; i++) value = value << 6 | (((unsigned char)at[i] - '0') & 63);
  return value;
}

static void append(struct buffer *buffer, const char *bytes, size_t count) {
  if (buffer->end + count > buffer->room) {
    size_t used = buffer->end - buffer->start;
    if (used > 0) memmove(buffer->bytes, buffer->bytes + buffer->start, used);
    buffer->start = 0;
    buffer->end = used;
    while (used + count > buffer->room) buffer->room = buffer->room == 0 ? 1024 : buffer->room * 2;
    buffer->bytes = realloc(buffer->bytes, buffer->room);
    if (buffer->bytes == NULL) die_of("realloc");
  }
  memcpy(buffer->bytes + buffer->end, bytes, count);
  buffer->end += count;
}
