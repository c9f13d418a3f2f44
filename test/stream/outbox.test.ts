import { describe, expect, test } from "bun:test";
import type { BroadcastLog } from "../../src/stream/broadcast-log.ts";
import type { UnackedMessage } from "../../src/stream/unacked-index.ts";
import { BroadcastGroup } from "../../src/stream/broadcast-group.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Random, seedFor } from "../support/random.ts";
import { HandTurn, drain, offered } from "../support/streams.ts";

const NOTHING = Buffer.alloc(0);
const BLOCK = 64 << 10;

/** A stream, alone or with a log to follow. */
function stream(plain: boolean) {
  const turn = new HandTurn();
  const group = new BroadcastGroup(turn);
  const outbox = new Outbox(turn, plain);
  outbox.sink = { flush: () => {} };
  return { turn, group, log: group.log, outbox };
}

/** Appends a message whose text is a range of a chunk. */
function message(outbox: Outbox, number: number, text: string, from = "alice", unixMs = 1000 + number): void {
  const chunk = Buffer.from(`message bob ${text}\nmore`, "latin1");
  outbox.appendMessage(number, unixMs, Buffer.from(`message ${from} `), chunk, 12, chunk.length - 5);
}

/** Appends a message that is in the mailbox too. */
function fed(outbox: Outbox, number: number, text: string): void {
  outbox.appendFromMailbox(number, Buffer.from(`stored alice 17 `), Buffer.from(text, "latin1"));
}

/** A broadcast to all streams that follow the log. */
function broadcast(log: BroadcastLog, text: string): void {
  log.append(Buffer.from("broadcast alice "), Buffer.from(text, "latin1"), 0, text.length);
}

function taken(outbox: Outbox, most = Infinity): string {
  const piece = offered(outbox);
  if (piece === null) return "";
  const count = Math.min(piece.length, most);
  outbox.advance(count);
  return piece.toString("latin1", 0, count);
}

function unackedMessages(outbox: Outbox): UnackedMessage[] {
  return outbox.messages(0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY);
}

/** Withdraws; returns the messages that are in no mailbox, as strings. */
function withdrawn(outbox: Outbox): string[] {
  const words = unackedMessages(outbox)
    .filter(({ inMailbox }) => !inMailbox)
    .map(({ number, unixMs, from, text }) => `${number} ${unixMs} ${from}: ${Buffer.from(text).toString("latin1")}`);
  outbox.withdraw();
  return words;
}

