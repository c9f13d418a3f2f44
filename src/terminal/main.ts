import { onEndingSignal } from "../runtime/keyboard.ts";
import { formatAddress } from "../runtime/host.ts";
import { ChatClient, type ChatClientOptions, ChatError } from "../client/client.ts";
import { Display, type Printable, printable, rendered } from "./display.ts";
import { UsageError } from "../usage-error.ts";
import { type Options, USAGE, parseOptions } from "./options.ts";
import { OutputWriter } from "./output.ts";
import { retry } from "../client/retry.ts";
import { Screen } from "./screen.ts";
import { SCRIPT_LINE_BYTES_MAX, scriptLines } from "./script.ts";
import { StateFile, StateInUse, stateFolder } from "./state-file.ts";
import { type Output, Terminal, canBeName, explain, explainEnd, explainUnreachable } from "./terminal.ts";

const DID_NOT_GET_IN = 1;
const BAD_USAGE = 2;
const SESSION_ENDED = 3;

/** Ends the program with words for its user. */
class Exit extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

const output = new OutputWriter(process.stdout);
const errors = new OutputWriter(process.stderr);
/** Saves the state and closes the session. Lines that still wait are not printed: the next login brings them again. */
let hangUp = (): void => {};
/** Lets another client of the user on this machine have the state; and whether one wants it. */
let releaseState = (): void => {};
let isTakenOver = false;

/** Refusals that another name or password does not help against. */
const FINAL = ["locked_out", "closed", "untrusted", "needs_tls"];

/** How long a logout waits for its reply when the user leaves: the server may be away. */
const LOGOUT_MS = 5_000;
/** Bound of the wait for output at exit, on a terminal and for standard error. */
const LEAVE_MS = 1_000;

/** How long a script waits for a server that went away. */
const SCRIPT_GIVES_UP_MS = 30_000;

/** With people: asks for name and password until they are right, then chats until they leave. */
async function runInteractive(options: Options): Promise<void> {
  const display = new Display(hasColors(process.stdout));
  const screen = new Screen(process.stdin, process.stdout, output, (line) => terminal.complete(line));
  const client = newClient(options, Number.POSITIVE_INFINITY, screen, {
    onEvent: (event) => {
      if (event.kind === "goodbye") goodbye = event.reason;
      return terminal.hear(event);
    },
    onLost: () => {
      screen.print(display.note("* the connection was lost; what you say waits until it is back"));
      screen.setPrompt("(lost) > ");
    },
    onBack: () => screen.setPrompt("> "),
    onUntrusted: (error) => screen.print(display.failure(distrusted(error))),
    onRecovered: (request, error) => terminal.recover(request, error),
  });
  const terminal = new Terminal(client, screen, display);
  let goodbye = "";
  onEndingSignal(() => screen.quit(false));
  try {
    const quit = new Promise<never>((_, reject) => {
      screen.onQuit = () => reject(new Exit(DID_NOT_GET_IN, "not logged in"));
    });
    await Promise.race([quit, reach(client, options, screen, display)]);
    await Promise.race([quit, askUntilIn(client, screen, display, options)]);
    screen.print(display.note("You are in. help lists the commands, Ctrl+C leaves."));
    terminal.start();
    screen.setPrompt("> ");
    // Replies come in order; only what is said privately may take longer, and holds nothing up.
    screen.onLine = (line) => void terminal.run(line);
    screen.onQuit = () => {
      screen.onQuit = (byCtrlC) => byCtrlC && hangUp();
      void logOut(client);
    };
    const reason = await client.ended;
    if (reason === goodbye) throw new Exit(SESSION_ENDED, ""); // Already shown.
    farewell(reason);
  } finally {
    screen.close();
  }
}

