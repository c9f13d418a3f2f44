import { afterEach, expect, test } from "bun:test";
import { Readiness, type ServerState } from "../../src/server/readiness.ts";
import { type HandledSignal, handleSignals } from "../../src/server/signals.ts";

const SIGNALS: HandledSignal[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"];
const before = new Map(SIGNALS.map((signal) => [signal, process.listeners(signal)]));

afterEach(() => {
  for (const signal of SIGNALS) {
    for (const listener of process.listeners(signal)) {
      if (!before.get(signal)!.includes(listener)) process.removeListener(signal, listener);
    }
  }
});

/** What each signal does in the last of these states. */
function acts(...states: ServerState[]): Record<string, string> {
  const readiness = new Readiness();
  for (const state of states) expect(readiness.enter(state)).toBe(true);
  const called: Record<string, string> = {};
  const note = (act: string) => (signal: HandledSignal) => void (called[signal] = act);
  handleSignals(readiness, {
    stop: note("stop"),
    drain: note("drain"),
    reload: note("reload"),
    reloadLater: note("reloadLater"),
    exit: note("exit"),
    ignore: note("ignore"),
  });
  for (const signal of SIGNALS) process.emit(signal, signal);
  return called;
}

test("during recovery SIGUSR2 is ignored, SIGHUP waits until the server listens, and SIGTERM exits", () => {
  expect(acts()).toMatchObject({ SIGUSR2: "ignore", SIGHUP: "reloadLater", SIGTERM: "exit", SIGINT: "exit" });
});

test("during a drain SIGTERM and SIGINT stop in order, and SIGUSR2 is ignored", () => {
  expect(acts("serving", "draining")).toMatchObject({ SIGTERM: "stop", SIGINT: "stop", SIGUSR2: "ignore" });
});

test("during the stop SIGUSR2 and SIGHUP are ignored", () => {
  expect(acts("serving", "stopping")).toMatchObject({ SIGUSR2: "ignore", SIGHUP: "ignore" });
});

test("a server that drains or stops cannot serve again, and one that stops cannot drain", () => {
  const readiness = new Readiness();
  expect(readiness.enter("draining")).toBe(false);
  readiness.enter("serving");
  expect(readiness.enter("draining")).toBe(true);
  expect(readiness.enter("serving")).toBe(false);
  expect(readiness.obstacle).toBe("draining");
  expect(readiness.enter("stopping")).toBe(true);
  expect(readiness.enter("draining")).toBe(false);
  expect(readiness.obstacle).toBe("draining");
});
