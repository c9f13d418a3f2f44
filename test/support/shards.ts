import { join } from "node:path";
import type { Neighbour } from "../../src/chat/session.ts";
import { shardOf } from "../../src/protocol/shard.ts";
import type { Outbox } from "../../src/stream/outbox.ts";
import type { Store } from "../../src/storage/store.ts";
import { openDatabase } from "../../src/storage/database.ts";
import { Recovery, newStore } from "../../src/storage/recovery.ts";
import { FileFolder } from "../../src/storage/segment.ts";
import { type Choices, type TestPeer, UNIX_MS, World } from "./chat.ts";
import { newFolder } from "./folders.ts";

export const SHARDS = 2;
const SEGMENT_BYTES = 64 << 10;
/** Users of the two shards. */
export const USERS = [
  ["bob", "carol", "ann", "amy"],
  ["alice", "dave", "erin", "frank"],
] as const;

/** One shard of a cluster of two: a core like any other, with what it said to its operator. */
export class Shard extends World {
  readonly shard: number;
  readonly warnings: string[];
  /** Of its owner. */
  readonly epoch: number;

  constructor(shard: number, epoch = 1, choices: Omit<Choices, "shards"> = {}) {
    const warnings: string[] = [];
    const shards = { home: shard, count: SHARDS, warn: (what: string): void => void warnings.push(what) };
    super(USERS.flat(), { ...choices, shards, firstToken: 1 + 1_000_000 * epoch });
    this.shard = shard;
    this.epoch = epoch;
    this.warnings = warnings;
  }

  /** The other shard, as this one sees it. */
  get neighbour(): Neighbour {
    return this.chat.neighbours!.all[1 - this.shard]!;
  }

  /** The same shard after a crash, with what its store has. */
  restarted(store: Store = this.store): Shard {
    return new Shard(this.shard, this.epoch + 1, { store, clockMs: this.clockMs });
  }
}

/** The disk of the owners of a shard, one after another: it has what they wrote before they were killed. */
export class ShardDisk {
  readonly #shard: number;
  readonly #database = openDatabase(":memory:", "process");
  readonly #folder = new FileFolder(join(newFolder(), "journal"));
  #starts = 0;

  constructor(shard: number) {
    this.#shard = shard;
  }