describe("a stream", () => {
  test("offers nothing before the turn has ended, and everything in one piece after it", () => {
    const { turn, outbox } = stream(true);
    outbox.append(Buffer.from("ok\n"));
    outbox.appendLine(Buffer.from("joined "), Buffer.from("xbobx"), 1, 4);
    message(outbox, 1, "hi there");
    expect(outbox.peek()).toBe(false);
    expect(turn.end()).toEqual([outbox]);
    expect(taken(outbox)).toBe("ok\njoined bob\nmessage alice hi there\n");
    expect(outbox.peek()).toBe(false);
  });

  test("does not offer what was appended after the end of the turn", () => {
    const { turn, outbox } = stream(true);
    outbox.append(Buffer.from("durable\n"));
    turn.end();
    outbox.append(Buffer.from("not durable\n"));
    expect(taken(outbox)).toBe("durable\n");
    expect(outbox.peek()).toBe(false);
    expect(turn.end()).toEqual([outbox]);
    expect(taken(outbox)).toBe("not durable\n");
  });

  test("continues after the bytes that the socket accepted, also when there were none", () => {
    const { turn, outbox } = stream(true);
    outbox.append(Buffer.from("0123456789\n"));
    turn.end();
    expect(taken(outbox, 0)).toBe("");
    expect(taken(outbox, 4)).toBe("0123");
    outbox.append(Buffer.from("next\n"));
    expect(taken(outbox)).toBe("456789\n");
    turn.end();
    expect(taken(outbox)).toBe("next\n");
  });

  test("counts unacknowledged and unsent bytes", () => {
    const { turn, outbox } = stream(false);
    outbox.append(Buffer.from("0123456789\n"));
    turn.end();
    taken(outbox, 8);
    outbox.ack(3);
    expect([outbox.acked, outbox.sent, outbox.end]).toEqual([3, 8, 11]);
    expect([outbox.unacked, outbox.unsent]).toEqual([8, 3]);
  });

  test("that is plain is acknowledged by what the kernel accepts, parts of lines included", () => {
    const { turn, outbox } = stream(true);
    message(outbox, 1, "one");
    message(outbox, 2, "two");
    turn.end();
    taken(outbox, 25);
    expect(outbox.acked).toBe(25);
    expect(withdrawn(outbox)).toEqual(["2 1002 alice: two"]);
  });

  test("that is not plain keeps sent bytes, and sends them again from the acknowledged position", () => {
    const { turn, outbox } = stream(false);
    for (const line of ["one\n", "two\n", "three\n"]) outbox.append(Buffer.from(line));
    turn.end();
    drain(outbox);
    outbox.rewind(4);
    expect(drain(outbox).bytes.toString()).toBe("two\nthree\n");
  });

  test("that is not plain is sent whole on a new connection, also after an ack beyond what was sent there", () => {
    const { turn, outbox } = stream(false);
    message(outbox, 1, "one");
    outbox.append(Buffer.from("two\nthree\n"));
    turn.end();
    drain(outbox);
    outbox.rewind(0);
    expect(taken(outbox, 7)).toBe("message");
    outbox.ack(22); // The reader has received more from an earlier connection.
    expect([outbox.ackedNumber, outbox.unacked, outbox.unsent]).toEqual([1, 6, 21]);
    expect(drain(outbox).bytes.toString()).toBe(" alice one\ntwo\nthree\n");
    outbox.rewind(22);
    expect(drain(outbox).bytes.toString()).toBe("three\n");
    outbox.ack(28);
    expect(outbox.heldBytes).toBe(0);
  });

  test("knows the last completely acknowledged message", () => {
    const { turn, outbox } = stream(false);
    fed(outbox, 5, "first");
    const behindFirst = outbox.end;
    fed(outbox, 9, "second");
    turn.end();
    drain(outbox);
    outbox.ack(behindFirst - 1);
    expect(outbox.ackedNumber).toBe(0);
    outbox.ack(behindFirst);
    expect(outbox.ackedNumber).toBe(5);
    outbox.ack(outbox.end);
    expect(outbox.ackedNumber).toBe(9);
  });
});

