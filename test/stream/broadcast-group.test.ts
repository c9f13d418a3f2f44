import { describe, expect, test } from "bun:test";
import { BROADCAST_LOG_BYTES_MAX } from "../../src/limits.ts";
import { BroadcastGroup } from "../../src/stream/broadcast-group.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { HandTurn, drain } from "../support/streams.ts";

const BLOCK = 64 << 10;

/** Some receivers. Each records what it is sent as a member, in pieces, and accepts only `room` bytes. */
function receivers(count: number, plain = true, sendsPerTurn = 100) {
  const turn = new HandTurn();
  const group = new BroadcastGroup(turn, sendsPerTurn);
  const all = Array.from({ length: count }, () => {
    const outbox = new Outbox(turn, plain);
    const receiver = { outbox, pieces: [] as string[], room: Number.POSITIVE_INFINITY };
    outbox.sink = {
      flush: () => {},
      write: (bytes, start, most) => {
        const taken = Math.min(receiver.room, most);
        receiver.pieces.push(bytes.toString("latin1", start, start + taken));
        return taken;
      },
    };
    outbox.subscribe(group);
    return receiver;
  });
  const say = (text: string): void => group.log.append(Buffer.from("b "), Buffer.from(text), 0, text.length);
  const endTurn = (): unknown[] => {
    group.announce();
    const ending = turn.end();
    group.flush();
    return ending;
  };
  return { turn, group, all, say, endTurn };
}