async function askUntilIn(
  client: ChatClient,
  screen: Screen,
  display: Display,
  { user: givenUser, password: givenPassword, host, tls }: Options,
): Promise<void> {
  let user = givenUser;
  for (;;) {
    user ??= await screen.ask("Name: ");
    if (user !== null && !canBeName(user)) {
      screen.print(display.failure(`${user} cannot be a user name`));
      user = null;
      continue;
    }
    const password = user === null ? null : (givenPassword ?? (await screen.ask("Password: ", true)));
    if (user === null || password === null) throw new Exit(DID_NOT_GET_IN, "not logged in");
    try {
      return await logIn(client, user, password, Number.POSITIVE_INFINITY, screen, display);
    } catch (error) {
      const refusal = refused(error, user, host, tls);
      const { code } = error as ChatError;
      const asked = code === "wrong_password" ? givenPassword === null : givenUser === null;
      if (FINAL.includes(code) || !asked) throw new Exit(DID_NOT_GET_IN, refusal);
      screen.print(display.failure(refusal));
      if (code !== "wrong_password") user = givenUser;
    }
  }
}

/** With a script: one command after the other, each when the one before is answered. */
async function runScript(options: Options): Promise<void> {
  const { user, password, host, tls } = options;
  if (user === null || password === null) {
    throw new Exit(BAD_USAGE, "there is no terminal to ask on: give --user and HEARTLINE_PASSWORD");
  }
  const display = new Display(hasColors(process.stdout));
  const surface = {
    print: (line: Printable) => output.write(rendered(line, process.stdout)),
    fail: (line: Printable) => void errors.write(rendered(line, process.stderr)),
  };
  const client = newClient(options, SCRIPT_GIVES_UP_MS, surface, {
    onEvent: (event) => terminal.hear(event),
    onUntrusted: (error) => surface.fail(printable(distrusted(error))),
    onRecovered: (request, error) => terminal.recover(request, error),
  });
  const terminal = new Terminal(client, surface, display);
  await reach(client, options, surface, display);
  await logIn(client, user, password, SCRIPT_GIVES_UP_MS, surface, display).catch((error: unknown) => {
    throw new Exit(DID_NOT_GET_IN, refused(error, user, host, tls));
  });
  terminal.start();
  for await (const line of scriptLines(process.stdin, client.ended)) {
    if (line !== null) await terminal.run(line);
    else surface.fail(display.failure(`a line has more than ${SCRIPT_LINE_BYTES_MAX} bytes; it is skipped`));
  }
  await client.catchUp().catch(() => {});
  await output.idle(); // So that the logout acknowledges all of it.
  await client.logout().catch(hangUp);
  farewell(await client.ended);
}

/** Logs in; retries while the server has no room. */
async function logIn(
  client: ChatClient,
  user: string,
  password: string,
  giveUpMs: number,
  surface: Output,
  display: Display,
): Promise<void> {
  let isTold = false;
  const attempt = async (): Promise<void> => {
    try {
      await client.login(user, password);
    } catch (error) {
      releaseState();
      const isBusy = error instanceof ChatError && error.code === "busy";
      if (isBusy && !isTold) surface.fail(display.failure(`${explain(error, user)}; trying on`));
      isTold ||= isBusy;
      throw error;
    }
  };
  await retry(attempt, ["busy"], giveUpMs);
}

/**
 * Ends the session in good order: all that was printed is acknowledged. Without a reply in time it hangs up. A pipe's
 * reader is waited for before that time starts: what it reads after the end is not saved, and would come again.
 */
async function logOut(client: ChatClient): Promise<void> {
  if (!process.stdout.isTTY) await output.idle();
  setTimeout(hangUp, LOGOUT_MS);
  await output.idle();
  await client.logout().catch(hangUp);
}

/** A client that keeps what it needs to lose nothing and to show nothing twice, also when it is killed. */
function newClient(
  { host, typedHost, port, tls, callback, listenPort }: Options,
  giveUpMs: number,
  surface: Output,
  hears: Partial<ChatClientOptions>,
): ChatClient {
  const store = async (user: string): Promise<StateFile> => {
    const folder = stateFolder();
    const onFault = (why: string): void => surface.fail(printable(`cannot keep the session's state: ${why}`));
    try {
      const file = new StateFile(folder, user, host, port, onFault, typedHost);
      releaseState = () => file.release();
      await file.claim(() => {
        isTakenOver = true;
        void logOut(client);
      });
      return file;
    } catch (error) {
      if (error instanceof StateInUse) throw new Exit(DID_NOT_GET_IN, `${error.message}; end it first`);
      throw new Exit(DID_NOT_GET_IN, `cannot use ${folder} (XDG_STATE_HOME): ${(error as Error).message}`);
    }
  };
  const session = callback ? "callback" : "resumable";
  const address = { host, port, tls };
  const client = new ChatClient({
    ...address,
    session,
    listenPort: listenPort ?? undefined,
    store,
    giveUpMs,
    ...hears,
  });
  hangUp = () => {
    client.close();
    output.discard();
  };
  return client;
}

