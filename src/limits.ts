/**
 * Every limit, and what happens when it is reached: first those that an operator may choose, with their defaults
 * (server/options.ts has the options), then the fixed ones. Units come last in a name.
 */

/** What an operator may choose. Where 0 is allowed, it means no limit. */
export interface Limits {
  /** Open connections. For one more, the oldest without a session is closed. 0: as many as descriptors allow. */
  connectionsMax: number;
  /** Open connections of one source address, and new ones per second. One more is closed at once. */
  connectionsPerAddressMax: number;
  connectionsPerSecondMax: number;
  /** A connection without a session is closed after this time, whatever it sends. */
  loginMs: number;
  /** Failed logins per minute and source address, for any users; then every login from there is `busy`. */
  failedLoginsPerMinuteMax: number;
  /** Whether the limits per address apply to this machine too. */
  limitsLoopback: boolean;
  /** Requests per second of a user, or of an address for connections without a session. More are read later. */
  requestsPerSecondMax: number;
  /** This number of consecutive invalid lines leads to `goodbye flood`. */
  badLinesMax: number;
  /** Bytes of a request line, LF included. A longer one is `line_too_long`. */
  lineBytesMax: number;
  /** Bytes that a session's client has not acknowledged. Above it the session ends as `slow`; messages are kept. */
  unackedBytesMax: number;
  /** Bytes of all sessions' streams. Above it ended sessions are dropped, then the largest end as `slow`. */
  streamsBytesMax: number;
  /** Messages that wait for one user, and bytes of their text. One more is `mailbox_full`. */
  mailboxMessagesMax: number;
  mailboxBytesMax: number;
  /** The share of one sender in both, in percent. For that sender more is `mailbox_full`. */
  mailboxSharePercent: number;
  /** Open requests and tickets for private chats of one session, as either side. One more is `busy`. */
  introductionsMax: number;
  /** Calls to clients of callback sessions at once. One more waits for the end of another one. */
  callbacksMax: number;
}

export const LIMITS_DEFAULT: Readonly<Limits> = {
  connectionsMax: 0,
  connectionsPerAddressMax: 100,
  connectionsPerSecondMax: 20,
  loginMs: 120_000,
  failedLoginsPerMinuteMax: 30,
  limitsLoopback: false,
  requestsPerSecondMax: 5000,
  badLinesMax: 1000,
  lineBytesMax: 4096,
  unackedBytesMax: 1 << 20,
  streamsBytesMax: 256 << 20,
  mailboxMessagesMax: 100_000,
  mailboxBytesMax: 64 << 20,
  mailboxSharePercent: 25,
  introductionsMax: 256,
  callbacksMax: 1000,
};

/** The range of `lineBytesMax`. A request that is passed on must fit into a server's line. */
export const LINE_BYTES_MIN: number = 64;
export const LINE_BYTES_MAX: number = 512 << 10;
/** Bytes of a server's line (a name list, a long broadcast). A client treats a longer one as a protocol error. */
export const SERVER_LINE_BYTES_MAX: number = 1 << 20;

/** Bytes of a user name. A longer one is `bad_request`. */
export const NAME_BYTES_MAX: number = 32;
/** Bytes of a configuration file. A larger file is refused. */
export const CONFIG_BYTES_MAX: number = 64 << 10;
/** Bytes of a credentials file, of a certificate or key, and of a client's authorities. A larger file is refused. */
export const CREDENTIALS_BYTES_MAX: number = 64 << 20;
export const CERTIFICATE_BYTES_MAX: number = 1 << 20;
export const AUTHORITIES_BYTES_MAX: number = 16 << 20;
/** Bytes of a new password. A login with it and all options fits into a line. */
export const PASSWORD_BYTES_MAX: number = 1024;
/**
 * The cost of a hash in the credentials file: argon2's memory, its memory times its passes, and bcrypt's cost. A line
 * with more is an error in the file, so that a typo cannot stop the server.
 */