describe("a broadcast group", () => {
  test("writes to all members, and marks none of their streams dirty", () => {
    const { group, all, say, endTurn } = receivers(3);
    say("one");
    say("two");
    expect(endTurn()).toEqual([group]);
    expect(all.map(({ pieces }) => pieces)).toEqual([["b one\nb two\n"], ["b one\nb two\n"], ["b one\nb two\n"]]);
    expect(endTurn()).toEqual([]);
  });

  test("sends the broadcasts of one turn in one piece, also across two blocks of the log", () => {
    const { all, say, endTurn } = receivers(2);
    say("x".repeat(BLOCK - 10));
    endTurn();
    say("one");
    say("two");
    endTurn();
    for (const { pieces } of all) expect(pieces.slice(1)).toEqual(["b one\nb two\n"]);
  });

  test("does not write to a stream with lines of its own until everything in it is sent", () => {
    const { all, say, endTurn } = receivers(3);
    const [one, two] = [all[0]!, all[2]!];
    say("first");
    one.outbox.append(Buffer.from("ok\n"));
    say("second");
    endTurn();
    expect(drain(one.outbox)).toEqual({ bytes: Buffer.from("b first\nok\nb second\n"), sends: 1 });
    expect([one.pieces, two.pieces]).toEqual([[], ["b first\nb second\n"]]);
    say("third");
    endTurn();
    expect([one.pieces, two.pieces.at(-1)]).toEqual([["b third\n"], "b third\n"]);
    expect(one.outbox.peek()).toBe(false);
  });

  test("leaves the rest to the stream of a socket that did not accept everything, before newer bytes", () => {
    const { all, turn, say, endTurn } = receivers(3);
    const slow = all[1]!;
    slow.room = 4;
    say("hello");
    endTurn();
    expect(slow.pieces).toEqual(["b he"]);
    expect(slow.outbox.peek()).toBe(false); // The rest becomes durable with the next turn.
    say("again");
    endTurn();
    expect(drain(slow.outbox).bytes.toString()).toBe("llo\nb again\n");
    slow.room = 100;
    say("third");
    endTurn();
    expect(slow.pieces).toEqual(["b he", "b third\n"]);
    expect(all[2]!.pieces).toEqual(["b hello\n", "b again\n", "b third\n"]);
    turn.end();
    expect(slow.outbox.unacked).toBe(0);
  });

  test("continues after a sink that fails, and sends nothing twice", () => {
    const { turn, all, say, endTurn } = receivers(3);
    const bad = all[1]!.outbox;
    const fault = () => {
      throw new Error("a broken sink");
    };
    bad.sink = { flush: () => {}, write: fault };
    say("one");
    endTurn();
    turn.end();
    expect([all[0]!.pieces, all[2]!.pieces]).toEqual([["b one\n"], ["b one\n"]]);
    expect(drain(bad).bytes.toString()).toBe("b one\n");
    say("two");
    endTurn();
    expect([all[0]!.pieces, all[2]!.pieces]).toEqual(Array(2).fill(["b one\n", "b two\n"]));
  });

  test("sends only durable bytes, also to members that leave meanwhile", () => {
    const { group, turn, all, say } = receivers(2);
    say("saved late");
    group.announce();
    group.flush();
    all[0]!.outbox.append(Buffer.from("ok\n"));
    expect(all[0]!.outbox.peek()).toBe(false);
    expect(all[1]!.pieces).toEqual([]);
    turn.end();
    group.flush();
    expect(drain(all[0]!.outbox).bytes.toString()).toBe("b saved late\nok\n");
    expect(all[1]!.pieces).toEqual(["b saved late\n"]);
  });

  test("holds unacknowledged bytes of a stream, and sends them again", () => {
    const { group, turn, all, say, endTurn } = receivers(2, false);
    const [one, two] = [all[0]!, all[1]!];
    const lines = ["a", "b", "c"].map((letter) => letter.repeat(BLOCK));
    for (const line of lines) {
      say(line);
      endTurn();
    }
    expect(one.pieces.join("")).toBe(lines.map((line) => `b ${line}\n`).join(""));
    expect([one.outbox.furthest, one.outbox.unacked]).toEqual([3 * (BLOCK + 3), 3 * (BLOCK + 3)]);
    two.outbox.ack(3 * (BLOCK + 3));
    expect([two.outbox.unacked, two.outbox.sent]).toEqual([0, 3 * (BLOCK + 3)]);
    one.outbox.ack(BLOCK + 3);
    expect(group.log.bytes).toBe(3 * BLOCK);
    one.outbox.rewind(2 * (BLOCK + 3));
    turn.end();
    expect(drain(one.outbox).bytes.toString()).toBe(`b ${lines[2]}\n`);
    one.outbox.ack(one.outbox.furthest);
    say("more");
    endTurn();
    expect([one.pieces.at(-1), two.pieces.at(-1)]).toEqual(["b more\n", "b more\n"]);
    for (const { outbox } of all) outbox.ack(outbox.furthest);
    expect(group.log.bytes).toBe(BLOCK);
  });

  test("sends to the new sink of a stream, also what was not yet sent to the old one", () => {
    const { turn, all, say, endTurn } = receivers(2);
    say("one");
    endTurn();
    const moved = all[0]!.outbox;
    const pieces: string[] = [];
    say("two");
    moved.sink = {
      flush: () => {},
      write: (bytes, start, count) => {
        pieces.push(bytes.toString("latin1", start, start + count));
        return count;
      },
    };
    endTurn();
    expect(drain(moved).bytes.toString()).toBe("b two\n");
    say("three");
    endTurn();
    turn.end();
    expect([all[0]!.pieces, pieces]).toEqual([["b one\n"], ["b three\n"]]);
  });

  test("bounds the log when a stream does not send its part", () => {
    const { group, all, say, endTurn } = receivers(2);
    const behind = all[0]!;
    behind.room = 0;
    const blocks = BROADCAST_LOG_BYTES_MAX / BLOCK;
    for (let i = 0; i < blocks + 20; i++) {
      say("x".repeat(BLOCK - 3));
      endTurn();
    }
    expect(group.log.bytes).toBeLessThanOrEqual(BROADCAST_LOG_BYTES_MAX + 2 * BLOCK);
    expect(behind.outbox.heldBytes).toBeGreaterThan(20 * BLOCK);
    expect(behind.outbox.unsent).toBe((blocks + 20) * BLOCK);
  });

  test("sends to many members in several turns", () => {
    const { group, all, say, endTurn } = receivers(5, true, 2);
    const sends = (): number[] => all.map(({ pieces }) => pieces.length);
    say("one");
    expect(endTurn()).toEqual([group]);
    expect(sends()).toEqual([0, 0, 0, 1, 1]);
    say("two"); // It does not overtake the first one.
    expect(endTurn()).toEqual([group]);
    expect(sends()).toEqual([0, 1, 1, 1, 1]);
    expect(endTurn()).toEqual([group]);
    expect(sends()).toEqual([1, 1, 1, 1, 2]);
    expect([endTurn(), endTurn(), endTurn()]).toEqual([[group], [group], []]);
    expect(all.map(({ pieces }) => pieces)).toEqual(Array(5).fill(["b one\n", "b two\n"]));
  });

  test("keeps the order for members that leave while others are sent a broadcast", () => {
    const { turn, all, say, endTurn } = receivers(6, true, 2);
    say("one");
    endTurn();
    const [waits, has, full] = [all[1]!, all[4]!, all[2]!];
    for (const { outbox } of [waits, has]) outbox.append(Buffer.from("ok\n"));
    full.room = 2;
    expect([waits.outbox.unsent, has.outbox.unsent]).toEqual([9, 3]);
    for (let i = 0; i < 4; i++) endTurn();
    expect(drain(waits.outbox).bytes.toString()).toBe("b one\nok\n");
    expect(drain(has.outbox).bytes.toString()).toBe("ok\n");
    expect(full.pieces).toEqual(["b "]);
    expect(drain(full.outbox).bytes.toString()).toBe("one\n");
    full.room = 100;
    say("two");
    for (let i = 0; i < 4; i++) endTurn();
    turn.end();
    const others = ["b one\n", "b two\n"];
    const last = "b two\n";
    expect(all.map(({ pieces }) => pieces)).toEqual([others, [last], ["b ", last], others, ["b one\n", last], others]);
  });

  test("sends at once what is more than a block, so that the log does not grow", () => {
    const { group, all, say, endTurn } = receivers(5, true, 1);
    say("x".repeat(2 * BLOCK));
    expect(endTurn()).toEqual([group]);
    expect(all.map(({ pieces }) => pieces.join("").length)).toEqual(Array(5).fill(2 * BLOCK + 3));
    expect([group.sent, endTurn()]).toEqual([group.durable, []]);
  });

  test("forgets a stream that unsubscribes, at any index", () => {
    const { all, say, endTurn } = receivers(5);
    say("to all");
    endTurn();
    const [gone, own, , last] = all as [(typeof all)[0], (typeof all)[0], unknown, (typeof all)[0]];
    own.outbox.append(Buffer.from("ok\n"));
    gone.outbox.unsubscribe();
    last.outbox.unsubscribe();
    say("to three");
    endTurn();
    expect(drain(own.outbox).bytes.toString()).toBe("ok\nb to three\n");
    expect(all.map(({ pieces }) => pieces.length)).toEqual([1, 1, 2, 1, 2]);
    own.outbox.unsubscribe();
    say("to two");
    endTurn();
    expect(all.map(({ pieces }) => pieces.length)).toEqual([1, 1, 3, 1, 3]);
  });
});
