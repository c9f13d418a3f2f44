import { AddressCounts } from "../address-counts.ts";
import { LOG_LINES_MAX, LOG_WINDOW_MS } from "../limits.ts";
import type { LogEvent, LogFields, Logger } from "../runtime/log.ts";

type Level = "info" | "warn" | "error";

/** The time from the first line of an event on. */
interface Window {
  level: Level;
  endMs: number;
  lines: number;
  /** Lines beyond LOG_LINES_MAX, which were not written. */
  withheld: AddressCounts;
}

/**
 * A log whose length an attacker cannot choose: of each event it writes LOG_LINES_MAX lines in LOG_WINDOW_MS one by
 * one. When that time is over, one line has the number of the others, by address.
 */
export class BoundedLog implements Logger {
  readonly #log: Logger;
  /** Monotonic. */
  readonly #nowMs: () => number;
  readonly #windows = new Map<LogEvent, Window>();

  constructor(log: Logger, nowMs: () => number) {
    this.#log = log;
    this.#nowMs = nowMs;
  }

  get level(): string {
    return this.#log.level;
  }

  set level(level: string) {
    this.#log.level = level;
  }

  info(fields: LogFields, message: string): void {
    this.#write("info", fields, message);
  }

  warn(fields: LogFields, message: string): void {
    this.#write("warn", fields, message);
  }

  error(fields: LogFields, message: string): void {
    this.#write("error", fields, message);
  }

  /** The last line of a process is never withheld. */
  fatal(fields: LogFields, message: string): void {
    this.#log.fatal(fields, message);
  }

  /** Called periodically: writes the summaries that are due. */
  summarize(): void {
    const nowMs = this.#nowMs();
    for (const [event, { endMs }] of this.#windows) if (nowMs >= endMs) this.#end(event);
  }

  /** Writes all summaries, before the process exits. */
  close(): void {
    for (const event of this.#windows.keys()) this.#end(event);
  }

  #write(level: Level, fields: LogFields, message: string): void {
    const { event, address } = fields;
    const window = this.#window(event, level);
    if (++window.lines <= LOG_LINES_MAX) this.#log[level](fields, message);
    else window.withheld.add(typeof address === "string" ? address : "none");
  }

  #window(event: LogEvent, level: Level): Window {
    const nowMs = this.#nowMs();
    const open = this.#windows.get(event);
    if (open !== undefined && nowMs < open.endMs) return open;
    if (open !== undefined) this.#end(event);
    const window = { level, endMs: nowMs + LOG_WINDOW_MS, lines: 0, withheld: new AddressCounts() };
    this.#windows.set(event, window);
    return window;
  }

  #end(event: LogEvent): void {
    const { level, withheld } = this.#windows.get(event)!;
    this.#windows.delete(event);
    if (withheld.total === 0) return;
    const { addresses, others } = withheld.summary();
    const seconds = LOG_WINDOW_MS / 1000;
    this.#log[level](
      { event, count: withheld.total, seconds, addresses: Object.fromEntries(addresses), others },
      `${withheld.total} more in ${seconds} s, which are only counted`,
    );
  }
}