export const HASH_KIB_MAX: number = 1 << 20;
export const HASH_WORK_KIB_MAX: number = 4 << 20;
export const BCRYPT_COST_MAX: number = 16;
/** Bytes of a password that bcrypt uses. */
export const BCRYPT_BYTES: number = 72;
/** Names in a reply to `online`. The number of the others follows as `+<n>`. */
export const ONLINE_NAMES_MAX: number = 10_000;
/** Words of a request, without its text. A request with more is `bad_request`. */
export const REQUEST_WORDS_MAX: number = 16;

/** The least value of `unackedBytesMax`. */
export const UNACKED_BYTES_MIN: number = 512 << 10;
/** A client acknowledges after at most this many bytes. */
export const ACK_BYTES_MAX: number = 64 << 10;
/**
 * Bytes of lines that a client has received and its handler or output has not taken. Above it the client stops
 * reading. While a request waits for its reply the limit is UNDELIVERED_BOUNDS times as high: the handler may wait for
 * that reply.
 */
export const UNDELIVERED_BYTES_MAX: number = 256 << 10;
export const UNDELIVERED_BOUNDS: number = 32;
/**
 * A client that acknowledged something within KEEPING_UP_MS is not slow at any rate: above `unackedBytesMax` its
 * messages go to the mailbox and are delivered as it acknowledges. All other lines may take KEEPING_UP_BOUNDS times the
 * limit.
 */
export const KEEPING_UP_BOUNDS: number = 4;
export const KEEPING_UP_MS: number = 2_000;
/** Memory of emptied streams that is kept for reuse. More is freed, and so is what was not used during POOLED_MS. */
export const POOLED_BYTES_MAX: number = 8 << 20;
export const POOLED_MS: number = 8_192;
/** The young garbage is collected when the process has grown by this much, which is checked every GARBAGE_MS. */
export const GARBAGE_BYTES_MAX: number = 16 << 20;
export const GARBAGE_MS: number = 1_024;
/** Ended sessions of a user that are remembered, at any age: messages that they delivered are not delivered again. */
export const SESSIONS_KEPT: number = 8;
/**
 * Time for each step of a call to a client: to connect, to reply `ready`, and to take the delivery. The delivery has
 * more time by its length, at a rate that any network has. A failed call is repeated after a pause, which grows between
 * these limits, with half as many bytes.
 */
export const CALLBACK_DEADLINE_MS: number = 5_000;
export const CALLBACK_BYTES_PER_SECOND_MIN: number = 2 << 10;
export const CALLBACK_PAUSE_MIN_MS: number = 250;
export const CALLBACK_PAUSE_MAX_MS: number = 8_000;
/** Bytes of one delivery. The next one has the rest. Only a longer line makes a longer delivery. */
export const CALLBACK_BYTES_MIN: number = 8 << 10;
export const CALLBACK_BYTES_MAX: number = 128 << 10;
/** Calls of one user at once: of a live session and of ended ones. For one more, the oldest ended one is given up. */
export const CALLBACKS_PER_USER_MAX: number = 32;

/**
 * Work is counted in requests: one for each, one more for each WORK_BYTES of its line, WORK_STORED more for a message
 * that is stored, WORK_FORWARDED more for a request to another shard, one more for each RECEIVERS_PER_WORK receivers of
 * a broadcast, and for each NAMES_PER_REQUEST names of a list. A connection does WORK_PER_VISIT at once. Connections
 * with more take turns, with about WORK_PER_TURN together in each turn of the event loop, so that all others wait for a
 * fraction of a millisecond.
 */
export const WORK_PER_VISIT: number = 128;
export const WORK_PER_TURN: number = 512;
export const WORK_BYTES: number = 256;
export const WORK_STORED: number = 8;
export const WORK_FORWARDED: number = 2;
/**
 * All broadcasts of a turn share one send per receiver, so a turn with few broadcasts makes each expensive: with 10 in
 * place of 1,000, four senders with 64 in flight reach a tenth of the rate (`bench:peers -- --works broadcast-4-64`).
 */
