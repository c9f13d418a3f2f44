/** `bun run bench:micro`: the parts that are measured, and a process of its own for each. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHistogram } from "node:perf_hooks";
import { measure } from "mitata";
import { LIMITS_DEFAULT } from "../../src/limits.ts";
import { encode } from "../../src/protocol/ascii.ts";
import { LineReader } from "../../src/protocol/line-reader.ts";
import { BroadcastGroup } from "../../src/stream/broadcast-group.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Request, SHAPES } from "../../src/protocol/request.ts";
import { Connection } from "../../src/net/connection.ts";
import type { Transport } from "../../src/net/transport.ts";
import { createCore } from "../../src/server/core.ts";
import { openStore } from "../../src/storage/recovery.ts";
import type { Store } from "../../src/storage/store.ts";
import { Account } from "../../src/chat/session.ts";
import { WheelTimer, TimerWheel } from "../../src/timer-wheel.ts";
import { TimerHeap } from "./heap.ts";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../command-line.ts";
import { UsageError } from "../../src/usage-error.ts";
import { Histogram } from "../report/histogram.ts";
import { digits } from "../report/statistics.ts";

const USAGE = `Usage: bun run bench:micro [options]

Measures single parts, each in a process of its own: after several benchmarks in one process, the compiler stops
inlining calls. Each measured call repeats the operation a thousand times. Prints nanoseconds per operation.

  --filter <text>   measures only parts whose name contains the text
  --case <name>     measures one part in this process
  --help            prints this page
`;

/** Operations per measured call. */
const OPERATIONS = 1000;
/** Prepares a part and returns the function to measure, which does OPERATIONS operations. */
type Part = () => () => unknown;

const turn = { markDirty: (): void => {} };
const line = encode("message SEAS 0123456789012345678901234567890123456789012345678901234567890123\n");
const text = line.subarray(13, line.length - 1);

