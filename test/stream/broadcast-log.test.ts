import { describe, expect, test } from "bun:test";
import { BroadcastLog } from "../../src/stream/broadcast-log.ts";
import { BroadcastGroup } from "../../src/stream/broadcast-group.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Random, seedFor } from "../support/random.ts";
import { HandTurn, drain } from "../support/streams.ts";

const BLOCK = 64 << 10;
const NOTHING = Buffer.alloc(0);

/** Appends a line of exactly `bytes` bytes, LF included. */
function grow(log: BroadcastLog, bytes: number, letter = "x"): void {
  const text = Buffer.alloc(bytes - 1, letter);
  log.append(NOTHING, text, 0, text.length);
}

function copied(log: BroadcastLog, from: number, to: number): Buffer {
  const target = Buffer.alloc(to - from);
  log.copy(from, to, target, 0);
  return target;
}

/** What a socket is given, piece by piece. */
function written(log: BroadcastLog, from: number, to: number): Buffer {
  const pieces: Buffer[] = [];
  for (let at = from; at < to;) {
    const block = log.block(at);
    const end = Math.min(block.length, log.offset(at) + to - at);
    pieces.push(block.subarray(log.offset(at), end));
    at += end - log.offset(at);
  }
  return Buffer.concat(pieces);
}

function everybodyFollowed(log: BroadcastLog): void {
  log.followed = log.end;
  log.trim();
}

describe("the broadcast log", () => {
  test("appends lines: a head, a range of other bytes and LF", () => {
    const log = new BroadcastLog();
    const chunk = Buffer.from("broadcast hello all\nalive\n");
    log.append(Buffer.from("broadcast alice "), chunk, 10, 19);
    log.append(Buffer.from("left bob logout"), NOTHING, 0, 0);
    expect(copied(log, 0, log.end).toString()).toBe("broadcast alice hello all\nleft bob logout\n");
  });

  test("copies what it is given, so the chunk may be reused", () => {
    const log = new BroadcastLog();
    const chunk = Buffer.from("hello");
    log.append(NOTHING, chunk, 0, 5);
    chunk.fill("!");
    expect(copied(log, 0, log.end).toString()).toBe("hello\n");
  });

  test("has the same bytes in copies and in its blocks, also across blocks", () => {
    const log = new BroadcastLog();
    grow(log, BLOCK - 3, "a");
    grow(log, 3 * BLOCK, "b");
    grow(log, 7, "c");
    const all = Buffer.from(
      `${"a".repeat(BLOCK - 4)}\n${"b".repeat(3 * BLOCK - 1)}\n${"c".repeat(6)}\n`, // one line longer than three blocks
    );
    expect(copied(log, 0, log.end).equals(all)).toBe(true);
    expect(written(log, 0, log.end).equals(all)).toBe(true);
    for (const from of [BLOCK - 4, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK - 1]) {
      expect(copied(log, from, log.end).equals(all.subarray(from))).toBe(true);
      expect(written(log, from, log.end).equals(all.subarray(from))).toBe(true);
    }
  });

  test("begins a new block when a line ends at the end of a block", () => {
    const log = new BroadcastLog();
    grow(log, BLOCK, "a");
    expect(log.end).toBe(BLOCK);
    grow(log, 5, "b");
    expect(copied(log, BLOCK - 2, log.end).toString()).toBe("a\nbbbb\n");
  });
});

