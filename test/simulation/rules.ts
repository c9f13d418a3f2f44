import { Announcements } from "../../src/chat/announcements.ts";
import { Chat } from "../../src/chat/chat.ts";
import { Mailbox } from "../../src/chat/mailbox.ts";
import { Account, type Session } from "../../src/chat/session.ts";
import type { EndedSession } from "../../src/chat/store.ts";
import { LineReader } from "../../src/protocol/line-reader.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Callback } from "../../src/net/callback.ts";
import { Connection } from "../../src/net/connection.ts";
import { JournalEntry, EntryWriter, type EntryKind } from "../../src/storage/journal-entry.ts";
import { type Break, without } from "./broken-rule.ts";
import { ObservedStore } from "./host.ts";
import { ReadPositions } from "./programs.ts";
import { Simulation } from "./simulation.ts";

function all(...breaks: Break[]): Break {
  const apply = (): (() => void) => {
    const undo = breaks.map((each) => each.apply!());
    return () => undo.reverse().forEach((each) => each());
  };
  return { apply };
}

/** `on()` is true while `method` of `target` runs. `watch` makes it so. */
function within<T extends object, K extends keyof T>(target: T, method: K): { on: () => boolean; watch: Break } {
  let depth = 0;
  const watch: Break = without(target, method, (original) => {
    const call = original as (...values: unknown[]) => unknown;
    return function (this: unknown, ...values: unknown[]) {
      depth++;
      try {
        return call.apply(this, values);
      } finally {
        depth--;
      }
    } as T[K];
  });
  return { on: () => depth > 0, watch };
}

/** While `on()`, accounts have no blocks. */
function noBlocks(name: "blocks" | "blockedBy", on: () => boolean): Break {
  const apply = (): (() => void) => {
    const own = Object.getOwnPropertyDescriptor(Account.prototype, name)!;
    const get = own.get!;
    Object.defineProperty(Account.prototype, name, {
      ...own,
      get(this: Account) {
        return on() ? new Set<Account>() : (get.call(this) as ReadonlySet<Account>);
      },
    });
    return () => Object.defineProperty(Account.prototype, name, own);
  };
  return { apply };
}

const sessions = new Set<Session>();

/** The store remembers a session's position (for `received=`) without the session's last line. */
function oneLineShort(): Break {
  const last = new WeakMap<Session, number>();
  let lineBytes = 0;
  const withoutLast = (session: Session, act: () => void): void => {
    const { received } = session;
    session.received -= last.get(session) ?? 0;
    act();
    session.received = received;
  };
  return all(
    without(LineReader.prototype, "next", (next) => {
      return function (this: LineReader) {
        const hasLine = next.call(this);
        if (hasLine) lineBytes = this.lineBytes;
        return hasLine;
      };
    }),
    without(Outbox.prototype, "append", (append) => {
      return function (this: Outbox, line) {
        for (const session of sessions) if (session.outbox === this) last.set(session, lineBytes);
        append.call(this, line);
      };
    }),
    without(Connection.prototype, "attach", (attach) => {
      return function (this: Connection, session) {
        sessions.add(session);
        attach.call(this, session);
      };
    }),
    without(Mailbox.prototype, "requeue", (requeue) => {
      return function (this: Mailbox, delivery, bytesMax) {
        let bytes = 0;
        withoutLast(delivery.session, () => (bytes = requeue.call(this, delivery, bytesMax)));
        sessions.delete(delivery.session);
        return bytes;
      };
    }),
  );
}

/** The beginning of the line that the server processes. */
let reading = "";
const reads = without(LineReader.prototype, "next", (next) => {
  return function (this: LineReader) {
    const hasLine = next.call(this);
    reading = hasLine ? Buffer.from(this.bytes.subarray(this.start, this.start + 40)).toString("latin1") : "";
    return hasLine;
  };
});

const sending = within(Chat.prototype, "send");
const broadcasting = within(Announcements.prototype, "broadcast");
const logins = within(Chat.prototype, "login");
const ends = within(Chat.prototype, "end");

