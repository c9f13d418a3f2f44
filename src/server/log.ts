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

  private constructor(format: ((line: string) => string) | null) {
    const lines = this.#lines;
    const formatted = format === null ? lines : { write: (line: string) => void lines.write(format(line)) };
    this.logger = pino({ base: null }, formatted);
  }

  static async open(): Promise<Log> {
    if (!process.stderr.isTTY) return new Log(null);
    const { prettyFactory } = await import("pino-pretty");
    const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === "";
    return new Log(prettyFactory({ colorize, translateTime: "SYS:HH:MM:ss" }));
  }

  /** Before the process exits: what was logged is written, unless nobody takes it in time. */
  async close(): Promise<void> {
    const lines = this.#lines;
    const written = new Promise<boolean>((resolve) => lines.flush(() => resolve(true)));
    if (await Promise.race([written, Bun.sleep(LOG_MS)])) return;
    lines.destroy(); // Else its own exit handler would wait.
  }
}
