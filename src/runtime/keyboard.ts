import { Transform } from "node:stream";
import { StringDecoder } from "node:string_decoder";

/** Signals that end a program at a terminal. */
const ENDING_SIGNALS = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"] as const;

/**
 * A terminal's input for readline, which takes U+2028 and U+2029 for the end of a line, so that a pasted text would
 * become several lines. Here they become spaces; only Enter ends a line.
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
 * Has `end` end the program after a signal. The runtime restores the terminal when a program exits by itself, but not
 * when SIGHUP or SIGQUIT kill it: the shell would be left without echo.
 */
export function onEndingSignal(end: (signal: NodeJS.Signals) => void): void {
  for (const signal of ENDING_SIGNALS) process.on(signal, end);
}
