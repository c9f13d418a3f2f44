import pino, { type Logger } from "pino";
import { LOG_BYTES_MAX, LOG_MS } from "../limits.ts";

export type { Logger };

/**
 * The server's log on stderr: JSON lines, on a terminal something to read. Never a line a message, never a secret. Who
 * reads it may be slow, or stop: nobody waits for that, and what is too much is not logged.
 */
export class Log {
  readonly logger: Logger;
  readonly #lines = pino.destination({ fd: 2, sync: false, minLength: 1, maxLength: LOG_BYTES_MAX });

  private constructor(format: (line: string) => string) {
    this.logger = pino({ base: null }, { write: (line) => void this.#lines.write(format(line)) });
    this.#lines.on("error", () => {}); // No room for it, or a terminal that was closed: it is tried with the next line.
  }

  static async open(): Promise<Log> {
    if (!process.stderr.isTTY) return new Log((line) => line);
    const { prettyFactory } = await import("pino-pretty");
    const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === "";
    return new Log(prettyFactory({ colorize, translateTime: "SYS:HH:MM:ss" }));
  }

  /** Before the process exits: what was logged is written, unless nobody takes it in time. */
  async close(): Promise<void> {
    const written = new Promise<boolean>((resolve) => this.#lines.flush((error) => resolve(!error)));
    if (!(await Promise.race([written, Bun.sleep(LOG_MS)]))) this.#lines.destroy(); // Else its exit handler would wait.
  }
}
