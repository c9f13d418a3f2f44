import { expect, test } from "bun:test";
import { Outbox } from "../../src/stream/outbox.ts";
import { LoopTurn } from "../../src/stream/turn.ts";

/** Resolves when the loop has done everything that is due. */
function later(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A stream whose sink records each flush, and how far the stream was durable then. */
function stream(turn: LoopTurn, notes: string[], name: string, fault?: Error): Outbox {
  const outbox = new Outbox(turn, true);
  outbox.sink = {
    flush: () => {
      notes.push(`${name} ${outbox.durable}`);
      if (fault !== undefined) throw fault;
    },
  };
  return outbox;
}

test("what a turn appended is written once, when the turn ends, and not before", async () => {
  const notes: string[] = [];
  const turn = new LoopTurn({ begins: () => notes.push("begins"), ends: () => notes.push("ends") < 0 });
  const [one, two] = [stream(turn, notes, "one"), stream(turn, notes, "two")];
  turn.begin();
  one.append(Buffer.from("a\n"));
  turn.begin();
  two.append(Buffer.from("bc\n"));
  one.append(Buffer.from("d\n"));
  expect(notes).toEqual(["begins"]);
  expect([one.durable, two.durable]).toEqual([0, 0]);
  await later();
  expect(notes).toEqual(["begins", "ends", "one 4", "two 3"]);
});

test("a turn whose `ends` returns true is followed by another one, after its streams were written", async () => {
  const notes: string[] = [];
  let more = 2;
  const turn = new LoopTurn({ begins: () => notes.push("begins"), ends: () => more-- > 0 });
  const one = stream(turn, notes, "one");
  one.append(Buffer.from("a\n"));
  for (let turns = 0; turns < 4; turns++) await later();
  expect(notes).toEqual(["begins", "one 2", "begins", "begins"]);
});

test("each turn begins once: with the first handler, or before it ends", async () => {
  const notes: string[] = [];
  const turn = new LoopTurn({ begins: () => notes.push("begins"), ends: () => notes.push("ends") > 100 });
  const one = stream(turn, notes, "one");
  one.append(Buffer.from("a\n"));
  notes.push("a socket");
  turn.begin();
  turn.begin();
  await later();
  one.append(Buffer.from("b\n"));
  await later();
  expect(notes).toEqual(["a socket", "begins", "ends", "one 2", "begins", "ends", "one 4"]);
});

test("what is appended while streams are written is written by the next turn", async () => {
  const notes: string[] = [];
  const turn = new LoopTurn();
  const late = stream(turn, notes, "late");
  const early = new Outbox(turn, true);
  early.sink = { flush: () => late.append(Buffer.from("x\n")) };
  early.append(Buffer.from("y\n"));
  await later();
  expect(late.durable).toBe(0);
  await later();
  expect(notes).toEqual(["late 2"]);
});

test("a fault at one stream does not affect the others, in this turn and the next", async () => {
  const notes: string[] = [];
  const faults: unknown[] = [];
  const turn = new LoopTurn({ failed: (error) => faults.push(error) });
  const fault = new Error("a broken sink");
  const [bad, good] = [stream(turn, notes, "bad", fault), stream(turn, notes, "good")];
  for (const outbox of [bad, good]) outbox.append(Buffer.from("x\n"));
  await later();
  for (const outbox of [bad, good]) outbox.append(Buffer.from("x\n"));
  await later();
  expect(notes).toEqual(["bad 2", "good 2", "bad 4", "good 4"]);
  expect(faults).toEqual([fault, fault]);
});

test("after a fault in `ends` the streams are still written", async () => {
  const notes: string[] = [];
  const faults: unknown[] = [];
  const fault = new Error("a broken end");
  const turn = new LoopTurn({
    ends: () => {
      throw fault;
    },
    failed: (error) => faults.push(error),
  });
  stream(turn, notes, "one").append(Buffer.from("x\n"));
  await later();
  expect(notes).toEqual(["one 2"]);
  expect(faults).toEqual([fault]);
});

/** A turn whose loop and disk the test controls. */
function byHand(): {
  turn: LoopTurn;
  notes: string[];
  end: () => void;
  disk: { answer: boolean | Promise<void>; saves: number };
} {
  const notes: string[] = [];
  const ends: (() => void)[] = [];
  const disk = { answer: true as boolean | Promise<void>, saves: 0 };
  const saves = (): boolean | Promise<void> => {
    disk.saves++;
    return disk.answer;
  };
  const turn = new LoopTurn({ commits: saves, later: (end) => void ends.push(end) });
  const end = (): void => {
    for (const each of ends.splice(0)) each();
  };
  return { turn, notes, end, disk };
}

test("nothing is written while the disk refuses; the next turn tries again and writes everything", () => {
  const { turn, notes, end, disk } = byHand();
  const [one, two] = [stream(turn, notes, "one"), stream(turn, notes, "two")];
  disk.answer = false;
  one.append(Buffer.from("a\n"));
  end();
  expect([one.durable, disk.saves]).toEqual([0, 1]);
  turn.begin();
  two.append(Buffer.from("b\n"));
  one.append(Buffer.from("c\n"));
  end();
  expect(notes).toEqual([]);
  disk.answer = true;
  turn.begin();
  end();
  expect(notes).toEqual(["one 4", "two 2"]);
});

test("after a slow commit its bytes are written, and what was appended meanwhile is committed together", async () => {
  const { turn, notes, end, disk } = byHand();
  const [one, two] = [stream(turn, notes, "one"), stream(turn, notes, "two")];
  const { promise, resolve } = Promise.withResolvers<void>();
  disk.answer = promise;
  one.append(Buffer.from("a\n"));
  end();
  for (const line of ["b\n", "c\n"]) {
    one.append(Buffer.from(line));
    two.append(Buffer.from(line));
    end();
  }
  expect([notes, disk.saves]).toEqual([[], 1]);
  disk.answer = true;
  resolve();
  await promise;
  expect(notes).toEqual(["one 2"]);
  end();
  expect([notes, disk.saves]).toEqual([["one 2", "one 6", "two 4"], 2]);
});

test("a plain stream that is withdrawn during a commit sends nothing that was appended later", async () => {
  const { turn, end, disk } = byHand();
  const outbox = new Outbox(turn, true);
  const { promise, resolve } = Promise.withResolvers<void>();
  disk.answer = promise;
  outbox.append(Buffer.from("ok\n"));
  outbox.appendMessage(1, 1000, Buffer.from("message alice "), Buffer.from("hello"), 0, 5);
  end();
  expect(outbox.messages(0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)).toHaveLength(1);
  outbox.withdraw();
  outbox.append(Buffer.from("goodbye expired\n"));
  disk.answer = false;
  resolve();
  await promise;
  expect([outbox.durable, outbox.end]).toEqual([3, 19]);
});
