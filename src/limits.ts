/**
 * Every ceiling, and what happens when it is reached. First those that an operator may choose, with what holds unless
 * they do (server/config.ts has the options), then the fixed ones.
 */

/** What an operator may choose. A limit that may be 0 is none then. */
export interface Limits {
  /** Connections at once; one more, and the oldest without a session is closed. 0: as many as descriptors allow. */
  connectionsMax: number;
  /** Connections of one source address at once, and new ones of it a second; one more is closed at once. */
  connectionsPerAddressMax: number;
  connectionsPerSecondMax: number;
  /** A connection that has no session by then is closed, whatever it says. */
  loginMs: number;
  /** Logins that fail, a minute and source address, whoever they name; then every login from there is `busy`. */
  failedLoginsPerMinuteMax: number;
  /** Whether all this holds for who comes from this machine, too. */
  limitsLoopback: boolean;
  /** Requests a second of a user, or without a session of an address; above it they are read later. */
  requestsPerSecondMax: number;
  /** So many lines in a row that are no requests are `goodbye flood`. */
  badLinesMax: number;
  /** A request line's bytes, LF included; a longer one is `line_too_long`. */
  lineBytesMax: number;
  /** Bytes that a session's client has not confirmed; beyond them it ends as `slow`, its messages in the mailbox. */
  unackedBytesMax: number;
  /** Bytes that all sessions' streams hold together, ended ones first to go; beyond them the largest end as `slow`. */
  streamsBytesMax: number;
  /** Messages, and bytes of their text, that wait for one user; one more is `mailbox_full`. */
  mailboxMessagesMax: number;
  mailboxBytesMax: number;
  /** How much of both one sender may take, in percent; more is `mailbox_full` for that sender. */
  mailboxSharePercent: number;
  /** Requests for an address and tickets of one session, those of others to it included; one more is `busy`. */
  introductionsMax: number;
  /** Calls of callback sessions' clients at once; one more waits for the end of another. */
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

/** The least and the most that `lineBytesMax` may be; a line that is passed on must fit into a server's line. */
export const LINE_BYTES_MIN = 64;
export const LINE_BYTES_MAX = 512 << 10;
/** A server's line (a name list, a long broadcast); a client treats a longer one as a broken server. */
export const SERVER_LINE_BYTES_MAX = 1 << 20;

/** A user name's bytes; a longer one is `bad_request`. */
export const NAME_BYTES_MAX = 32;
/** Bytes of a credentials file, of a certificate or key, and of a client's authorities: a larger file is refused. */
export const CREDENTIALS_BYTES_MAX = 64 << 20;
export const CERTIFICATE_BYTES_MAX = 1 << 20;
export const AUTHORITIES_BYTES_MAX = 16 << 20;
/** A new password's bytes: with it, a login and all its options fit into a line. */
export const PASSWORD_BYTES_MAX = 1024;
/**
 * What verifying a hash of the credentials file may take, so that a typo there cannot stop the server: argon2's memory,
 * its memory times its passes, and bcrypt's cost. A costlier one makes its line bad.
 */
export const HASH_KIB_MAX = 1 << 20;
export const HASH_WORK_KIB_MAX = 4 << 20;
export const BCRYPT_COST_MAX = 16;
/** Bytes of a password that bcrypt uses. */
export const BCRYPT_BYTES = 72;
/** Names that `online` lists; the rest is a count behind `+`. */
export const ONLINE_NAMES_MAX = 10_000;
/** Words of a request that are looked at one by one; a request with more is `bad_request`. */
export const REQUEST_WORDS_MAX = 16;

/** The least that `unconfirmedBytesMax` may be. */
export const UNACKED_BYTES_MIN = 512 << 10;
/** A client confirms at the latest after so many bytes. */
export const ACK_BYTES_MAX = 64 << 10;
/**
 * Bytes of lines that a client has read and its handler or output has not taken; above them it stops reading. While a
 * request waits for its reply the bound is UNDELIVERED_BOUNDS times as high, since the handler may wait for that reply.
 */
export const UNDELIVERED_BYTES_MAX = 256 << 10;
export const UNDELIVERED_BOUNDS = 32;
/**
 * A client that read and confirmed a moment ago is not slow, whatever the rate: beyond the bound its messages join the
 * mailbox and are fed as it confirms, and all else may take so many times the bound. A moment is the time here.
 */
export const KEEPING_UP_BOUNDS = 4;
export const KEEPING_UP_MS = 2_000;
/** Memory of streams that were emptied, kept for the next turn's; more, or what nobody needs so long, is given back. */
export const POOLED_BYTES_MAX = 8 << 20;
export const POOLED_MS = 8_192;
/** When the process has grown by so much, its young garbage is collected; it is looked at so often. */
export const GARBAGE_BYTES_MAX = 16 << 20;
export const GARBAGE_MS = 1_024;
/** Ended sessions of a user that are kept, whatever their age: messages that they delivered do not come twice. */
export const SESSIONS_KEPT = 8;
/**
 * Time that a call of a callback session's client has for each step: to connect, to answer `ready`, and to take the
 * delivery, which has more time by its length, at a rate that any link has. A call that fails is repeated after a
 * pause, which grows between these bounds, with half as many bytes.
 */
export const CALLBACK_DEADLINE_MS = 5_000;
export const CALLBACK_BYTES_PER_SECOND_MIN = 2 << 10;
export const CALLBACK_PAUSE_MIN_MS = 250;
export const CALLBACK_PAUSE_MAX_MS = 8_000;
/** Bytes of one delivery; the rest comes with the next. Only a line that is longer makes a longer one. */
export const CALLBACK_BYTES_MIN = 8 << 10;
export const CALLBACK_BYTES_MAX = 128 << 10;
/** Calls of one user at once: of one session that lives, and of ended ones; one more, and the oldest is given up. */
export const CALLBACKS_PER_USER_MAX = 32;

/**
 * Work is counted in requests: one for each, one more for each WORK_BYTES of its line, WORK_STORED more for a message
 * that is stored, and what RECEIVERS_PER_REQUEST and NAMES_PER_REQUEST add. A connection does WORK_PER_VISIT at once.
 * Those that have more take turns, with about WORK_PER_TURN together in each turn, so that all others wait for a
 * fraction of a millisecond.
 */
export const WORK_PER_VISIT = 128;
export const WORK_PER_TURN = 512;
export const WORK_BYTES = 256;
export const WORK_STORED = 8;
/** So many bytes of a line that is too long count as one request more, since it may have no end. */
export const SKIPPED_BYTES_PER_REQUEST = 256;
/** A broadcast counts as one request more for so many users that it goes to, since each of them costs a send. */
export const RECEIVERS_PER_REQUEST = 10;
/** For each NAMES_PER_REQUEST names `online` counts as one request more, since the whole list is copied and sent. */
export const NAMES_PER_REQUEST = 10;
/** Bytes that the kernel has not taken; beyond them the connection's requests wait, unread, until it takes some. */
export const UNSENT_BYTES_MAX = 256 << 10;
/** Bytes of mailbox entries inside a session at most; the next portion follows when some of them are confirmed. */
export const MAILBOX_PORTION_BYTES = 256 << 10;
/** Bytes of begun lines and of requests that wait, of all connections; beyond them those that hold most are closed. */
export const INPUT_BYTES_MAX = 64 << 20;
/** What the kernel may hold for one connection (SO_SNDBUF): what it took counts as delivered to a plain session. */
export const KERNEL_SEND_BYTES = 64 << 10;
/** What the kernel may hold of a connection that is not read (SO_RCVBUF): the runtime reads all of it at once. */
export const KERNEL_RECEIVE_BYTES = 64 << 10;

/** Bytes of the broadcast log; whoever still holds older ones copies them into their own outbox, which is bounded. */
export const BROADCAST_LOG_BYTES_MAX = 8 << 20;

/** Bytes of messages that move from sessions to mailboxes in one turn; the rest follows in the next ones. */
export const MOVED_BYTES_PER_TURN = 16 << 10;
/** A shorter message counts as this many bytes, since the store has a row for each. */
export const MOVED_BYTES_MIN = 64;
/** The part of that for one user at a time, while several wait. */
export const MOVED_BYTES_SHARE = 4 << 10;

/** A segment of the journal; a longer record gets a longer one of its own. */
export const JOURNAL_SEGMENT_BYTES = 16 << 20;
/** Segments in use; what is still unconfirmed in older ones moves to the mailbox, and they are used again. */
export const JOURNAL_SEGMENTS_KEPT = 4;
/** Segments that wait to be used; one more is given back to the disk. */
export const JOURNAL_SPARES_MAX = 2;
/** Changes of what rests that are gathered before they are committed: the journal has them too. */
export const STORE_CHANGES_MAX = 1024;
/** And bytes of messages in them: SQLite writes more than them each time, and nobody is answered meanwhile. */
export const STORE_CHANGES_BYTES_MAX = 64 << 10;
/** So many times as much waits while SQLite's write-ahead log is copied, which happens after so many commits. */
export const STORE_CHANGES_HELD = 4;
export const WAL_COMMITS_MAX = 16;
/** How often a disk that refused is tried again; without a journal, how often the changes are committed. */
export const STORE_RETRY_MS = 1024;

/** How long a request for somebody's address waits for their answer; then it is `denied`. */
export const INTRODUCTION_MS = 60_000;
/** Characters of a certificate, as base64; a longer one is `bad_request`. */
export const KEY_BYTES_MAX = 1400;

/** A line between two clients; a longer one is skipped. */
export const PRIVATE_LINE_BYTES_MAX = 64 << 10;
/** What waits to be sent to another client; beyond it that client counts as gone. */
export const PRIVATE_UNSENT_BYTES_MAX = 1 << 20;
/** What a caller gets to show who they are; then they are hung up on. One caller more, and the oldest of them is. */
export const PRIVATE_AUTH_MS = 5_000;
export const PRIVATE_AUTHS_MAX = 32;

/** What a proxy gets to say whom it speaks for, in time and in bytes. */
export const PROXY_HEADER_MS = 5_000;
export const PROXY_HEADER_BYTES_MAX = 2048;
/** What a client gets for its part of a TLS handshake. */
export const TLS_HANDSHAKE_MS = 5_000;
/** So long, and so many, source addresses without a connection are remembered: by then they may do everything again. */
export const ADDRESSES_IDLE_MS = 60_000;
export const ADDRESSES_IDLE_MAX = 65_536;

/** Wrong passwords for one user from one address; the last of them locks that user out from there. */
export const WRONG_PASSWORDS_MAX = 3;
/** Users and addresses with wrong passwords; one more, and those that would be forgotten first are. */
export const LOCKOUTS_MAX = 65_536;
/** Attempts of one user from one address that wait for their turn; one more is `busy`. */
export const LOGINS_WAITING_MAX = 16;
/** Passwords that wait to be compared with a hash, a sixth of a second each; one more is `busy`. */
export const HASHES_WAITING_MAX = 64;
/** A thread that nobody has asked anything for so long is given back. */
export const THREAD_IDLE_MS = 10_000;

/** What a closing connection gets to take its last bytes and to close its own side; then it is reset. */
export const LINGER_MS = 5_000;
/** And so much it may still say, which is read and dropped: more than was under way, so that a reset is no loss. */
export const LINGER_BYTES_MAX = 1 << 20;
/** What of the log may wait for who reads it, and how long that is waited for in the end. */
export const LOG_BYTES_MAX = 1 << 20;
export const LOG_MS = 1_000;
/** How long presence alone may wait to be sent. */
export const PRESENCE_DELAY_MS = 256;

/** Descriptors kept free for files and the listener: at the limit this runtime spins in accept instead of failing. */
export const DESCRIPTORS_SPARE = 100;

if (MAILBOX_PORTION_BYTES + SERVER_LINE_BYTES_MAX / 4 > UNACKED_BYTES_MIN) {
  throw new Error("limits: a mailbox portion must leave room for other lines, or a mailbox could make a session slow");
}
if (UNSENT_BYTES_MAX >= UNACKED_BYTES_MIN) {
  throw new Error("limits: a connection must stop reading before its own replies make it slow");
}