describe("a stream that follows the log", () => {
  test("has the broadcasts between subscribe and unsubscribe, and no others", () => {
    const { turn, group, log, outbox } = stream(true);
    broadcast(log, "before");
    outbox.subscribe(group);
    broadcast(log, "during");
    outbox.unsubscribe();
    broadcast(log, "after");
    outbox.follow();
    turn.end();
    expect(drain(outbox).bytes.toString()).toBe("broadcast alice during\n");
  });

  test("keeps the order of its own lines and those of the log", () => {
    const { turn, group, log, outbox } = stream(true);
    outbox.subscribe(group);
    for (let i = 0; i < 3; i++) {
      outbox.append(Buffer.from(`own ${i}\n`));
      broadcast(log, String(i));
    }
    outbox.follow();
    turn.end();
    const lines = [0, 1, 2].map((i) => `own ${i}\nbroadcast alice ${i}\n`);
    expect(drain(outbox).bytes.toString()).toBe(lines.join(""));
  });

  test("leaves out what it skips, and keeps the order of the rest", () => {
    const { turn, group, log, outbox } = stream(true);
    outbox.subscribe(group);
    for (const text of ["1", "mine", "2", "mine again", "3"]) {
      outbox.follow();
      broadcast(log, text);
      if (text.startsWith("mine")) outbox.skip();
    }
    outbox.follow();
    turn.end();
    const lines = ["1", "2", "3"].map((text) => `broadcast alice ${text}\n`);
    expect(drain(outbox).bytes.toString()).toBe(lines.join(""));
  });

  test("writes a large part of the log without a copy", () => {
    const { turn, group, log, outbox } = stream(true);
    outbox.subscribe(group);
    broadcast(log, "x".repeat(5000));
    outbox.follow();
    turn.end();
    expect(outbox.peek()).toBe(true);
    expect(outbox.piece).toBe(log.block(0));
  });

  test("writes a small part of the log together with the lines before it", () => {
    const { turn, group, log, outbox } = stream(true);
    outbox.subscribe(group);
    outbox.append(Buffer.from("ok 7\n"));
    broadcast(log, "hello");
    outbox.follow();
    turn.end();
    expect(drain(outbox)).toEqual({ bytes: Buffer.from("ok 7\nbroadcast alice hello\n"), sends: 1 });
  });

  test("is dirty after following new broadcasts, and not without any", () => {
    const { turn, group, log, outbox } = stream(true);
    outbox.subscribe(group);
    outbox.follow();
    expect(turn.end()).toEqual([]);
    broadcast(log, "hello");
    outbox.skip();
    outbox.follow();
    expect(turn.end()).toEqual([]);
    broadcast(log, "hello");
    outbox.follow();
    expect(turn.end()).toEqual([outbox]);
  });

  test("that is not plain holds its part of the log until it is acknowledged, and can send it again", () => {
    const { turn, group, log, outbox } = stream(false);
    outbox.subscribe(group);
    const lines = ["a", "b", "c"].map((letter) => letter.repeat(BLOCK));
    for (const line of lines) broadcast(log, line);
    group.announce();
    turn.end();
    group.flush();
    const all = drain(outbox).bytes;
    expect(log.bytes).toBe(4 * BLOCK);
    const position = BLOCK + "broadcast alice \n".length;
    outbox.ack(position);
    expect(log.bytes).toBe(3 * BLOCK);
    outbox.sent = outbox.acked;
    expect(drain(outbox).bytes.equals(all.subarray(position))).toBe(true);
    outbox.ack(outbox.end);
    expect(log.bytes).toBe(BLOCK);
  });
});