describe("a block of the log", () => {
  test("is kept until all have followed beyond it", () => {
    const log = new BroadcastLog();
    for (let i = 0; i < 40; i++) grow(log, BLOCK / 8);
    log.trim();
    expect(log.bytes).toBe(6 * BLOCK);
    log.followed = 2 * BLOCK + 1;
    log.trim();
    expect(log.bytes).toBe(4 * BLOCK);
    everybodyFollowed(log);
    expect(log.bytes).toBe(BLOCK);
  });

  test("is kept while a position in it or before it is held, and freed with the last hold", () => {
    const log = new BroadcastLog();
    grow(log, 10);
    log.hold(0);
    log.hold(5);
    grow(log, 3 * BLOCK);
    everybodyFollowed(log);
    expect(log.bytes).toBe(4 * BLOCK);
    log.release(0);
    expect(log.bytes).toBe(4 * BLOCK);
    log.release(5);
    expect(log.bytes).toBe(BLOCK);
  });

  test("is freed when its only holder moves to the next block, not when it moves within the block", () => {
    const log = new BroadcastLog();
    log.hold(0);
    grow(log, 3 * BLOCK + 100);
    everybodyFollowed(log);
    log.move(0, BLOCK - 1);
    expect(log.bytes).toBe(4 * BLOCK);
    log.move(BLOCK - 1, BLOCK);
    expect(log.bytes).toBe(3 * BLOCK);
    log.move(BLOCK, 3 * BLOCK + 50);
    expect(log.bytes).toBe(BLOCK);
    log.release(3 * BLOCK + 50);
    expect(log.bytes).toBe(BLOCK);
  });

  test("is not held by a stream that sends everything at once", () => {
    const turn = new HandTurn();
    const group = new BroadcastGroup(turn);
    const { log } = group;
    const outbox = new Outbox(turn, true);
    outbox.subscribe(group);
    for (let i = 0; i < 100; i++) {
      grow(log, 10_000);
      group.announce();
      turn.end();
      group.flush();
      expect(drain(outbox).bytes.length).toBe(10_000);
      expect(log.bytes).toBeLessThanOrEqual(2 * BLOCK);
    }
  });

  test("is held by a slow stream until `materialize`", () => {
    const turn = new HandTurn();
    const group = new BroadcastGroup(turn);
    const { log } = group;
    const behind = new Outbox(turn, true);
    behind.subscribe(group);
    for (let i = 0; i < 5; i++) {
      grow(log, BLOCK, String(i));
      group.announce();
    }
    group.durable = group.end;
    group.flush();
    behind.materialize(0);
    expect(log.bytes).toBe(6 * BLOCK);
    behind.materialize(1);
    expect(log.bytes).toBe(BLOCK);
    turn.end();
    const lines = [0, 1, 2, 3, 4].map((i) => `${String(i).repeat(BLOCK - 1)}\n`);
    expect(drain(behind).bytes.equals(Buffer.from(lines.join("")))).toBe(true);
  });
});

test("random appends, holds, moves and releases keep exactly the needed blocks, byte for byte", () => {
  const seed = seedFor("the log beside one long array");
  for (let round = 0; round < 20; round++) {
    const random = new Random(seed + round);
    const log = new BroadcastLog();
    const all = Buffer.alloc(8 << 20);
    let end = 0;
    const holders: number[] = [];
    for (let step = 0; step < 300; step++) {
      switch (random.below(5)) {
        case 0:
        case 1: {
          const line = Buffer.alloc(random.oneIn(20) ? random.below(3 * BLOCK) : random.below(5000), 33 + (step % 90));
          const cut = random.below(line.length + 1);
          log.append(line.subarray(0, cut), line, cut, line.length);
          end += line.copy(all, end);
          all[end++] = 10;
          break;
        }
        case 2: {
          // As outboxes do: from the position to which all have followed, whose block is kept.
          const position = random.between(log.followed, log.end);
          log.hold(position);
          holders.push(position);
          break;
        }
        case 3: {
          if (holders.length === 0) break;
          const i = random.below(holders.length);
          const to = random.between(holders[i]!, log.end);
          log.move(holders[i]!, to);
          holders[i] = to;
          break;
        }
        default:
          if (holders.length > 0) log.release(holders.splice(random.below(holders.length), 1)[0]!);
      }
      if (random.oneIn(3)) log.followed = random.between(log.followed, log.end);
      log.trim();
      const oldest = Math.min(log.followed, ...holders);
      expect(log.end).toBe(end);
      expect(log.bytes).toBe((Math.floor(end / BLOCK) - Math.floor(oldest / BLOCK) + 1) * BLOCK);
      const from = random.between(oldest, end);
      expect(copied(log, from, end).equals(all.subarray(from, end))).toBe(true);
      expect(written(log, oldest, end).equals(all.subarray(oldest, end))).toBe(true);
    }
  }
});
