import { afterAll, expect, jest, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StateFile, StateInUse } from "../../src/terminal/state-file.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const file = new StateFile(folder, "columbia", "127.0.0.1", 6001, () => {});
const STATE = { token: "A".repeat(22), received: 5, unanswered: [{ line: "message SEAS hi", position: 16 }] };

afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  ["null", "null"],
  ["an empty object", "{}"],
  ["a token that is not a string", JSON.stringify({ ...STATE, token: [STATE.token] })],
  ["a negative position", JSON.stringify({ ...STATE, received: -1 })],
  ["a request that is null", JSON.stringify({ ...STATE, unanswered: [null] })],
  ["a request without a line", JSON.stringify({ ...STATE, unanswered: [{ position: 1 }] })],
  ["a request of two lines", JSON.stringify({ ...STATE, unanswered: [{ line: "alive\nlogout", position: 1 }] })],
  ["a request without a position", JSON.stringify({ ...STATE, unanswered: [{ line: "alive", position: "1" }] })],
  ["half of a state", JSON.stringify(STATE).slice(0, 60)],
])("a file with invalid content loads as no state: %s", (_, content) => {
  file.save(STATE);
  expect(file.load()).toEqual(STATE);
  writeFileSync(join(folder, readdirSync(folder)[0]!), content);
  expect(file.load()).toBeNull();
});

/** The state of that user, as another process opens it. */
function open(user: string): StateFile {
  return new StateFile(folder, user, "127.0.0.1", 6001, () => {});
}

function wanted(user: string): string {
  return join(folder, `${user}%40127.0.0.1%3A6001.json.wanted`);
}

test("one process at a time owns a state, and the owner is called when another process claims it", async () => {
  const [first, second] = [open("first"), open("first")];
  let calls = 0;
  await first.claim(() => {
    calls++;
    first.save(STATE);
    first.release();
  });
  await second.claim(() => {});
  expect(calls).toBe(1);
  expect(second.load()).toEqual(STATE);
  expect(existsSync(wanted("first"))).toBe(false);
  await open("another").claim(() => {});
});

test("the file of an earlier version, named by the host as typed, is renamed once", async () => {
  const [former, state] = ["[::1]", "::1"].map((host) => new StateFile(folder, "former", host, 6001, () => {}));
  former!.save(STATE);
  const named = (): StateFile => new StateFile(folder, "former", "::1", 6001, () => {}, "[::1]");
  const first = named();
  await first.claim(() => {});
  expect(first.load()).toEqual(STATE);
  first.save({ ...STATE, received: 6 });
  first.release();
  former!.save(STATE);
  await named().claim(() => {});
  expect(state!.load()).toEqual({ ...STATE, received: 6 });
});

test("a claim ends with its process, also by SIGKILL", async () => {
  const script = `
    import { StateFile } from ${JSON.stringify(join(import.meta.dir, "../../src/terminal/state-file.ts"))};
    const file = new StateFile(${JSON.stringify(folder)}, "killed", "127.0.0.1", 6001, () => {});
    await file.claim(() => {});
    console.log("claimed");
    setInterval(() => {}, 1000);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  await child.stdout.getReader().read();
  const claimed = open("killed").claim(() => {});
  while (!existsSync(wanted("killed"))) await new Promise((resolve) => setImmediate(resolve));
  child.kill("SIGKILL");
  await claimed;
});

test("a claim is rejected with StateInUse when the owner does not release the state in time", async () => {
  jest.useFakeTimers();
  try {
    await open("stuck").claim(() => {});
    let outcome: unknown = null;
    void open("stuck")
      .claim(() => {})
      .catch((error: unknown) => (outcome = error));
    while (outcome === null) {
      jest.advanceTimersByTime(50);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(outcome).toBeInstanceOf(StateInUse);
    expect(existsSync(wanted("stuck"))).toBe(false);
  } finally {
    jest.useRealTimers();
  }
});