describe("withdrawing", () => {
  test("returns unacknowledged messages, oldest first, and a stream that is not plain still sends them", () => {
    const { turn, outbox } = stream(false);
    message(outbox, 1, "acked");
    const behindFirst = outbox.end;
    message(outbox, 2, "sent", "bob");
    turn.end();
    drain(outbox);
    outbox.ack(behindFirst);
    outbox.append(Buffer.from("ok\n"));
    message(outbox, 3, " not  sent \xff", "carol.c");
    outbox.append(Buffer.from("goodbye slow\n"));
    expect(withdrawn(outbox)).toEqual(["2 1002 bob: sent", "3 1003 carol.c:  not  sent \xff"]);
    turn.end();
    expect(drain(outbox).bytes.toString("latin1")).toBe("ok\nmessage carol.c  not  sent \xff\ngoodbye slow\n");
  });

  test("of a stream that is not plain gives the position after each message, and which ones are in the mailbox", () => {
    const { turn, outbox } = stream(false);
    fed(outbox, 1, "rests");
    const behindFirst = outbox.end;
    message(outbox, 2, "exists only here");
    turn.end();
    const told = unackedMessages(outbox).map(({ number, position, inMailbox }) => ({ number, position, inMailbox }));
    expect(told).toEqual([
      { number: 1, position: behindFirst, inMailbox: true },
      { number: 2, position: outbox.end, inMailbox: false },
    ]);
  });

  test("keeps a line that was partly sent", () => {
    const { turn, outbox } = stream(true);
    message(outbox, 1, "begun");
    message(outbox, 2, "not begun");
    outbox.append(Buffer.from("goodbye replaced\n"));
    turn.end();
    let bytes = taken(outbox, 10);
    expect(withdrawn(outbox)).toEqual(["1 1001 alice: begun", "2 1002 alice: not begun"]);
    bytes += drain(outbox).bytes.toString();
    expect(bytes).toBe("message alice begun\ngoodbye replaced\n");
  });

  test("removes mailbox entries from the stream and does not return them", () => {
    const { turn, outbox } = stream(true);
    fed(outbox, 1, "rests");
    message(outbox, 2, "exists only here");
    outbox.append(Buffer.from("goodbye expired\n"));
    turn.end();
    expect(withdrawn(outbox)).toEqual(["2 1002 alice: exists only here"]);
    expect(outbox.ackedNumber).toBe(0);
    expect(drain(outbox).bytes.toString()).toBe("goodbye expired\n");
  });

  test("returns nothing the second time", () => {
    const { turn, outbox } = stream(true);
    message(outbox, 1, "once");
    turn.end();
    expect(withdrawn(outbox)).toHaveLength(1);
    expect(withdrawn(outbox)).toEqual([]);
  });

  test("keeps the durable position right when messages before it are removed", () => {
    const { turn, outbox } = stream(true);
    message(outbox, 1, "durable, and taken back");
    turn.end();
    outbox.append(Buffer.from("ok sent\n"));
    outbox.withdraw();
    expect(outbox.peek()).toBe(false);
    turn.end();
    expect(drain(outbox).bytes.toString()).toBe("ok sent\n");
  });

  test("without a sink empties the stream, which then holds no memory", () => {
    for (const plain of [true, false]) {
      const { turn, outbox } = stream(plain);
      outbox.append(Buffer.from("ok\n"));
      message(outbox, 1, "to nobody");
      turn.end();
      outbox.withdraw();
      expect(outbox.heldBytes).toBeGreaterThan(0);
      outbox.sink = null;
      outbox.withdraw();
      expect([outbox.heldBytes, outbox.unacked]).toEqual([0, 0]);
    }
  });

  test("after thousands of messages, acknowledged a few at a time, returns exactly the rest", () => {
    const seed = seedFor("thousands of messages");
    const random = new Random(seed);
    const { turn, outbox } = stream(false);
    const ends: number[] = [];
    for (let number = 1; number <= 6000; number++) {
      message(outbox, number, String(number));
      ends.push(outbox.end);
    }
    turn.end();
    drain(outbox);
    let acked = 0;
    while (acked < 4000) outbox.ack(ends[(acked += random.between(1, 50)) - 1]!);
    const rest = Array.from({ length: 6000 - acked }, (_, i) => acked + 1 + i);
    expect(withdrawn(outbox)).toEqual(rest.map((number) => `${number} ${1000 + number} alice: ${number}`));
  });
});

test("an emptied stream holds no buffer: the next stream uses it", () => {
  const buffers = new Set<Buffer>();
  for (const plain of [true, false, true, false]) {
    const { turn, outbox } = stream(plain);
    outbox.append(Buffer.alloc(10_000, "x"));
    message(outbox, 1, "hello");
    turn.end();
    outbox.peek();
    buffers.add(outbox.piece);
    expect(outbox.heldBytes).toBe(18 << 10);
    drain(outbox);
    if (!outbox.plain) outbox.ack(outbox.end);
    expect(outbox.heldBytes).toBe(0);
  }
  expect(buffers.size).toBe(1);
});

/** A message in the model. */
interface Entry {
  number: number;
  unixMs: number;
  from: string;
  text: string;
  start: number;
  end: number;
}

/** A simple model of a stream: its unacknowledged bytes, positions and messages. */
class Model {
  acked = 0;
  sent = 0;
  /** How far it was ever sent, on any connection. */
  furthest = 0;
  durable = 0;
  ackedNumber = 0;
  following = false;
  entries: Entry[] = [];
  /** Positions after whole lines, which a reader acknowledges. */
  lineEnds: number[] = [];
  /** The bytes from `base` on. */
  bytes = NOTHING;
  base = 0;
  readonly outbox: Outbox;