export const RECEIVERS_PER_WORK: number = 1000;
/** This many bytes of a line that is too long count as one request, since the line may have no end. */
export const SKIPPED_BYTES_PER_REQUEST: number = 256;
/** A broadcast counts as one more request for each RECEIVERS_PER_REQUEST users, since each user costs a send. */
export const RECEIVERS_PER_REQUEST: number = 10;
/** `online` counts as one more request for each NAMES_PER_REQUEST names, since the list is copied and sent. */
export const NAMES_PER_REQUEST: number = 10;
/** Bytes that the kernel has not accepted. Above it no further request of the connection is read. */
export const UNSENT_BYTES_MAX: number = 256 << 10;
/** Bytes of mailbox entries in a session's stream. The next portion follows when some of them are acknowledged. */
export const MAILBOX_PORTION_BYTES: number = 256 << 10;
/** Bytes of unfinished lines and waiting requests of all connections. Above it those that hold most are closed. */
export const INPUT_BYTES_MAX: number = 64 << 20;
/** The kernel's send buffer of a connection (SO_SNDBUF). For a plain session, what is in it counts as delivered. */
export const KERNEL_SEND_BYTES: number = 64 << 10;
/** The kernel's receive buffer (SO_RCVBUF), for a connection that is not read. The runtime reads all of it at once. */
export const KERNEL_RECEIVE_BYTES: number = 64 << 10;

/** Bytes of the broadcast log. Streams that need older ones copy them into their own outboxes, which are limited. */
export const BROADCAST_LOG_BYTES_MAX: number = 8 << 20;

/**
 * Sends of broadcasts in one turn, of some 7 µs each in the kernel. Other members are sent them in the next turns, so
 * that a broadcast to thousands of users does not hold up their messages.
 */
export const BROADCAST_SENDS_PER_TURN = 256;

/** Bytes of messages that move between sessions and mailboxes in one turn. The rest follows in the next turns. */
export const MOVED_BYTES_PER_TURN: number = 16 << 10;
/** A shorter message counts as this many bytes, since the store has a row for each. */
export const MOVED_BYTES_MIN: number = 128;
/** The share of one user in MOVED_BYTES_PER_TURN while several wait. */
export const MOVED_BYTES_SHARE: number = 4 << 10;

/** Messages that an operator's purge deletes in one turn, and sessions to which a turn sends a notice. */
export const PURGED_PER_TURN: number = 128;
export const NOTICED_PER_TURN: number = 256;
/**
 * The admin socket: connections at once, bytes of a request, and the time after which a connection without a request or
 * with a reader that takes nothing is closed. A command holds the event loop for ADMIN_SLICE_MS at most, and continues
 * when at most ADMIN_UNSENT_BYTES_MAX of its output wait for the reader.
 */
export const ADMIN_CONNECTIONS_MAX: number = 16;
export const ADMIN_LINE_BYTES_MAX: number = 8192;
export const ADMIN_IDLE_MS: number = 60_000;
export const ADMIN_SLICE_MS: number = 1;
export const ADMIN_UNSENT_BYTES_MAX: number = 64 << 10;
/** Of another shard: a reply that is silent for that long has failed, and bytes of it that wait to be passed on. */
export const ADMIN_REMOTE_MS: number = 20_000;
export const ADMIN_REMOTE_BYTES_MAX: number = 64 << 10;
/** Bytes of the path of a Unix socket: `sun_path` has 108 on Linux, with a NUL at the end (unix(7)). */
export const SOCKET_PATH_BYTES_MAX: number = 107;
/** Bytes of a notice, and of the words after `goodbye kicked`. */
export const OPERATOR_TEXT_BYTES_MAX: number = 1024;