const PARTS: Record<string, Part> = {
  "line reader: a line of 77 bytes": () => {
    const chunk = Buffer.concat(Array.from({ length: OPERATIONS }, () => line));
    const reader = new LineReader(4096);
    return () => {
      let bytes = 0;
      reader.feed(chunk);
      while (reader.next()) bytes += reader.end - reader.start;
      return bytes;
    };
  },
  "request: verb and words of a message": () => {
    const request = new Request();
    return repeat(() => {
      const verb = request.parseVerb(line, 0, line.length - 1)!;
      return request.parseWords(SHAPES[verb]);
    });
  },
  "outbox: append a message, send, ack": () => {
    const outbox = new Outbox(turn, true);
    const head = encode("message columbia ");
    let number = 0;
    return () => {
      for (let i = 0; i < OPERATIONS; i++) outbox.appendMessage(++number, 1, head, text, 0, text.length);
      outbox.durable = outbox.end;
      while (outbox.peek()) outbox.advance(outbox.pieceEnd - outbox.pieceStart);
      return number;
    };
  },
  "broadcast: a line to 1,000 outboxes in sync, per outbox": () => {
    const group = new BroadcastGroup(turn, OPERATIONS);
    const head = encode("broadcast columbia ");
    for (let i = 0; i < OPERATIONS; i++) {
      const outbox = new Outbox(turn, true);
      outbox.sink = { flush: () => {}, write: (_bytes, _start, count) => count };
      outbox.subscribe(group);
    }
    return () => {
      group.log.append(head, text, 0, text.length);
      group.announce();
      group.durable = group.end;
      group.flush();
      return group.sent;
    };
  },
  ...timers("wheel: schedule and cancel", (count) => {
    const wheel = new TimerWheel();
    const kind = wheel.kind(() => {});
    const timers = Array.from({ length: count }, () => new WheelTimer(null));
    for (const [i, timer] of timers.entries()) wheel.schedule(timer, kind, 35_000 + (i % 1000));
    return (i) => {
      wheel.cancel(timers[i]!);
      wheel.schedule(timers[i]!, kind, 35_000 + (i % 1000));
    };
  }),
  ...timers("wheel: note activity (one store; the timer stays)", (count) => {
    const wheel = new TimerWheel();
    const kind = wheel.kind(() => {});
    const sessions = Array.from({ length: count }, () => ({ lastActivityMs: 0 }));
    for (const session of sessions) wheel.schedule(new WheelTimer(session), kind, 35_000);
    return (i) => {
      sessions[i]!.lastActivityMs = wheel.nowMs;
    };
  }),
  ...timers("binary heap: schedule and cancel", (count) => {
    const heap = new TimerHeap(count);
    for (let i = 0; i < count; i++) heap.schedule(i, 35_000 + (i % 1000));
    let now = 0;
    return (i) => {
      heap.cancel(i);
      heap.schedule(i, ++now + 35_000);
    };
  }),
  ...timers("binary heap: note activity (the timer moves)", (count) => {
    const heap = new TimerHeap(count);
    for (let i = 0; i < count; i++) heap.schedule(i, 35_000 + (i % 1000));
    let now = 0;
    return (i) => heap.rearm(i, ++now + 35_000);
  }),
  ...timers("setTimeout: clear and set", (count) => {
    const set = (): Timer => setTimeout(() => {}, 1e9);
    const handles = Array.from({ length: count }, set);
    return (i) => {
      clearTimeout(handles[i]!);
      handles[i] = set();
    };
  }),
  "server: a message, read in a chunk of 50, recorded, written": () => {
    const store = newStore();
    const ends: (() => void)[] = [];
    const names = ["columbia", "SEAS"];
    let tokens = 0;
    const { connections: all } = createCore({
      clock: { nowMs: () => 0, unixMs: Date.now },
      store,
      users: names.map((name) => ({ name, password: "secret" })),
      passwords: { verify: () => true, prove: () => new Uint8Array(0) },
      newToken: () => String(++tokens),
      idleTimeoutMs: 1e9,
      blockMs: 1e9,
      lockoutScope: "address",
      limits: { ...LIMITS_DEFAULT, requestsPerSecondMax: 0 },
      later: (end) => void ends.push(end),
      report: console.error,
    });
    const ignore = (): void => {};
    const transport: Transport = {
      isEncrypted: false,
      isWebSocket: false,
      write: (_bytes: Buffer, _start: number, count: number) => count,
      send: () => 0,
      pause: ignore,
      resume: ignore,
      shutdown: ignore,
      end: ignore,
      reset: ignore,
      handOver: ignore,
      closed: ignore,
      // The chunks are sent again and again.
      release: ignore,
    };
    const connections = names.map((name) => {
      const connection = new Connection(all, transport, "127.0.0.1");
      connection.data(encode(`login ${name} secret\n`));
      return connection;
    });
    const chunks = ["SEAS", "columbia"].map((to) => encode(`message ${to} ${text.toString()}\n`.repeat(50)));
    return () => {
      for (let i = 0; i < OPERATIONS / 100; i++) {
        connections.forEach((connection, index) => connection.data(chunks[index]!));
        for (let end = ends.pop(); end !== undefined; end = ends.pop()) end();
      }
    };
  },
  "journal: a message in a turn of 100, recorded": () => {
    const store = newStore();
    const account = new Account("SEAS");
    const outbox = new Outbox(turn, true);
    const head = encode("message columbia ");
    return () => {
      for (let i = 0; i < OPERATIONS / 100; i++) {
        for (let j = 0; j < 100; j++) outbox.appendMessage(store.newNumber(), 1, head, text, 0, text.length);
        store.appended(account, 0, outbox);
        outbox.durable = outbox.end;
        while (outbox.peek()) outbox.advance(outbox.pieceEnd - outbox.pieceStart);
        store.acked(account, outbox.ackedNumber);
        store.compact(() => true); // Old segments contain nothing that is unacknowledged.
        if (store.save() !== true) throw new Error("the journal cannot be written");
      }
    };
  },
  "histogram: record": () => {
    const histogram = new Histogram();
    let value = 1;
    return repeat(() => histogram.record((value = (value * 48_271) % 2_147_483_647) & 0xfffff));
  },
  "histogram of node:perf_hooks: record": () => {
    const histogram = createHistogram();
    let value = 1;
    return repeat(() => histogram.record(((value = (value * 48_271) % 2_147_483_647) & 0xfffff) + 1));
  },
};