  constructor(outbox: Outbox) {
    this.outbox = outbox;
  }

  get end(): number {
    return this.base + this.bytes.length;
  }

  append(line: Uint8Array, entry?: Omit<Entry, "start" | "end">): void {
    const start = this.end;
    this.bytes = Buffer.concat([this.bytes, line]);
    this.lineEnds.push(this.end);
    if (entry !== undefined) this.entries.push({ ...entry, start, end: this.end });
  }

  between(from: number, to: number): Buffer {
    return this.bytes.subarray(from - this.base, to - this.base);
  }

  ack(position: number): void {
    this.acked = position;
    for (const { end, number } of this.entries) if (end <= position) this.ackedNumber = number;
    this.entries = this.entries.filter(({ end }) => end > position);
    this.lineEnds = this.lineEnds.filter((end) => end > position);
    this.keep();
  }

  /** Bytes from the acknowledged position on, or from the first that this connection was not sent. */
  keep(): void {
    this.furthest = Math.max(this.furthest, this.sent);
    const from = Math.min(this.acked, this.sent);
    this.bytes = this.bytes.subarray(from - this.base);
    this.base = from;
  }

  /** Returns the messages that must return to the mailbox. */
  withdraw(): Entry[] {
    const { entries } = this;
    this.entries = [];
    const cut = this.outbox.plain ? entries.filter((entry) => entry.start >= this.sent) : [];
    for (const { start, end } of cut.reverse()) {
      this.bytes = Buffer.concat([this.between(this.base, start), this.between(end, this.end)]);
      this.lineEnds = this.lineEnds.filter((at) => at !== end).map((at) => (at > end ? at - (end - start) : at));
      if (this.durable >= end) this.durable -= end - start;
      else if (this.durable > start) throw new Error("a turn ends between lines");
    }
    if (this.outbox.sink === null) {
      this.sent = this.durable = this.end;
      this.ack(this.end);
    }
    return entries.filter(({ unixMs }) => unixMs !== 0);
  }
}

test("random lines, broadcasts, cuts and withdrawals agree with a simple model", () => {
  const seed = seedFor("streams beside plain models");
  for (let round = 0; round < 60; round++) new Weave(new Random(seed + round), round % 3 === 0, 100).run();
  for (let round = 0; round < 60; round++) new Weave(new Random(seed + round), round % 3 === 0, 2).run();
});

/** Some streams on one log, each with its model. */
class Weave {
  readonly #random: Random;
  /** Lines and broadcasts are long enough to cross blocks of the log; otherwise most are short. */
  readonly #long: boolean;
  readonly #turn = new HandTurn();
  readonly #group: BroadcastGroup;
  readonly #models: Model[] = [];
  #lastNumber = 0;

  constructor(random: Random, long: boolean, sendsPerTurn: number) {
    this.#random = random;
    this.#long = long;
    this.#group = new BroadcastGroup(this.#turn, sendsPerTurn);
    for (let i = 0; i < 5; i++) this.#models.push(this.#newModel(i % 2 === 0));
  }

