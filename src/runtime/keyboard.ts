import { Transform } from "node:stream";
import { StringDecoder } from "node:string_decoder";

/** What programs that read from a terminal need: line input for readline, and signals that restore the terminal. */

/** Signals that end a program at a terminal. */
const ENDING_SIGNALS = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"] as const;

/**
 * The input of a terminal for readline. Readline treats U+2028 and U+2029 as line ends, so a pasted text could become
 * several lines. Here they become spaces: only Enter ends a line.
 */
export function keyboard(terminal: NodeJS.ReadStream): NodeJS.ReadStream {
  const decoder = new StringDecoder("utf8");
  const keys = new Transform({
    transform: (chunk: Buffer, _encoding, done) => done(null, decoder.write(chunk).replace(/[\u2028\u2029]/g, " ")),
  });
  terminal.pipe(keys);
  for (const end of ["error", "close"]) terminal.on(end, () => keys.end());
  return Object.assign(keys, {
    isTTY: true,
    setRawMode: (isRaw: boolean) => terminal.setRawMode(isRaw),
  }) as unknown as NodeJS.ReadStream;
}

/**
 * Calls `end` on each signal that ends the program; it must exit. The runtime restores the terminal when the program
 * exits by itself, but not when SIGHUP or SIGQUIT kill it: the shell would then have no echo.
 */
export function onEndingSignal(end: (signal: NodeJS.Signals) => void): void {
  for (const signal of ENDING_SIGNALS) process.on(signal, end);
}
