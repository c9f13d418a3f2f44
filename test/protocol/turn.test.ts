import { expect, test } from "bun:test";
import { Outbox } from "../../src/protocol/outbox.ts";
import { LoopTurn } from "../../src/protocol/turn.ts";

/** Everything that the loop had to do by now is done. */
function later(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** A stream whose sink notes that it was flushed, and how far it was safe by then. */
function stream(turn: LoopTurn, notes: string[], name: string, fault?: Error): Outbox {
  const outbox = new Outbox(turn, true);
  outbox.sink = {
    flush: () => {
      notes.push(`${name} ${outbox.safe}`);
      if (fault !== undefined) throw fault;
    },
  };
  return outbox;
}

test("what a turn appended is written once, when the turn ends, and not before", async () => {
  const notes: string[] = [];
  const turn = new LoopTurn(
    () => notes.push("begins"),
    () => notes.push("ends"),
  );
  const [one, two] = [stream(turn, notes, "one"), stream(turn, notes, "two")];
  turn.begin();
  one.append(Buffer.from("a\n"));
  turn.begin();
  two.append(Buffer.from("bc\n"));
  one.append(Buffer.from("d\n"));
  expect(notes).toEqual(["begins"]);
  expect([one.safe, two.safe]).toEqual([0, 0]);
  await later();
  expect(notes).toEqual(["begins", "ends", "one 4", "two 3"]);
});

test("what is appended while streams are written is written by the next turn", async () => {
  const notes: string[] = [];
  const turn = new LoopTurn();
  const late = stream(turn, notes, "late");
  const early = new Outbox(turn, true);
  early.sink = { flush: () => late.append(Buffer.from("x\n")) };
  early.append(Buffer.from("y\n"));
  await later();
  expect(late.safe).toBe(0);
  await later();
  expect(notes).toEqual(["late 2"]);
});

test("a fault at one stream costs the others nothing, in this turn and the next", async () => {
  const notes: string[] = [];
  const faults: unknown[] = [];
  const turn = new LoopTurn(undefined, undefined, (error) => faults.push(error));
  const fault = new Error("a broken sink");
  const [bad, good] = [stream(turn, notes, "bad", fault), stream(turn, notes, "good")];
  for (const outbox of [bad, good]) outbox.append(Buffer.from("x\n"));
  await later();
  for (const outbox of [bad, good]) outbox.append(Buffer.from("x\n"));
  await later();
  expect(notes).toEqual(["bad 2", "good 2", "bad 4", "good 4"]);
  expect(faults).toEqual([fault, fault]);
});

test("a fault before anything is written does not keep the streams from being written", async () => {
  const notes: string[] = [];
  const faults: unknown[] = [];
  const fault = new Error("a broken end");
  const turn = new LoopTurn(
    undefined,
    () => {
      throw fault;
    },
    (error) => faults.push(error),
  );
  stream(turn, notes, "one").append(Buffer.from("x\n"));
  await later();
  expect(notes).toEqual(["one 2"]);
  expect(faults).toEqual([fault]);
});
