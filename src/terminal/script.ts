import { decode } from "../client/event.ts";
import { LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { ClientSession } from "./client-session.ts";
import { Display, type Printable, hasColors, rendered } from "./display.ts";
import { EXIT_NO_LOGIN, EXIT_USAGE, Exit, errors, output } from "./exit.ts";
import { explainLogin } from "./explanations.ts";
import type { Options } from "./options.ts";
import { Terminal } from "./terminal.ts";

/** The client without a terminal: reads commands from standard input and prints plain lines. */

/** How long a script tries to reach a lost or full server again. */
const GIVE_UP_MS = 30_000;
/** Longer than any line that a server or a private chat accepts. */
const SCRIPT_LINE_BYTES_MAX = LINE_BYTES_MAX;
const LINE_FEED = Buffer.from("\n");

/** Runs one command after the other: each begins when the one before has its reply. */
export async function runScript(options: Options): Promise<void> {
  const { user, password } = options;
  if (user === null || password === null) {
    throw new Exit(
      EXIT_USAGE,
      "there is no terminal to ask for name and password: set --user, and HEARTLINE_PASSWORD or --password-file",
    );
  }
  const display = new Display(hasColors(process.stdout));
  const messages = {
    print: (line: Printable) => output.write(rendered(line, process.stdout)),
    fail: (line: Printable) => void errors.write(rendered(line, process.stderr)),
  };
  const session = new ClientSession(options, GIVE_UP_MS, messages, display, {
    onEvent: (event) => terminal.showEvent(event),
    onRecovered: (request, error) => terminal.showRecovered(request, error),
  });
  const { client } = session;
  const terminal = new Terminal(client, messages, display);
  await session.connect();
  await session.logIn(user, password).catch((error: unknown) => {
    throw new Exit(EXIT_NO_LOGIN, explainLogin(error, user, options));
  });
  terminal.start();
  for await (const line of scriptLines(process.stdin, client.ended)) {
    if (line !== null) await terminal.run(line);
    else messages.fail(display.failure(`a line has more than ${SCRIPT_LINE_BYTES_MAX} bytes; it is skipped`));
  }
  await client.catchUp().catch(() => {});
  await output.idle(); // So that the logout acknowledges all of it.
  await client.logout().catch(() => session.hangUp());
  session.checkEnd(await client.ended);
}

/**
 * The lines of a script until the end of the input or of the session. A line ends at LF only, and one CR before it is
 * dropped; all other bytes belong to the line. Bytes after the last LF are a line, too. Yields null for a line that is
 * too long.
 */
async function* scriptLines(
  input: AsyncIterable<Buffer>,
  ended: Promise<unknown>,
): AsyncGenerator<string | null, void> {
  const reader = new LineReader(SCRIPT_LINE_BYTES_MAX);
  const chunks = input[Symbol.asyncIterator]();
  const sessionEnd = ended.then(() => null);
  let isFirst = true;
  for (let isOpen = true; isOpen;) {
    const next = await Promise.race([chunks.next(), sessionEnd]);
    if (next === null) return;
    isOpen = next.done !== true;
    reader.feed(isOpen ? next.value : LINE_FEED);
    while (reader.next()) {
      const line = reader.tooLong ? null : decode(reader.bytes, reader.start, reader.end);
      // Some editors write a byte order mark at the beginning of a file.
      yield isFirst ? (line?.replace(/^\ufeff/, "") ?? null) : line;
      isFirst = false;
    }
  }
}