  /** The shard gets an owner, after the one before was killed. Its sessions are gone. */
  start(choices: Omit<Choices, "shards" | "store"> = {}): Shard {
    if (this.#database.inTransaction) this.#database.run("ROLLBACK");
    const options = { salvage: false, unixMs: UNIX_MS, progress: () => {} };
    new Recovery(this.#database, this.#folder, options, SEGMENT_BYTES).run();
    const store = newStore(this.#database, this.#folder, "process", SEGMENT_BYTES);
    return new Shard(this.#shard, ++this.#starts, { ...choices, store });
  }
}

/**
 * A link that the shard `q` has opened to the shard `p`, without a socket: it carries whole lines when a test says so,
 * so that either side can be killed between two of them.
 */
export class TestLink {
  readonly p: Shard;
  readonly q: Shard;
  readonly peer: TestPeer;
  /** Lines of `p` that `q` has not read, and lines of `q` that `p` has not read. */
  readonly toQ: string[] = [];
  readonly toP: string[] = [];
  /** Lines of `p` that are no forwards and no replies. */
  readonly events: string[] = [];
  /** Outcomes that `p` has not answered. */
  readonly unanswered: number[] = [];
  /** Bytes of the lines that `q` has read. */
  received = 0;
  /** What `receive` of `q` refused. */
  readonly refusals: string[] = [];

  /** `q` acts on events too. */
  readonly #hasEvents: boolean;
  /** What `q` says of its own accord. */
  readonly #outbox: Pick<Outbox, "appendLine"> = {
    appendLine: (head, bytes, start, end) =>
      this.toP.push(Buffer.concat([head, bytes.subarray(start, end)]).toString("latin1")) > 0,
  };

  constructor(p: Shard, q: Shard, heard = q.foreignRequests.heard(p.shard), hasEvents = false) {
    this.#hasEvents = hasEvents;
    this.p = p;
    this.q = q;
    this.peer = p.connect();
    p.begin();
    p.chat.neighbours!.connected(this.peer, q.shard, q.epoch, heard);
    p.endTurns();
    this.#read();
  }

  /** The reply of `p` to the link; undefined while it has none. */
  greet(): string | undefined {
    this.#read();
    const greeting = this.toQ.shift();
    if (greeting?.startsWith("ok ") !== true) return greeting;
    this.q.foreignRequests.answered(this.p.shard, Number(greeting.slice(3)));
    if (this.#hasEvents) this.q.neighbourEvents!.linkUp(this.p.shard, this.#outbox);
    for (const [number, reply] of this.q.foreignRequests.kept(this.p.shard)) this.#outcome(number, reply);
    return greeting;
  }

  #read(): void {
    this.toQ.push(...this.peer.read());
  }

  /** `q` reads a line of `p`, and ends its turn. False when there is none. */
  stepQ(): boolean {
    this.#read();
    const line = this.toQ.shift();
    if (line === undefined) return false;
    this.received += line.length + 1;
    const [verb, from = "", ...words] = line.split(" ");
    if (verb === "ok" && words.length === 0 && from === "") {
      this.q.begin();
      this.q.foreignRequests.answered(this.p.shard, this.unanswered.shift()!);
      this.q.endTurns();
    } else if (verb === "ok") {
      // The reply to an alive.
    } else if (verb === "message" || verb === "stored") {
      if (verb === "stored") words.shift();
      const request = Buffer.from(words.slice(2).join(" "), "latin1");
      this.q.begin();
      const [number, previous] = [Number(words[0]), Number(words[1])];
      const reply = this.q.foreignRequests.receive(this.p.shard, from, number, previous, request, 0, request.length);
      this.q.endTurns();
      if (typeof reply === "string") this.refusals.push(reply);
      else this.#outcome(number, reply);
    } else if (verb !== "ok") {
      this.events.push(line);
      if (!this.#hasEvents) return this.stepQ(); // It is no step of such a test.
      const bytes = Buffer.from(line, "latin1");
      this.q.begin();
      if (!this.q.neighbourEvents!.receive(this.p.shard, bytes, 0, bytes.length)) this.refusals.push(line);
      this.q.endTurns();
    }
    return true;
  }

  #outcome(number: number, reply: Uint8Array): void {
    this.unanswered.push(number);
    this.toP.push(`outcome ${number} ${Buffer.from(reply).toString("latin1").trimEnd()}`);
  }

  /** `p` reads a line of `q`, and ends its turn. False when there is none. */
  stepP(): boolean {
    const line = this.toP.shift();
    if (line === undefined) return false;
    this.p.say(this.peer, line);
    return true;
  }

  /** Both read until nothing is left. */
  carry(): void {
    while (this.stepQ() || this.stepP());
  }

  /** `q` shows that it is alive, and acknowledges what it has. */
  beat(): void {
    this.p.say(this.peer, `alive ${this.received}`);
    this.#read();
  }

  cut(): void {
    this.peer.hangUp();
    if (this.#hasEvents) this.q.neighbourEvents!.linkLost(this.p.shard);
  }
}

/** Lines without the times of stored messages. */
export function untimed(lines: readonly string[]): string[] {
  return lines.map((line) => line.replace(/^(stored \S+) \d+/, "$1 T"));
}

/** Two shards with a link from `q` to `p`. Alice is a user of `p`, bob is one of `q`. */
export function linked(choices: { p?: Partial<Choices>; q?: Partial<Choices> } = {}): {
  p: Shard;
  q: Shard;
  link: TestLink;
} {
  const p = new Shard(1, 1, choices.p);
  const q = new Shard(0, 1, choices.q);
  const link = new TestLink(p, q);
  link.greet();
  return { p, q, link };
}

for (const [shard, users] of USERS.entries())
  for (const user of users)
    if (shardOf(Buffer.from(user), 0, user.length, SHARDS) !== shard) throw new Error(`${user} is of another shard`);
