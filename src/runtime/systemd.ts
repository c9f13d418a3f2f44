/**
 * What systemd gives a service in its environment: listening sockets (sd_listen_fds(3)), and a socket for notifications
 * (sd_notify(3)). The variables are removed, so that no child process takes them as its own.
 */
import { sendDatagram } from "./kernel.ts";

type Environment = Record<string, string | undefined>;

const FIRST_DESCRIPTOR = 3;
/** A notification that the socket does not accept, since it is full, is sent this often, at this interval. */
const ATTEMPTS_MAX = 100;
const RETRY_MS = 100;

export interface InheritedSocket {
  readonly descriptor: number;
  /** FileDescriptorName= of the socket unit; empty without names. */
  readonly name: string;
}

function take(environment: Environment, name: string): string {
  const value = environment[name] ?? "";
  delete environment[name];
  return value;
}

/** The sockets that were passed to this process; none when they are for another process (`LISTEN_PID`). */
export function inheritedSockets(environment: Environment = process.env, pid = process.pid): InheritedSocket[] {
  const isOurs = take(environment, "LISTEN_PID") === String(pid);
  const count = take(environment, "LISTEN_FDS");
  const names = take(environment, "LISTEN_FDNAMES").split(":");
  if (!isOurs || !/^\d{1,3}$/.test(count)) return [];
  return Array.from({ length: Number(count) }, (_, index) => ({
    descriptor: FIRST_DESCRIPTOR + index,
    name: names[index] ?? "",
  }));
}

/** Tells the service manager about this service. Without one it does nothing. It never blocks, and never fails. */
export class ServiceManager {
  /** A path, or an abstract name that begins with `@`; empty without a manager. */
  readonly #socket: string;
  /** Lines that the socket has not accepted. */
  #unsent = "";

  constructor(environment: Environment = process.env, pid = process.pid) {
    const socket = take(environment, "NOTIFY_SOCKET");
    this.#socket = /^[/@]./.test(socket) ? socket : "";
    const watchdogMs = Number(take(environment, "WATCHDOG_USEC")) / 1000;
    const isWatched = ["", String(pid)].includes(take(environment, "WATCHDOG_PID"));
    if (isWatched && watchdogMs > 0) setInterval(() => this.notify("WATCHDOG=1"), watchdogMs / 2).unref();
  }

  /** Sends assignments such as `READY=1`. */
  notify(...assignments: string[]): void {
    if (this.#socket === "") return;
    const isWaiting = this.#unsent !== "";
    this.#unsent += assignments.map((each) => `${each}\n`).join("");
    if (!isWaiting) this.#send(ATTEMPTS_MAX);
  }

  #send(attempts: number): void {
    if (sendDatagram(this.#socket, this.#unsent) || attempts === 1) this.#unsent = "";
    else setTimeout(() => this.#send(attempts - 1), RETRY_MS).unref();
  }
}
