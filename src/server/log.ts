import pino, { type Logger } from "pino";

export type { Logger };

/** The server's log on stderr: JSON lines, on a terminal something to read. Never a line a message, never a secret. */
export async function openLog(): Promise<Logger> {
  if (!process.stderr.isTTY) return pino({ base: null }, pino.destination({ fd: 2, sync: true }));
  const { default: pretty } = await import("pino-pretty");
  const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === "";
  return pino({ base: null }, pretty({ colorize, destination: 2, sync: true, translateTime: "SYS:HH:MM:ss" }));
}
