import { expect, test } from "bun:test";
import { Fifo } from "../src/fifo.ts";
import { Random, seedFor } from "./support/random.ts";

test("a queue holds what an array with push and shift holds", () => {
  const random = new Random(seedFor("fifo"));
  const fifo = new Fifo<number>();
  const model: number[] = [];
  for (let i = 0; i < 20_000; i++) {
    if (random.oneIn(2)) {
      fifo.push(i);
      model.push(i);
    } else expect(fifo.shift()).toBe(model.shift());
    expect([fifo.size, fifo.first]).toEqual([model.length, model[0]]);
  }
  for (const item of [...model, -1]) expect(fifo.indexOf(item)).toBe(model.indexOf(item));
  expect(model.map((_, place) => fifo.at(place))).toEqual(model);
  expect([...fifo]).toEqual(model);
});