/**
 * The shared log of a cluster. An owner gives output only when the last write that proves its ownership began within
 * OWNERSHIP_PROVEN_MS; a spare waits longer than that. Pauses between the repetitions of a write grow between these
 * limits. No request is read while an append lasts longer than APPEND_SLOW_MS, or while more than WAITING_BYTES_MAX of
 * entries wait for the end of one.
 */
export const OWNERSHIP_PROVEN_MS: number = 2_000;
export const APPEND_PAUSE_MIN_MS: number = 20;
export const APPEND_PAUSE_MAX_MS: number = 500;
export const APPEND_SLOW_MS: number = 1_000;
export const WAITING_BYTES_MAX: number = 1 << 20;

/**
 * Connections between the servers of a cluster. A server that has connected must prove within CLUSTER_HANDSHAKE_MS that
 * it belongs to the cluster; for more than CLUSTER_HANDSHAKES_MAX of these, the oldest is closed. A login waits for
 * RELAY_WAIT_MS until a server can take it, with a new attempt to connect each RELAY_RETRY_MS. At most RELAY_DIALS_MAX
 * attempts to connect to an owner are in progress, since the runtime cannot cancel them.
 */
export const CLUSTER_HANDSHAKE_MS: number = 5_000;
export const CLUSTER_HANDSHAKES_MAX: number = 256;
export const CLUSTER_LINE_BYTES_MAX: number = 256;
export const RELAY_WAIT_MS: number = 5_000;
export const RELAY_RETRY_MS: number = 250;
export const RELAY_DIALS_MAX: number = 256;
/** Bytes of a relayed reply to a login that was refused. A longer one is a fault of the owner. */
export const RELAY_REPLY_BYTES_MAX: number = 64 << 10;

/**
 * Between two shards of a cluster. A shard from which nothing was received for NEIGHBOUR_AWAY_MS is away, and requests
 * that concern its users are `busy`; so are those above FORWARDS_MAX or FORWARD_BYTES_MAX without a reply. The numbers
 * before a forwarded request take up to FORWARD_HEAD_BYTES_MAX. A shard keeps OUTCOMES_MAX replies until they are
 * answered: the other one may have begun anew. A link with more than LINK_BYTES_MAX unacknowledged ends, and so it does
 * after a line with more than LINK_LINE_BYTES_MAX: a user's line with a head before it.
 *
 * Of a session, at most REPLY_SLOTS_MAX replies wait for one of another shard; then it is not read. Its client receives
 * `waiting` each REPLY_WAITING_MS.
 */
export const NEIGHBOUR_AWAY_MS: number = 2_000;
export const FORWARDS_MAX: number = 4096;
export const FORWARD_BYTES_MAX: number = 4 << 20;
export const OUTCOMES_MAX: number = 2 * FORWARDS_MAX;
export const FORWARD_HEAD_BYTES_MAX: number = 34;
export const REPLY_SLOTS_MAX: number = 256;
export const REPLY_WAITING_MS: number = 3_000;
export const LINK_BYTES_MAX: number = 64 << 20;
export const LINK_LINE_BYTES_MAX: number = LINE_BYTES_MAX + 1024;
/** Names in a line `present`. */
export const LINK_NAMES_MAX: number = 100;

/**
 * Each side of a link shows each LINK_BEAT_MS that it is alive. A link without a line for NEIGHBOUR_AWAY_MS, or without
 * the reply to one for LINK_ANSWER_MS, ends, and is dialed again after a pause that grows between these limits. At most
 * LINK_UNANSWERED_MAX outcomes of requests, also of those that are forwarded again, wait for their answer. At most
 * LINK_DIALS_MAX attempts to connect to one owner are in progress: a network that drops packets holds each for minutes,
 * and the runtime cannot cancel them.
 */
export const LINK_BEAT_MS: number = 500;
export const LINK_ANSWER_MS: number = 10_000;
export const LINK_RETRY_MIN_MS: number = 50;
export const LINK_RETRY_MAX_MS: number = 1_000;
export const LINK_DIALS_MAX: number = 16;
export const LINK_UNANSWERED_MAX: number = 2 * OUTCOMES_MAX;