function newStore(): Store {
  const folder = mkdtempSync(join(tmpdir(), "heartline-micro-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  return openStore(folder, "process", { salvage: false, unixMs: 0, progress: () => {} }).store;
}

function repeat(operation: () => unknown): () => unknown {
  return () => {
    let last: unknown;
    for (let i = 0; i < OPERATIONS; i++) last = operation();
    return last;
  };
}

/** Parts with 1,000 and with 100,000 timers armed, in an order that the CPU cannot prefetch. */
function timers(name: string, prepare: (count: number) => (index: number) => unknown): Record<string, Part> {
  const parts: Record<string, Part> = {};
  for (const count of [1_000, 100_000]) {
    parts[`${name}, ${count.toLocaleString("en")} timers`] = () => {
      const operation = prepare(count);
      const step = 7919 % count;
      let at = 0;
      return () => {
        for (let i = 0; i < OPERATIONS; i++) {
          at += step;
          if (at >= count) at -= count; // A division would take as long as the measured operation.
          operation(at);
        }
        return at;
      };
    };
  }
  return parts;
}

/** Runs the part warm before the measurement: mitata measures in batches only when the first call is fast. */
async function measured(name: string): Promise<void> {
  const run = PARTS[name]!();
  for (let i = 0; i < 200; i++) run();
  const { p50, min, max } = await measure(run);
  const ns = [p50, min, max].map((each) => each / OPERATIONS);
  process.stdout.write(`${JSON.stringify(ns)}\n`);
}

async function main(line: CommandLine<"filter" | "case">): Promise<number> {
  const one = line.text("case");
  if (one !== null) {
    if (!Object.hasOwn(PARTS, one)) throw new UsageError(`--case takes the name of a part, not "${one}"`);
    await measured(one);
    process.exit(0);
  }
  const names = Object.keys(PARTS).filter((name) => name.includes(line.text("filter") ?? ""));
  if (names.length === 0) throw new UsageError(`--filter matches no part: "${line.text("filter")}"`);
  const progress = new Progress();
  let child: Bun.Subprocess | null = null;
  onInterrupt(() => {
    progress.clear();
    child?.kill();
  });
  process.stdout.write(
    `${"ns per operation".padEnd(66)}${"median".padStart(10)}${"min".padStart(10)}${"max".padStart(10)}\n`,
  );
  let failed = 0;
  for (const [i, name] of names.entries()) {
    progress.show(`${i + 1} of ${names.length}: ${name}`);
    const part = Bun.spawn([process.execPath, import.meta.path, "--case", name], { stdout: "pipe", stderr: "pipe" });
    child = part;
    const [out, errors] = await Promise.all([part.stdout.text(), part.stderr.text()]);
    progress.clear();
    if ((await part.exited) !== 0) {
      failed++;
      process.stderr.write(`${name} failed: ${errors.slice(0, 500)}\n`);
      continue;
    }
    const cells = (JSON.parse(out) as number[]).map((ns) => digits(ns).padStart(10));
    process.stdout.write(`${name.padEnd(66)}${cells.join("")}\n`);
  }
  return failed === 0 ? 0 : 1;
}

await runProgram(
  { name: "bench:micro", usage: USAGE, options: ["filter", "case"] as const, failures: () => false },
  main,
);