/** Connects, and says so before a password goes where others may read it. */
async function reach(
  client: ChatClient,
  { host, port, tls }: Options,
  surface: Output,
  display: Display,
): Promise<void> {
  await client.connect().catch((error: unknown) => {
    if (error instanceof ChatError && error.code === "busy") return; // The login tries again.
    throw new Exit(DID_NOT_GET_IN, `cannot reach ${formatAddress(host, port)}: ${explainUnreachable(error, host)}`);
  });
  if (tls !== false || client.isThisMachine) return;
  surface.fail(display.failure(`without --tls, others on the way to ${host} can read your password and all you say`));
}

function distrusted({ detail }: ChatError): string {
  return `not connected again: ${detail}; trying on`;
}

/** Leaving is no failure; everything else was said by the server, or nobody could say it. */
function farewell(reason: string): void {
  if (isTakenOver) throw new Exit(SESSION_ENDED, "another client of yours on this machine has taken the session over");
  if (reason === "logout") return;
  throw new Exit(SESSION_ENDED, explainEnd(reason));
}

function hasColors(output: NodeJS.WriteStream): boolean {
  return output.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== "dumb";
}

function refused(error: unknown, user: string, host: string, tls: Options["tls"]): string {
  if (!(error instanceof ChatError)) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === undefined) throw error;
    if (syscall !== "listen")
      throw new Exit(DID_NOT_GET_IN, `cannot reach the server: ${explainUnreachable(error, host)}`);
    throw new Exit(DID_NOT_GET_IN, `cannot listen for private chats: ${code}; --listen chooses another port`);
  }
  switch (error.code) {
    case "wrong_password":
      return `wrong password; ${error.detail} ${error.detail === "1" ? "try" : "tries"} left`;
    case "locked_out":
      return `too many wrong passwords: ${user} is locked out from here for ${error.detail} seconds`;
    case "closed":
    case "unknown_outcome": // The login of a callback session had no answer.
      if (error.detail === "" && tls === false) return "the server closed the connection; if it speaks TLS, try --tls";
      return explain(error, user);
    default:
      return explain(error, user);
  }
}

function complain(message: string): void {
  void errors.write(rendered(printable(`heartline: ${message}`), process.stderr));
}

/** Exits when the output is written. A pipe's reader is waited for without a bound, a terminal for LEAVE_MS. */
async function leave(code: number): Promise<never> {
  const all = Promise.all([output.idle(), Promise.race([errors.idle(), errors.failed, Bun.sleep(LEAVE_MS)])]);
  await (process.stdout.isTTY ? Promise.race([all, Bun.sleep(LEAVE_MS)]) : all);
  process.exit(code);
}

/** A write error ends the program; silently when the reader has closed the pipe. */
void output.failed.then(({ code, message }) => {
  // After the promises of all lines that were taken.
  setImmediate(() => {
    hangUp();
    if (code === "EPIPE") process.exit(0);
    complain(`cannot write: ${message}`);
    setImmediate(() => process.exit(SESSION_ENDED));
  });
});

/** `heartline chat`. The exit codes are in USAGE. */
export async function main(args: string[]): Promise<void> {
  try {
    const options = parseOptions(args);
    if (options === null) void output.write(USAGE);
    else if (process.stdin.isTTY && process.stdout.isTTY) await runInteractive(options);
    else await runScript(options);
    await leave(0);
  } catch (error) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (error instanceof UsageError) {
      complain(`${message} (--help shows how)`);
      return leave(BAD_USAGE);
    }
    // Any other fault is the program's own.
    if (!(error instanceof Exit || error instanceof ChatError) && syscall === undefined) throw error;
    if (message !== "") complain(message);
    await leave(error instanceof Exit ? error.code : DID_NOT_GET_IN);
  }
}
