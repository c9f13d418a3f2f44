import pino, { type Logger } from "pino";
import { LOG_BYTES_MAX, LOG_MS } from "../limits.ts";

export type { Logger };

/**
 * The server's log on stderr: JSON lines, on a terminal something to read. Never a line a message, never a secret. Who
 * reads it may be slow, or stop: nobody waits for that, and what is too much is not logged.
 */
export class Log {
  readonly logger: Logger;
  readonly #lines: ReturnType<typeof pino.destination> | null;

  private constructor(logger: Logger, lines: ReturnType<typeof pino.destination> | null) {
    this.logger = logger;
    this.#lines = lines;
  }

  static async open(): Promise<Log> {
    if (!process.stderr.isTTY) {
      const lines = pino.destination({ fd: 2, sync: false, minLength: 1, maxLength: LOG_BYTES_MAX });
      return new Log(pino({ base: null }, lines), lines);
    }
    const { default: pretty } = await import("pino-pretty");
    const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === "";
    const options = { colorize, destination: 2, sync: true, translateTime: "SYS:HH:MM:ss" };
    return new Log(pino({ base: null }, pretty(options)), null);
  }

  /** Before the process exits: what was logged is written, unless nobody takes it in time. */
  async close(): Promise<void> {
    const lines = this.#lines;
    if (lines === null) return;
    const written = new Promise<boolean>((resolve) => lines.flush(() => resolve(true)));
    if (await Promise.race([written, Bun.sleep(LOG_MS)])) return;
    lines.destroy(); // Else its own exit handler would wait.
  }
}
