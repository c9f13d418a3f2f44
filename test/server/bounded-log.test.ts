import { expect, test } from "bun:test";
import pino from "pino";
import { LOG_ADDRESSES_LISTED, LOG_ADDRESSES_MAX, LOG_LINES_MAX, LOG_WINDOW_MS } from "../../src/limits.ts";
import type { LogEvent } from "../../src/runtime/log.ts";
import { BoundedLog } from "../../src/server/bounded-log.ts";

/** A bounded log under a clock that the test moves, and the lines that it wrote. */
class Bench {
  nowMs = 1000;
  readonly #json: string[] = [];
  readonly #pino = pino({ level: "info", base: null }, { write: (line) => void this.#json.push(line) });
  readonly log = new BoundedLog(this.#pino, () => this.nowMs);

  /** Lines of that event, one from each address. */
  write(count: number, event: LogEvent = "login_failed", address = (i: number) => `192.0.2.${i % 200}`): void {
    for (let i = 0; i < count; i++) this.log.warn({ event, address: address(i) }, "login failed");
  }

  pass(ms: number): void {
    this.nowMs += ms;
    this.log.summarize();
  }

  set level(level: pino.Level) {
    this.#pino.level = level;
  }

  /** The lines since the last call. */
  read(): Record<string, unknown>[] {
    return this.#json.splice(0).map((line) => JSON.parse(line));
  }
}

test("100 lines of an event in ten seconds are written one by one, without a summary", () => {
  const bench = new Bench();
  bench.write(LOG_LINES_MAX);
  bench.pass(2 * LOG_WINDOW_MS);
  expect(bench.read()).toHaveLength(100);
});

test("lines beyond the first 100 are counted by address in one line at the end of the ten seconds", () => {
  const bench = new Bench();
  bench.write(LOG_LINES_MAX);
  bench.pass(9000);
  bench.write(30, "login_failed", () => "2001:db8::7");
  bench.write(3, "login_failed", () => "198.51.100.1");
  bench.pass(999);
  expect(bench.read()).toHaveLength(100);
  bench.pass(1);
  expect(bench.read()).toMatchObject([
    {
      level: 40,
      event: "login_failed",
      count: 33,
      seconds: 10,
      addresses: { "2001:db8::7": 30, "198.51.100.1": 3 },
      others: 0,
    },
  ]);
});

test("each event has lines of its own, and more when its ten seconds are over", () => {
  const bench = new Bench();
  bench.write(150);
  bench.write(150, "login");
  expect(bench.read()).toHaveLength(200);
  bench.nowMs += LOG_WINDOW_MS; // The next line comes before the periodic call.
  bench.write(150);
  const lines = bench.read();
  expect(lines).toHaveLength(101);
  expect(lines[0]).toMatchObject({ event: "login_failed", count: 50 });
  bench.log.summarize();
  expect(bench.read()).toMatchObject([{ event: "login", count: 50 }]);
});

test("a summary lists the 20 addresses with the most lines, and counts 256, however many there are", () => {
  const bench = new Bench();
  bench.write(LOG_LINES_MAX);
  bench.write(100_000, "login_failed", (i) => (i % 2 === 0 ? "198.51.100.1" : `2001:db8::${i.toString(16)}`));
  bench.pass(LOG_WINDOW_MS);
  const [summary] = bench.read().slice(LOG_LINES_MAX);
  const counts = summary!.addresses as Record<string, number>;
  expect(Object.keys(counts)).toHaveLength(LOG_ADDRESSES_LISTED);
  expect(counts["198.51.100.1"]).toBe(50_000);
  expect(summary).toMatchObject({ count: 100_000, others: 50_000 - (LOG_ADDRESSES_LISTED - 1) });
  expect(JSON.stringify(summary).length).toBeLessThan(1000);
  expect(LOG_ADDRESSES_MAX).toBe(256);
});

test("lines without an address are counted as none", () => {
  const bench = new Bench();
  for (let i = 0; i < 105; i++) bench.log.error({ event: "internal_error" }, "internal error");
  bench.pass(LOG_WINDOW_MS);
  expect(bench.read().at(-1)).toMatchObject({ level: 50, count: 5, addresses: { none: 5 } });
});

test("close writes the summaries before their time", () => {
  const bench = new Bench();
  bench.write(102);
  bench.log.close();
  expect(bench.read().at(-1)).toMatchObject({ event: "login_failed", count: 2 });
  bench.pass(LOG_WINDOW_MS);
  expect(bench.read()).toEqual([]);
});

test("a fatal line is always written", () => {
  const bench = new Bench();
  for (let i = 0; i < 101; i++) bench.log.error({ event: "disk_error" }, "the disk refuses");
  bench.read();
  bench.log.fatal({ event: "disk_error" }, "the server exits");
  expect(bench.read()).toMatchObject([{ level: 60, msg: "the server exits" }]);
});

test("a summary has the level of its event, so a level that hides the lines hides it too", () => {
  const bench = new Bench();
  bench.level = "error";
  bench.write(200);
  bench.pass(LOG_WINDOW_MS);
  expect(bench.read()).toEqual([]);
});
