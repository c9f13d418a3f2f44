import pino, { type Logger } from "pino";
import { LOG_BYTES_MAX, LOG_MS } from "../limits.ts";

export type { Logger };

/**
 * The server's log on stderr: JSON lines, or formatted text on a terminal. It has no line per message and no secrets.
 * Writing never blocks the server: when the reader of stderr is slow, lines beyond LOG_BYTES_MAX are dropped.
 */
export class Log {
  readonly logger: Logger;
  readonly #lines = pino.destination({ fd: 2, sync: false, minLength: 1, maxLength: LOG_BYTES_MAX });

  private constructor(format: (line: string) => string) {
    this.logger = pino({ base: null }, { write: (line) => void this.#lines.write(format(line)) });
    this.#lines.on("error", () => {}); // A full buffer or a closed terminal: the next line is tried again.
  }

  static async open(): Promise<Log> {
    if (!process.stderr.isTTY) return new Log((line) => line);
    const { prettyFactory } = await import("pino-pretty");
    const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === "";
    return new Log(prettyFactory({ colorize, translateTime: "SYS:HH:MM:ss" }));
  }

  /** Writes the pending lines before the process exits, for LOG_MS at most. */
  async close(): Promise<void> {
    const written = new Promise<boolean>((resolve) => this.#lines.flush((error) => resolve(!error)));
    const isWritten = await Promise.race([written, Bun.sleep(LOG_MS)]);
    if (!isWritten) this.#lines.destroy(); // Otherwise pino's exit handler waits for the reader.
  }
}
