import { afterEach, beforeEach, expect, jest, test } from "bun:test";
import { ChatError } from "heartline/client";
import { Display } from "../../src/terminal/display.ts";
import { Outgoing, SILENCE_MS, WAIT_MS } from "../../src/terminal/outgoing.ts";
import { Transcript } from "../../src/terminal/transcript.ts";

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

function setUp() {
  const lines: string[] = [];
  const display = new Display(false, true);
  const printAll = async (all: readonly string[]): Promise<void> =>
    void lines.push(...all.map((line) => line.slice(6)));
  const outgoing = new Outgoing(new Transcript({ printAll }, display), display);
  const silences: string[] = [];
  outgoing.onSilence = (isSilent, ms) => silences.push(`${isSilent ? "silent" : "back"} ${Math.round(ms / 1000)}`);
  const reply = Promise.withResolvers<{ note: string; state: "sent" | "stored" }>();
  return { outgoing, lines, silences, ...reply };
}

const HI = { recipient: "SEAS", text: "hi", isPrivate: false };
const note = "";

test("a text with a quick reply is printed once, with its final state", async () => {
  const { outgoing, lines, resolve, promise } = setUp();
  const said = outgoing.say(HI, promise);
  jest.advanceTimersByTime(WAIT_MS - 1);
  expect(lines).toEqual([]);
  resolve({ note, state: "stored" });
  await said;
  jest.advanceTimersByTime(10 * WAIT_MS);
  expect(lines).toEqual(["✉ to SEAS: hi"]);
});

test("a text whose reply is late is printed as waiting, and a short line tells its state", async () => {
  const { outgoing, lines, resolve, promise } = setUp();
  const said = outgoing.say({ ...HI, text: "the quick brown fox jumps over the lazy dog" }, promise);
  jest.advanceTimersByTime(WAIT_MS);
  expect(lines).toEqual(["… to SEAS: the quick brown fox jumps over the lazy dog"]);
  expect(outgoing.count).toBe(1);
  resolve({ note, state: "sent" });
  await said;
  expect(outgoing.count).toBe(0);
  expect(lines.slice(1)).toEqual(["✓ to SEAS: the quick brown fox jump..."]);
});

test.each([
  ["unknown_user", "✗ to SEAS: hi", "there is no user SEAS"],
  ["unknown_outcome", "? to SEAS: hi", "the reply was lost; the command may or may not have been carried out"],
])("a text that ends with %s is printed with that state and the reason", async (code, line, reason) => {
  const { outgoing, lines, reject, promise } = setUp();
  const said = outgoing.say(HI, promise);
  reject(new ChatError(code));
  expect(await said).toBeNull();
  expect(lines).toEqual([line, reason]);
});

test("a server that does not answer is reported once, and its answer after that", async () => {
  const { outgoing, silences, resolve, promise } = setUp();
  const first = outgoing.track(promise);
  jest.advanceTimersByTime(2_000);
  const second = outgoing.track(promise);
  jest.advanceTimersByTime(SILENCE_MS - 2_000);
  expect(silences).toEqual(["silent 5"]);
  const third = outgoing.track(promise);
  jest.advanceTimersByTime(2 * SILENCE_MS);
  expect(silences).toEqual(["silent 5"]);
  resolve({ note, state: "sent" });
  await Promise.all([first, second, third]);
  jest.advanceTimersByTime(2 * SILENCE_MS);
  expect(silences).toEqual(["silent 5", "back 15"]);
});

test("a server that answers each request in time is never reported, and neither is a private text that waits", async () => {
  const { outgoing, silences } = setUp();
  void outgoing.say({ ...HI, isPrivate: true }, new Promise(() => {}));
  for (let i = 0; i < 5; i++) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const tracked = outgoing.track(promise);
    jest.advanceTimersByTime(SILENCE_MS - 100);
    resolve();
    await tracked;
  }
  jest.advanceTimersByTime(10 * SILENCE_MS);
  expect(silences).toEqual([]);
});