/** Bytes of a journal segment. A longer record gets a segment of its own. */
export const JOURNAL_SEGMENT_BYTES: number = 16 << 20;
/** Segments in use. What is unacknowledged in older ones moves to the mailbox, and they are used again. */
export const JOURNAL_SEGMENTS_KEPT: number = 6;
/** A takeover reads a record of the shared log, however short, in the time of this many bytes. */
export const RECORD_COST_BYTES: number = 2 << 10;
/** The same for the shared log of a cluster. A snapshot has no records of them, so a takeover reads them. */
export const SHARED_SEGMENT_BYTES: number = 4 << 20;
export const SHARED_SEGMENT_RECORDS: number = SHARED_SEGMENT_BYTES / RECORD_COST_BYTES;
export const SHARED_SEGMENTS_KEPT: number = 4;
/** Spare segments. One more is deleted. */
export const JOURNAL_SPARES_MAX: number = 2;
/** Changes of mailboxes that are collected before a commit. The journal has them too. */
export const STORE_CHANGES_MAX: number = 1024;
/** Bytes of messages in these changes. SQLite writes more than that each time, and the event loop waits for it. */
export const STORE_CHANGES_BYTES_MAX: number = 64 << 10;
/** STORE_CHANGES_HELD times as many changes wait while SQLite's log is copied, after every WAL_COMMITS_MAX commits. */
export const STORE_CHANGES_HELD: number = 4;
export const WAL_COMMITS_MAX: number = 16;
/** A backup leaves this much of its disk free: the server needs about as much when both are on one disk. */
export const BACKUP_ROOM_BYTES: number = 64 << 20;
/**
 * A backup fails when SQLite's log becomes longer than this: the log only grows while the database is copied, and above
 * 256 MiB each commit would try to copy it, and hold the event loop.
 */
export const BACKUP_WAL_BYTES_MAX: number = 192 << 20;

/** A snapshot of a shard is due when the log since the last one has more bytes than this and than the database. */
export const SNAPSHOT_LOG_BYTES_MIN: number = 64 << 20;
/** A part of a snapshot, which the event loop handles at a time. */
export const SNAPSHOT_PART_BYTES: number = 256 << 10;
/** After a snapshot that failed, the next try comes this much later. */
export const SNAPSHOT_RETRY_MS: number = 30_000;
/** The interval of attempts after the disk has refused; without a journal, of commits. */
export const STORE_RETRY_MS: number = 1024;

/** A request for a user's address is `denied` when it is not answered within this time. */
export const INTRODUCTION_MS: number = 60_000;
/** Characters of a certificate in base64. A longer one is `bad_request`. */
export const KEY_BYTES_MAX: number = 1400;

/** Bytes of a line between two clients. A longer one is skipped. */
export const PRIVATE_LINE_BYTES_MAX: number = 64 << 10;
/** Unsent bytes to another client. Above it that client counts as gone. */
export const PRIVATE_UNSENT_BYTES_MAX: number = 1 << 20;
/** Time in which a calling client must authenticate, and how many may do so. For one more, the oldest is closed. */
export const PRIVATE_AUTH_MS: number = 5_000;
export const PRIVATE_AUTHS_MAX: number = 32;

/** Time and bytes for the PROXY header of a connection. */
export const PROXY_HEADER_MS: number = 5_000;
export const PROXY_HEADER_BYTES_MAX: number = 2048;
/** Time for a TLS handshake. */
export const TLS_HANDSHAKE_MS: number = 5_000;
/** Source addresses without a connection: how long and how many are remembered. By then the limits have recovered. */
export const ADDRESSES_IDLE_MS: number = 60_000;
export const ADDRESSES_IDLE_MAX: number = 65_536;

