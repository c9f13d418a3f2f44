import { printable } from "./display.ts";
import { rendered } from "./rows.ts";
import { OutputWriter, writeFault } from "../runtime/output.ts";

/**
 * How the program ends: the exit codes, the last line on standard error, and the wait for pending output. It owns the
 * writers of standard output and standard error.
 */

/** Exit codes; USAGE (options.ts) explains them. */
export const EXIT_NO_LOGIN = 1;
export const EXIT_USAGE = 2;
export const EXIT_SESSION_ENDED = 3;
export const EXIT_REFUSED = 4;

/** The longest wait for pending output at exit: for a terminal, and for standard error. */
const FLUSH_MS = 1_000;

/** Ends the program with an exit code and a message for the user; an empty message prints nothing. */
export class Exit extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

export const output = new OutputWriter(process.stdout);
export const errors = new OutputWriter(process.stderr);

/** How the session ends before the program exits after a write error. */
interface SessionEnd {
  /** Logs out, within a bounded time. */
  leave(): Promise<void>;
  hangUp(): void;
}

let session: SessionEnd = { leave: () => Promise.resolve(), hangUp: () => {} };

export function beforeErrorExit(end: SessionEnd): void {
  session = end;
}

// A write error on standard output ends the program: a reader of the pipe has gone, or the window was closed.
void output.failed.then((error) => {
  // `setImmediate` runs after the promises of all lines that the kernel took: the logout acknowledges these lines.
  setImmediate(async () => {
    await session.leave();
    session.hangUp();
    const fault = writeFault(error);
    if (fault === null) process.exit(0);
    printError(fault);
    setImmediate(() => process.exit(EXIT_SESSION_ENDED));
  });
});

export function printError(message: string): void {
  void errors.write(rendered(printable(`heartline: ${message}`), process.stderr));
}

/**
 * Exits when pending output is written. It waits without a limit for a pipe, and at most FLUSH_MS for a terminal and
 * for standard error.
 */
export async function exit(code: number): Promise<never> {
  const written = Promise.all([output.idle(), Promise.race([errors.idle(), errors.failed, Bun.sleep(FLUSH_MS)])]);
  await (process.stdout.isTTY ? Promise.race([written, Bun.sleep(FLUSH_MS)]) : written);
  if (output.hasFailed) await new Promise(() => {}); // The program exits with the code of the write error; see above.
  process.exit(code);
}
