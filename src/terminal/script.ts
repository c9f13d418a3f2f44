import { decode, isConnectionEvent } from "../client/event.ts";
import { LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import type { ChatClient, UserEvent } from "../client/client.ts";
import { ClientSession } from "./client-session.ts";
import { COMMANDS, HELP_LINES } from "./commands.ts";
import { Display, type Printable, hasColors } from "./display.ts";
import { EXIT_NO_LOGIN, EXIT_REFUSED, EXIT_USAGE, Exit, errors, output } from "./exit.ts";
import { explainLogin } from "./explanations.ts";
import { JsonReporter } from "./json-reporter.ts";
import type { Options } from "./options.ts";
import { parse } from "./parse.ts";
import { PlainReporter, type Reporter } from "./reporter.ts";
import { rendered } from "./rows.ts";

/** The client without a terminal: reads commands from standard input and prints plain lines, or JSON. */

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
  const display = new Display(options.hasColors && hasColors(process.stdout));
  const messages = {
    print: (line: Printable) => output.write(rendered(line, process.stdout)),
    fail: (line: Printable) => void errors.write(rendered(line, process.stderr)),
  };
  const reporter = options.json ? new JsonReporter((line) => output.write(line)) : new PlainReporter(messages, display);
  const session = new ClientSession(options, GIVE_UP_MS, messages, display, {
    onEvent: (event) => (isConnectionEvent(event) ? reporter.connection(event.kind) : script.event(event)),
    onRecovered: (request, error) => reporter.recovered(request, error),
  });
  const { client } = session;
  const script = new Script(client, reporter);
  await session.connect();
  await session.logIn(user, password).catch((error: unknown) => {
    throw new Exit(EXIT_NO_LOGIN, explainLogin(error, user, options));
  });
  script.start();
  for await (const line of scriptLines(process.stdin, client.ended)) {
    if (line !== null) await script.run(line);
    else script.skip(`a line has more than ${SCRIPT_LINE_BYTES_MAX} bytes; it is skipped`);
  }
  await client.catchUp().catch(() => {});
  await output.idle(); // So that the logout acknowledges all of it.
  await client.logout().catch(() => session.hangUp());
  session.checkEnd(await client.ended);
  if (script.hasRefusals) throw new Exit(EXIT_REFUSED, "");
}

/** Carries out the commands of a script, and reports replies and events. It uses no stream and no socket. */
export class Script {
  /** Whether a command was refused, or was invalid. */
  hasRefusals = false;
  readonly #client: ChatClient;
  readonly #reporter: Reporter;
  /** The number of the last command, from 1. */
  #request = 0;
  /** Events before `start`; null from then on. */
  #early: { event: UserEvent; resolve: (printed: Promise<void>) => void }[] | null = [];

  constructor(client: ChatClient, reporter: Reporter) {
    this.#client = client;
    this.#reporter = reporter;
  }

  /** Reports the events so far, and from now on each one at once. The first may arrive with the login reply. */
  start(): void {
    const early = this.#early ?? [];
    this.#early = null;
    for (const { event, resolve } of early) resolve(this.#reporter.event(event));
  }

  /** Reports an event; resolves when the kernel took it. */
  event(event: UserEvent): Promise<void> {
    const early = this.#early;
    if (early === null) return this.#reporter.event(event);
    return new Promise((resolve) => early.push({ event, resolve }));
  }

  /** Carries out one line; resolves when the outcome is reported. */
  async run(line: string): Promise<void> {
    const context = {
      partner: null,
      hasLocal: false,
      asker: null,
      resolve: (typed: string) => typed,
      doubt: () => null,
    };
    const parsed = parse(line, context);
    if (parsed.kind === "nothing") return;
    const request = ++this.#request;
    if (parsed.kind === "local") return this.#reporter.help(request, HELP_LINES);
    if (parsed.kind === "wrong") return this.#invalid(request, parsed.code, parsed.reason);
    if (parsed.kind !== "command") throw new Error("a script has no partner");
    try {
      const result = await COMMANDS[parsed.verb]!.run(this.#client, parsed.user, parsed.text);
      await this.#reporter.done(request, result);
    } catch (error) {
      this.hasRefusals = true;
      this.#reporter.refused(request, error, parsed.user);
    }
  }

  /** A line was too long to be read. */
  skip(reason: string): void {
    this.#invalid(++this.#request, "line_too_long", reason);
  }

  #invalid(request: number, code: string, reason: string): void {
    this.hasRefusals = true;
    this.#reporter.invalid(request, code, reason);
  }
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