/** Wrong passwords for one user from one address. The last of them locks the user out from there. */
export const WRONG_PASSWORDS_MAX: number = 3;
/** Pairs of user and address with wrong passwords. For one more, the one that expires first is forgotten. */
export const LOCKOUTS_MAX: number = 65_536;
/** Login attempts of one user from one address that wait. One more is `busy`. */
export const LOGINS_WAITING_MAX: number = 16;
/** Passwords that wait for the comparison with a hash, which takes a sixth of a second. One more is `busy`. */
export const HASHES_WAITING_MAX: number = 64;
/** An idle thread ends after this time. */
export const THREAD_IDLE_MS: number = 10_000;

/** Time in which the peer of a closing connection must take the last bytes and close its side. Then it is reset. */
export const LINGER_MS: number = 5_000;
/**
 * Bytes of a closing connection that are read and dropped; then it is reset. That is more than can be in flight, so a
 * reset does not destroy the last reply on its way to a client.
 */
export const LINGER_BYTES_MAX: number = 1 << 20;
/** Bytes of the log that wait for its reader, and the time to wait for it at exit. */
export const LOG_BYTES_MAX: number = 1 << 20;
export const LOG_MS: number = 1_000;
/**
 * Lines of one event that are written one by one in LOG_WINDOW_MS; one summary has the others. Addresses that a summary
 * counts, and those with the highest counts, which it lists.
 */
export const LOG_LINES_MAX: number = 100;
export const LOG_WINDOW_MS: number = 10_000;
export const LOG_ADDRESSES_MAX: number = 256;
export const LOG_ADDRESSES_LISTED: number = 20;
/** Connections to `--http`, the time of one from its beginning to its end, and the bytes of its header. */
export const HTTP_CONNECTIONS_MAX: number = 64;
export const HTTP_MS: number = 5_000;
export const HTTP_HEADER_BYTES_MAX: number = 8 << 10;
/**
 * The port of `--web`: the time for a request, and for a client to take the next bytes of a response; bytes of the head
 * of a request.
 */
export const WEB_REQUEST_MS: number = 10_000;
export const WEB_HEAD_BYTES_MAX: number = 8 << 10;
/** Bytes in one WebSocket frame to a client. What the kernel has not accepted of it is kept in memory. */
export const FRAME_BYTES_MAX: number = 16 << 10;
/**
 * Bytes of heads and of control frames of a WebSocket client beyond the bytes of lines that came with them: in a
 * second, and at once. A client with more is closed: it would cost work that the rate limit does not count.
 */
export const OVERHEAD_BYTES_PER_SECOND: number = 64 << 10;
export const OVERHEAD_BYTES_MAX: number = 256 << 10;
/** The time of a drain by default, and how many sessions it ends in a turn. When more are due, another turn follows. */
export const DRAIN_SECONDS: number = 10;
export const DRAIN_SECONDS_MAX: number = 86_400;
export const DRAINED_PER_TURN_MAX: number = 8;
/** The longest delay of `joined` and `left`. */
export const PRESENCE_DELAY_MS: number = 256;
/** Users of another shard count as online for this long after its link was lost, or began anew without them. */
export const PRESENCE_GRACE_MS: number = 10_000;

/** Descriptors that are kept free for files and listeners. At the limit the runtime spins in accept. */
export const DESCRIPTORS_SPARE: number = 100;

/** `heartline check` warns when fewer connections are possible, without `--connections`. */
export const CONNECTIONS_LOW: number = 1_000;
/** `heartline check` warns when the certificate expires within this number of days. */
export const CERTIFICATE_DAYS_LOW: number = 30;

if (MAILBOX_PORTION_BYTES + SERVER_LINE_BYTES_MAX / 4 > UNACKED_BYTES_MIN) {
  throw new Error("limits: a mailbox portion must leave room for other lines, or delivery could make a session slow");
}
if (UNSENT_BYTES_MAX >= UNACKED_BYTES_MIN) {
  throw new Error("limits: a connection must stop reading before its own replies make it slow");
}
