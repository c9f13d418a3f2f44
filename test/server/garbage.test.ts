import { afterEach, beforeEach, expect, mock, spyOn, test } from "bun:test";
import { GARBAGE_BYTES_MAX } from "../../src/limits.ts";
import { WireServer } from "../support/wire.ts";

/** A server looks at its memory so often a second, and once of these for garbage. */
const LOOKS = 5;

let server: WireServer;
let resident = 110e6;
let looked = (): void => {};
const collects = mock();

beforeEach(() => {
  spyOn(Bun, "gc").mockImplementation(collects);
  spyOn(process.memoryUsage, "rss").mockImplementation(() => {
    looked();
    return resident;
  });
  server = new WireServer();
});

afterEach(async () => {
  await server.stop();
  mock.restore();
});

/** The server has seen that it has so many bytes; returns how often it has had garbage collected by now. */
async function collectsAt(bytes: number): Promise<number> {
  resident = bytes;
  await new Promise<void>((resolve) => {
    let left = LOOKS;
    looked = () => --left === 0 && resolve();
  });
  return collects.mock.calls.length;
}

test("garbage is collected once the process has grown so much since it was least, or since it was collected", async () => {
  expect(await collectsAt(110e6)).toBe(0);
  expect(await collectsAt(100e6)).toBe(0);
  expect(await collectsAt(100e6 + GARBAGE_BYTES_MAX)).toBe(1);
  expect(await collectsAt(100e6 + 2 * GARBAGE_BYTES_MAX - 1)).toBe(1);
}, 20_000);
