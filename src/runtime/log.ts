import { createColors } from "picocolors";
import pino, { type Level } from "pino";
import { filterText } from "../display-filter.ts";
import { LOG_BYTES_MAX, LOG_MS } from "../limits.ts";

/** The `event` of each line: operators search for it, so the names stay. docs/operating.md has the fields of each. */
export const LOG_EVENTS = [
  // The server
  "listening",
  "web",
  "http",
  "config_warning",
  "reload",
  "admin",
  "drain",
  "stopping",
  "signal_ignored",
  "stopped",
  "internal_error",
  "worker_exit",
  // The data folder
  "recovered",
  "salvaged",
  "disk_error",
  "disk_recovered",
  // The cluster
  "spare",
  "claimed",
  "no_owner",
  "owner",
  "engine_away",
  "engine_back",
  "deposed",
  "cluster_error",
  "released",
  "snapshot",
  "snapshot_failed",
  "relay_failed",
  "spare_unseen",
  "link_up",
  "link_lost",
  "neighbour_error",
  // Users and connections
  "login",
  "login_failed",
  "lockout",
  "session_end",
  "slow",
  "flood",
  "connection_refused",
] as const;
export type LogEvent = (typeof LOG_EVENTS)[number];

/** What a line has besides its message. Never a password, a token, a ticket or the text of a message. */
export interface LogFields {
  event: LogEvent;
  [field: string]: unknown;
}

type Write = (fields: LogFields, message: string) => void;

export interface Logger {
  /** Lines below this level are not written. It may change at any time. */
  level: string;
  info: Write;
  warn: Write;
  error: Write;
  fatal: Write;
}

/**
 * The server's log on stderr: JSON lines, or formatted text on a terminal. It has no line per message and no secrets.
 * Writing never blocks the server: when the reader of stderr is slow, lines beyond LOG_BYTES_MAX are dropped.
 */
export class Log {
  readonly logger: Logger;
  readonly #lines = pino.destination({ fd: 2, sync: false, minLength: 1, maxLength: LOG_BYTES_MAX });

  /** `base`: fields of each line. */
  constructor(level: Level, base: object | null = null) {
    const isColored = (process.env.NO_COLOR ?? "") === "";
    const format = process.stderr.isTTY ? (line: string) => formatLine(line, isColored) : (line: string) => line;
    this.logger = pino({ base, level }, { write: (line) => void this.#lines.write(format(line)) });
    this.#lines.on("error", () => {}); // A full buffer or a closed terminal: the next line is tried again.
  }

  /** Drops the pending lines before an exit that must not wait: pino's exit handler repeats a write that fails. */
  abandon(): void {
    this.#lines.destroy();
  }

  /** Writes the pending lines before the process exits, for LOG_MS at most. */
  async close(): Promise<void> {
    const written = new Promise<boolean>((resolve) => this.#lines.flush((error) => resolve(!error)));
    const isWritten = await Promise.race([written, Bun.sleep(LOG_MS)]);
    if (!isWritten) this.abandon();
  }
}

/** One JSON line as text for a terminal: local time, level, message, fields, and the stack of an error below. */
export function formatLine(json: string, isColored: boolean): string {
  const { level, time, msg, err, ...fields } = JSON.parse(json);
  const { bold, dim, red, yellow, green } = createColors(isColored);
  const color = level >= pino.levels.values.error! ? red : level >= pino.levels.values.warn! ? yellow : green;
  const name = color(pino.levels.labels[level]!.toUpperCase().padEnd(5));
  const shown = Object.entries(fields).map(([field, value]) => `${field}=${show(value)}`);
  const stack = err === undefined ? [] : String(err.stack ?? err.message ?? show(err)).split("\n");
  const head = `${dim(new Date(time).toTimeString().slice(0, 8))} ${name} ${bold(show(msg))}`;
  const below = stack.map((row) => `\n    ${filterText(row)}`).join("");
  return `${head} ${dim(shown.join(" "))}${below}\n`;
}

function show(value: unknown): string {
  return filterText(typeof value === "string" ? value : JSON.stringify(value));
}