  run(): void {
    for (let step = 0; step < 300; step++) {
      this.#step(this.#random.pick(this.#models));
      for (const model of this.#models) if (!this.#random.oneIn(3)) this.#compare(model);
    }
    this.#settle();
  }

  #newModel(plain: boolean): Model {
    const model = new Model(new Outbox(this.#turn, plain));
    if (!this.#random.oneIn(4)) model.outbox.sink = { flush: () => {}, write: this.#write.bind(this, model) };
    if (!this.#random.oneIn(5)) this.#join(model);
    return model;
  }

  #join(model: Model): void {
    model.outbox.subscribe(this.#group);
    model.following = true;
  }

  #leave(model: Model): void {
    model.outbox.unsubscribe();
    model.following = false;
  }

  #text(): Buffer {
    const random = this.#random;
    const most = this.#long ? random.pick([10, 5000, 40_000, 150_000]) : random.pick([2, 30, 30, 30, 600]);
    const text = Buffer.alloc(random.between(1, most), random.pick(["x", "two words ", "\xff ", " "]), "latin1");
    // Shows the position of the first wrong byte.
    text.write(String(this.#lastNumber), random.below(text.length), "latin1");
    return text;
  }

  #step(model: Model): void {
    const random = this.#random;
    switch (random.below(this.#long ? 12 : 16)) {
      case 0:
        return this.#broadcast(model);
      case 1:
      case 2:
      case 3:
        return this.#take(model);
      case 4:
        return this.#ack(model);
      case 5:
      case 6:
        return this.#endTurn();
      case 7:
        return this.#rare(model);
      case 8:
      case 9:
        return this.#append(model);
      default:
        return this.#message(model);
    }
  }

  #append(model: Model): void {
    const line = Buffer.concat([this.#text(), Buffer.from("\n")]);
    if (this.#random.oneIn(2)) model.outbox.append(line);
    else model.outbox.appendLine(line.subarray(0, 1), line, 1, line.length - 1);
    model.append(line);
  }

  #message(model: Model): void {
    const number = ++this.#lastNumber;
    const unixMs = this.#random.oneIn(3) ? 0 : 1_700_000_000_000 + number;
    const from = this.#random.pick(["alice", "b", "carol.c-3"]);
    const head = Buffer.from(unixMs === 0 ? `stored ${from} 17 ` : `message ${from} `);
    const text = this.#text();
    const chunk = Buffer.concat([Buffer.from("message x "), text, Buffer.from("\n")]);
    if (unixMs === 0) model.outbox.appendFromMailbox(number, head, text);
    else model.outbox.appendMessage(number, unixMs, head, chunk, 10, 10 + text.length);
    const entry = { number, unixMs, from, text: text.toString("latin1") };
    model.append(Buffer.concat([head, text, Buffer.from("\n")]), entry);
    chunk.fill(0x21);
  }

  /** As the chat does it: a stream that must not get it follows the log before it, and skips it. */
  #broadcast(by: Model): void {
    const past = this.#models.filter((model) => model === by || this.#random.oneIn(5));
    for (const { outbox } of past) outbox.follow();
    const text = this.#text();
    this.#group.log.append(Buffer.from("broadcast b "), text, 0, text.length);
    for (const { outbox } of past) outbox.skip();
    const line = Buffer.concat([Buffer.from("broadcast b "), text, Buffer.from("\n")]);
    for (const model of this.#models) if (model.following && !past.includes(model)) model.append(line);
    if (this.#random.oneIn(4)) this.#random.pick(this.#models).outbox.follow();
  }

  #endTurn(): void {
    this.#group.announce();
    this.#turn.end();
    for (const model of this.#models) model.durable = model.end;
    this.#group.flush();
    if (this.#isSending) return; // A member that waits for its part does not have it in its positions.
    for (const model of this.#models) {
      if (this.#random.oneIn(3)) continue; // The positions of members are read now and then only.
      expect(model.outbox.unacked).toBe(model.end - model.acked);
      expect(model.outbox.unsent).toBe(model.end - model.sent);
      expect(model.outbox.end).toBe(model.end);
    }
  }

  /** A member is written. It may not accept everything. */
  #write(model: Model, bytes: Buffer, start: number, count: number): number {
    expect(bytes.subarray(start, start + count).equals(model.between(model.sent, model.sent + count))).toBe(true);
    const taken = this.#random.oneIn(4) ? this.#random.below(count) : count;
    model.sent += taken;
    if (taken < count) model.durable = model.sent;
    if (model.outbox.plain) model.ack(model.sent);
    else model.keep();
    return taken;
  }

  /** Some members are not sent yet what others have. */
  get #isSending(): boolean {
    return this.#group.sent < this.#group.durable;
  }

  #take(model: Model): void {
    const piece = offered(model.outbox);
    if (model.sent === model.durable) expect(piece).toBeNull();
    if (piece === null) return expect(model.sent === model.durable || this.#isSending).toBe(true);
    expect(piece.length).toBeGreaterThan(0);
    expect(model.sent + piece.length).toBeLessThanOrEqual(model.durable);
    expect(piece.equals(model.between(model.sent, model.sent + piece.length))).toBe(true);
    const count = this.#random.oneIn(2) ? piece.length : this.#random.below(piece.length + 1);
    model.outbox.advance(count);
    model.sent += count;
    if (model.outbox.plain) model.ack(model.sent);
    else model.keep();
  }

  #ack(model: Model): void {
    if (model.outbox.plain) return;
    const ends = model.lineEnds.filter((end) => end <= model.furthest);
    // A reader acknowledges whole lines. Other positions must do no harm.
    const position = this.#random.oneIn(5) ? this.#random.between(model.acked, model.furthest) : null;
    if (position === null && ends.length === 0) return;
    model.outbox.ack(position ?? this.#random.pick(ends));
    model.ack(model.outbox.acked);
  }

  #rare(model: Model): void {
    const random = this.#random;
    switch (random.below(7)) {
      case 6:
        return model.outbox.markDirty();
      case 0:
        return model.outbox.materialize(random.below(this.#group.log.end + 1));
      case 1:
        return model.following ? this.#leave(model) : this.#join(model);
      case 2:
        return this.#withdraw(model);
      case 3:
        // The session ends: what its connection does not accept returns to the mailbox, and a new session begins.
        if (model.following) this.#leave(model);
        this.#append(model);
        if (random.oneIn(2)) this.#endTurn();
        if (random.oneIn(2)) this.#take(model);
        this.#withdraw(model);
        this.#endTurn();
        while (model.sent < model.durable) this.#take(model);
        this.#models[this.#models.indexOf(model)] = this.#newModel(random.oneIn(2));
        return;
      default:
        // The connection was cut, and another one continues from the reader's position.
        if (model.outbox.plain) return;
        model.outbox.rewind(model.acked);
        model.sent = model.acked;
        model.keep();
    }
  }

  #withdraw(model: Model): void {
    const messages = unackedMessages(model.outbox).filter(({ inMailbox }) => !inMailbox);
    const words = messages.map(({ number, unixMs, from, text }) => ({
      number,
      unixMs,
      from,
      text: Buffer.from(text).toString("latin1"),
    }));
    model.outbox.withdraw();
    expect(words).toEqual(model.withdraw().map(({ number, unixMs, from, text }) => ({ number, unixMs, from, text })));
  }

  #compare(model: Model): void {
    const { outbox } = model;
    const { acked, sent, durable, ackedNumber } = model;
    // Reading this brings the positions of a member up to date.
    expect(outbox.unacked).toBeLessThanOrEqual(model.end - acked);
    expect([outbox.acked, outbox.sent, outbox.ackedNumber]).toEqual([acked, sent, ackedNumber]);
    if (this.#isSending) expect(outbox.durable).toBeLessThanOrEqual(durable);
    else expect(outbox.durable).toBe(durable);
    expect(outbox.end).toBeGreaterThanOrEqual(outbox.durable);
    // Only the part of the log that the stream has not followed may be missing.
    expect(outbox.end).toBeLessThanOrEqual(model.end);
  }

  /** All readers accept and acknowledge everything: nothing is left in the streams and the log. */
  #settle(): void {
    do this.#endTurn();
    while (this.#isSending);
    this.#endTurn(); // The rest of a stream that left the group becomes durable now.
    for (const model of this.#models) {
      while (model.sent < model.durable) this.#take(model);
      model.outbox.ack(model.end);
      model.ack(model.end);
      this.#compare(model);
      expect([model.outbox.unacked, model.outbox.unsent]).toEqual([0, 0]);
      expect(unackedMessages(model.outbox)).toEqual([]);
    }
    expect(this.#group.log.bytes).toBeLessThanOrEqual(2 * BLOCK);
  }
}
