import type { Logger } from "../runtime/log.ts";
import type { Readiness, ServerState } from "./readiness.ts";

export type HandledSignal = "SIGINT" | "SIGTERM" | "SIGHUP" | "SIGUSR1" | "SIGUSR2";

/**
 * - `stop`: ends all sessions, and exits in order.
 * - `drain`: ends the sessions one after another, then stops.
 * - `reload`: reads files again; `reloadLater`: when the server listens.
 * - `exit`: exits at once. Nothing that was acknowledged is lost.
 */
type Act = "stop" | "drain" | "reload" | "reloadLater" | "exit" | "ignore";

const ON_SIGNAL: Record<ServerState, Record<HandledSignal, Act>> = {
  recovering: { SIGINT: "exit", SIGTERM: "exit", SIGHUP: "reloadLater", SIGUSR1: "ignore", SIGUSR2: "ignore" },
  spare: { SIGINT: "exit", SIGTERM: "exit", SIGHUP: "reloadLater", SIGUSR1: "ignore", SIGUSR2: "exit" },
  serving: { SIGINT: "stop", SIGTERM: "stop", SIGHUP: "reload", SIGUSR1: "ignore", SIGUSR2: "drain" },
  draining: { SIGINT: "stop", SIGTERM: "stop", SIGHUP: "reload", SIGUSR1: "ignore", SIGUSR2: "ignore" },
  stopping: { SIGINT: "exit", SIGTERM: "exit", SIGHUP: "ignore", SIGUSR1: "ignore", SIGUSR2: "ignore" },
};

/** An act that is not there yet does nothing. */
export type SignalActs = { [act in Act]?: (signal: HandledSignal) => void };

/** From now on each signal does what the state of the server asks for. */
export function handleSignals(readiness: Readiness, acts: SignalActs): void {
  for (const signal of Object.keys(ON_SIGNAL.serving) as HandledSignal[]) {
    process.on(signal, () => acts[ON_SIGNAL[readiness.state][signal]]?.(signal));
  }
}

/** Ctrl+C reaches the server and `bun start`, which forwards it: a SIGINT within this time is not a second signal. */
const ECHO_MS = 100;

/** A first signal to stop calls `end`; a second one calls `quit`, which ends the process at once. */
export function stopActs(log: Logger, end: () => void, quit: () => void): SignalActs {
  let stoppedMs = Number.NEGATIVE_INFINITY;
  const stop = (signal: HandledSignal): void => {
    stoppedMs = performance.now();
    log.info({ event: "stopping", signal }, `${signal}: the server stops; a second signal exits at once`);
    end();
  };
  const exit = (signal: HandledSignal): void => {
    if (stoppedMs < 0) return stop(signal); // It is the first one: the stop follows a drain.
    const isEcho = signal === "SIGINT" && performance.now() - stoppedMs < ECHO_MS;
    if (!isEcho) quit();
  };
  return { stop, exit };
}
