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