/** The journal does not record entries of that kind. The database does, so that a broken store would break more. */
function unrecorded(kind: EntryKind): Break {
  return all(
    without(EntryWriter.prototype, "add", (add) => {
      return function (this: EntryWriter, ...entry) {
        if (entry[0] !== kind) add.apply(this, entry);
      };
    }),
    without(EntryWriter.prototype, "addMessages", (addMessages) => {
      return function (this: EntryWriter, ...entry) {
        if (entry[0] !== kind) addMessages.apply(this, entry);
      };
    }),
  );
}

/** Name of each rule, and how it is broken. */
export const RULES: Record<string, Break> = {
  "a client acknowledges only lines that its output has taken": without(ReadPositions.prototype, "shown", () => {
    return function (this: ReadPositions) {
      return this.read;
    };
  }),
  "a resume rewinds the stream to the client's position": without(Outbox.prototype, "rewind", () => {
    return function (this: Outbox, position) {
      if (position > this.acked) this.ack(position);
    };
  }),
  "a resume rewinds the stream no further than the client's position": without(Outbox.prototype, "rewind", () => {
    return function (this: Outbox) {
      this.sent = this.acked;
    };
  }),
  "an acknowledgement moves the acknowledged position": without(Chat.prototype, "ack", () => () => true),
  "a position that was never sent cannot be acknowledged": without(Chat.prototype, "ack", (ack) => {
    return function (this: Chat, session, position) {
      return position > session.outbox.furthest || ack.call(this, session, position);
    };
  }),
  "all unacknowledged messages of an ended session return to the mailbox": without(
    Outbox.prototype,
    "messages",
    (messages) => {
      return function (this: Outbox, after, upTo, bytesMax) {
        return messages.call(this, after, upTo, bytesMax).slice(1);
      };
    },
  ),
  "the store remembers the stream positions of messages that a session delivered": {
    Store: class extends ObservedStore {
      override requeued(...[user, session, received, messages]: Parameters<ObservedStore["requeued"]>): void {
        const misplaced = messages.map((message) => ({ ...message, position: Number.MAX_SAFE_INTEGER }));
        super.requeued(user, session, received, misplaced);
      }
    },
  },
  "a login with after= drops the messages that the client already has": {
    Store: class extends ObservedStore {
      override lastDelivered(): number {
        return 0;
      }
    },
  },
  "the store remembers how many bytes of requests an ended session had processed": {
    Store: class extends ObservedStore {
      override sessionEnded(ended: EndedSession): void {
        super.sessionEnded({ ...ended, received: 0 });
      }
    },
  },
  "a new message is delivered after those that wait in the mailbox": all(
    sending.watch,
    without(Mailbox.prototype, "hasMore", (hasMore) => {
      return function (this: Mailbox, delivery) {
        return !sending.on() && hasMore.call(this, delivery);
      };
    }),
  ),
  "acknowledged messages leave the mailbox": without(Mailbox.prototype, "noteAcked", () => () => {}),
  "a broadcast skips users who have blocked its sender": all(
    broadcasting.watch,
    noBlocks("blockedBy", broadcasting.on),
  ),
  "a message to a user who has blocked its sender is refused": all(
    reads,
    noBlocks("blocks", () => /^(as \S+ )?message /.test(reading)),
  ),
  "joined and left of a user skip those whom the user has blocked": all(
    logins.watch,
    ends.watch,
    noBlocks("blocks", () => logins.on() || ends.on()),
  ),
  "a broadcast skips its sender": without(Outbox.prototype, "skip", () => () => {}),
  "a line that is too long counts in the client's position": without(LineReader.prototype, "next", (next) => {
    return function (this: LineReader) {
      const hasLine = next.call(this);
      if (this.tooLong) this.lineBytes = 0;
      return hasLine;
    };
  }),
  "the last line of a session counts in the position that the store remembers": oneLineShort(),
  "the CR of a line counts in the client's position": without(LineReader.prototype, "next", (next) => {
    return function (this: LineReader) {
      const hasLine = next.call(this);
      if (hasLine && this.bytes[this.end] === 13) this.lineBytes--;
      return hasLine;
    };
  }),
  "a callback delivers from the acknowledged position": without(Callback.prototype, "flush", (flush) => {
    return function (this: Callback) {
      const { outbox } = this.session;
      outbox.ack(outbox.sent);
      flush.call(this);
    };
  }),
  "a resume detaches the session from its old connection": without(Connection.prototype, "detach", () => () => {}),
  "a connection takes no request after its session has ended": without(Connection.prototype, "close", () => () => {}),
  "too many unacknowledged bytes end a session": without(Chat.prototype, "end", (end) => {
    return function (this: Chat, session, reason) {
      if (reason !== "slow") end.call(this, session, reason);
    };
  }),
  "silence ends a session": without(Chat.prototype, "end", (end) => {
    return function (this: Chat, session, reason) {
      if (reason !== "expired") end.call(this, session, reason);
    };
  }),
  "a resumable session outlives its connection": without(Chat.prototype, "connectionClosed", () => {
    return function (this: Chat, { session }) {
      if (session !== null) this.end(session, "disconnected");
    };
  }),
  "goodbye is the last line of a stream that outlives its connections": without(
    Outbox.prototype,
    "finish",
    (finish) => {
      return function (this: Outbox, line) {
        if (line !== null && !this.plain) this.append(line);
        finish.call(this, line !== null && !this.plain ? Buffer.from("ok\n") : line);
      };
    },
  ),
  "the server's stop ends all sessions": without(Chat.prototype, "shutdown", () => () => {}),
  "no output leaves before its turn is durable": {
    Store: class extends ObservedStore {
      #turns = 0;

      override save(): boolean | Promise<void> {
        return ++this.#turns % 2 === 0 || super.save();
      }
    },
  },
  "the database commits nothing that the journal does not have yet": {
    Store: class extends ObservedStore {
      override save(): boolean | Promise<void> {
        this.commit();
        return super.save();
      }
    },
  },
  "an incomplete journal record is ignored": without(Bun.hash, "crc32", () => () => 0),
  "the journal records messages in streams": unrecorded(JournalEntry.Sent),
  "the journal records messages in mailboxes": unrecorded(JournalEntry.Stored),
  "the journal records which mailbox entries are in streams": unrecorded(JournalEntry.Delivered),
  "the journal records acknowledgements": unrecorded(JournalEntry.Acked),
  "the journal records sessions": unrecorded(JournalEntry.Began),
  "the journal records how many bytes of requests a session has processed": unrecorded(JournalEntry.Received),
  "the journal records blocks": unrecorded(JournalEntry.Blocked),
  "the journal records unblocks": unrecorded(JournalEntry.Unblocked),
  "message numbers continue after a restart": {
    Store: class extends ObservedStore {
      #last = 0;

      override newNumber(): number {
        return ++this.#last;
      }
    },
  },
};

/** The same for breaches that few seeds show. */
export const RARE_RULES: typeof RULES = {
  "messages that only the oldest segments hold are copied to the mailboxes": {
    Store: class extends ObservedStore {
      override compact(): void {
        super.compact(() => true);
      }
    },
  },
};

/** Rules about bounds, which only large messages reach. */
const LARGE = new Set([
  "a new message is delivered after those that wait in the mailbox",
  "too many unacknowledged bytes end a session",
]);

/** Whether one of these seeds fails while the rule is broken. */
export function isFound(rule: string, { apply, Store }: Break, seeds: readonly number[]): boolean {
  const restore = apply?.();
  try {
    return seeds.some((seed) => {
      try {
        new Simulation(seed, { large: LARGE.has(rule), Store }).run();
        return false;
      } catch (error) {
        if (process.env.SEEDS !== undefined) console.log(`SEED=${seed}: ${String(error)}`);
        return true;
      }
    });
  } finally {
    restore?.();
  }
}
