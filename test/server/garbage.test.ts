import { afterEach, beforeEach, expect, mock, spyOn, test } from "bun:test";
import { GARBAGE_BYTES_MAX } from "../../src/limits.ts";
import { WireServer } from "../support/wire.ts";

/** Readings of the process's memory in a second: one of them decides about garbage. */
const READINGS = 5;

let server: WireServer;
let resident = 110e6;
let onReading = (): void => {};
const collects = mock();

beforeEach(() => {
  spyOn(Bun, "gc").mockImplementation(collects);
  spyOn(process.memoryUsage, "rss").mockImplementation(() => {
    onReading();
    return resident;
  });
  server = new WireServer();
});

afterEach(async () => {
  await server.stop();
  mock.restore();
});

/** Waits until the server has read a memory of `bytes`; returns how often it has collected garbage by then. */
async function collectsAt(bytes: number): Promise<number> {
  resident = bytes;
  await new Promise<void>((resolve) => {
    let left = READINGS;
    onReading = () => --left === 0 && resolve();
  });
  return collects.mock.calls.length;
}

test("garbage is collected when the process has grown by GARBAGE_BYTES_MAX since its minimum or the last collection", async () => {
  expect(await collectsAt(110e6)).toBe(0);
  expect(await collectsAt(100e6)).toBe(0);
  expect(await collectsAt(100e6 + GARBAGE_BYTES_MAX)).toBe(1);
  expect(await collectsAt(100e6 + 2 * GARBAGE_BYTES_MAX - 1)).toBe(1);
}, 60_000);
