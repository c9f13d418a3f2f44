import { ChatError } from "../client/client.ts";
import { onEndingSignal } from "../runtime/keyboard.ts";
import { ClientSession } from "./client-session.ts";
import { isUserName } from "./commands.ts";
import { Display, hasColors } from "./display.ts";
import { EXIT_NO_LOGIN, EXIT_SESSION_ENDED, Exit, output } from "./exit.ts";
import { explainLogin } from "./explanations.ts";
import type { Options } from "./options.ts";
import { Screen } from "./screen.ts";
import { Terminal } from "./terminal.ts";

/** The client for a person at a terminal: asks for name and password, then carries out typed commands. */

/** Refusals of a login that another name or password does not change. */
const FINAL_REFUSALS = ["locked_out", "closed", "untrusted", "needs_tls"];

export async function runInteractive(options: Options): Promise<void> {
  const display = new Display(hasColors(process.stdout));
  const screen = new Screen(process.stdin, process.stdout, output, (line) => terminal.complete(line));
  const session = new ClientSession(options, Number.POSITIVE_INFINITY, screen, display, {
    onEvent: (event) => {
      if (event.kind === "goodbye") goodbye = event.reason;
      return terminal.showEvent(event);
    },
    onLost: () => {
      screen.print(display.note("* the connection was lost; commands that you type now wait until it is back"));
      screen.setPrompt("(lost) > ");
    },
    onBack: () => screen.setPrompt("> "),
    onRecovered: (request, error) => terminal.showRecovered(request, error),
  });
  const terminal = new Terminal(session.client, screen, display);
  let goodbye = "";
  onEndingSignal(() => screen.quit(false));
  try {
    const quit = new Promise<never>((_, reject) => {
      screen.onQuit = () => reject(new Exit(EXIT_NO_LOGIN, "not logged in"));
    });
    await Promise.race([quit, session.connect()]);
    await Promise.race([quit, logIn(session, screen, display, options)]);
    screen.print(display.note("You are in. help lists the commands, Ctrl+C leaves."));
    terminal.start();
    screen.setPrompt("> ");
    // Not awaited: replies come in order, and a private message that takes longer delays no other command.
    screen.onLine = (line) => void terminal.run(line);
    screen.onQuit = () => {
      screen.onQuit = (byCtrlC) => byCtrlC && session.hangUp();
      void session.logOut();
    };
    const reason = await session.client.ended;
    if (reason === goodbye) throw new Exit(EXIT_SESSION_ENDED, ""); // The event has already been printed.
    session.checkEnd(reason);
  } finally {
    screen.close();
  }
}

/** Asks for what the command line does not give, until the login succeeds or is refused for good. */
async function logIn(session: ClientSession, screen: Screen, display: Display, options: Options): Promise<void> {
  let { user } = options;
  for (;;) {
    user ??= await screen.ask("Name: ");
    if (user !== null && !isUserName(user)) {
      screen.print(display.failure(`${user} cannot be a user name`));
      user = null;
      continue;
    }
    const password = user === null ? null : (options.password ?? (await screen.ask("Password: ", true)));
    if (user === null || password === null) throw new Exit(EXIT_NO_LOGIN, "not logged in");
    try {
      return await session.logIn(user, password);
    } catch (error) {
      const refusal = explainLogin(error, user, options);
      const code = error instanceof ChatError ? error.code : "closed";
      const wasTyped = code === "wrong_password" ? options.password === null : options.user === null;
      if (FINAL_REFUSALS.includes(code) || !wasTyped) throw new Exit(EXIT_NO_LOGIN, refusal);
      screen.print(display.failure(refusal));
      if (code !== "wrong_password") user = options.user;
    }
  }
}
