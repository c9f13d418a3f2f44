import { expect, test } from "bun:test";
import { Directory } from "../../src/net/directory.ts";

test("a directory tells of new owners and epochs, and of nothing that it knows", () => {
  const directory = new Directory(2);
  const changes: number[] = [];
  directory.changed.add((shard) => void changes.push(shard));
  const owner = { host: "10.0.0.1", port: 6010, shard: 1, epoch: 5 };
  expect([directory.ownerOf(1), directory.epochOf(1)]).toEqual([null, 0]);
  directory.set(1, owner, 5);
  directory.set(1, { ...owner }, 5);
  expect([directory.ownerOf(1), directory.epochOf(1)]).toEqual([owner, 5]);
  directory.set(1, null, 5);
  directory.set(1, { ...owner, port: 6011, epoch: 9 }, 9);
  directory.set(0, null, 0);
  expect(changes).toEqual([1, 1, 1]);
});

test("a directory ignores a stale state", () => {
  const directory = new Directory(1);
  const owner = { host: "10.0.0.1", port: 6010, shard: 0, epoch: 5 };
  directory.set(0, owner, 5);
  directory.set(0, { ...owner, epoch: 4 }, 4);
  expect([directory.ownerOf(0), directory.epochOf(0)]).toEqual([owner, 5]);
});
