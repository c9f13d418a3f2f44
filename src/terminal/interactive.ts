import { ChatError } from "../client/client.ts";
import { isConnectionEvent } from "../client/event.ts";
import { onEndingSignal } from "../runtime/keyboard.ts";
import { ClientSession } from "./client-session.ts";
import { isUserName } from "./commands.ts";
import { Display, hasColors, hasUtf8 } from "./display.ts";
import { EXIT_NO_LOGIN, EXIT_SESSION_ENDED, Exit, output } from "./exit.ts";
import { explainLogin, explainRecovered } from "./explanations.ts";
import type { Options } from "./options.ts";
import type { Person } from "./person.ts";
import { Screen } from "./screen.ts";

/** The client for a person at a terminal: asks for name and password, logs in, and waits for the end. */

/** Refusals of a login that another name or password does not change. */
const FINAL_REFUSALS = ["locked_out", "closed", "untrusted", "needs_tls"];

export async function runInteractive(options: Options): Promise<void> {
  const isDumb = ["dumb", undefined, ""].includes(process.env.TERM);
  const isColored = options.hasColors && hasColors(process.stdout);
  const display = new Display(isColored, isColored && hasUtf8(process.env));
  const screen = new Screen(process.stdin, process.stdout, output, !isDumb);
  let goodbye = "";
  let person: Person | null = null;
  let loading: Promise<Person> | null = null;
  /** Loads the rest of the program: while the person types, or while the server checks the password. */
  const load = (): Promise<Person> => {
    loading ??= import("./person.ts")
      .then(({ Person }) => Person.open(screen, display, options))
      .then((loaded) => (person = loaded));
    return loading;
  };
  const session = new ClientSession(options, Number.POSITIVE_INFINITY, screen, display, {
    onEvent: (event) => {
      if (isConnectionEvent(event)) return event.kind === "lost" ? person?.lost() : person?.back();
      if (event.kind === "goodbye") goodbye = event.reason;
      // The first events may arrive with the login reply. They stay in order: `person` is set before these callbacks.
      return person === null ? load().then((loaded) => loaded.event(event)) : person.event(event);
    },
    onRecovered: (request, error) => void load().then((loaded) => loaded.recovered(explainRecovered(request, error))),
  });
  onEndingSignal(() => screen.quit(false));
  try {
    const quit = new Promise<never>((_, reject) => {
      screen.onQuit = () => reject(new Exit(EXIT_NO_LOGIN, "not logged in"));
    });
    if (options.password !== null) void load().catch(() => {});
    await Promise.race([quit, session.connect()]);
    const { user, password } = await Promise.race([quit, logIn(session, screen, display, options, load)]);
    const started = await load();
    screen.onQuit = () => {
      screen.onQuit = (byCtrlC) => byCtrlC && session.hangUp();
      if (started.isLost) session.hangUp();
      else void session.logOut();
    };
    await started.start(session.client, user, password, () => screen.quit(true));
    const reason = await session.client.ended;
    if (reason === goodbye) throw new Exit(EXIT_SESSION_ENDED, ""); // The event has already been printed.
    session.checkEnd(reason);
  } finally {
    (person as Person | null)?.end();
    screen.close();
  }
}

/**
 * Asks for what the command line does not give, until the login succeeds or is refused for good. `load` prepares what
 * the session needs.
 */
async function logIn(
  session: ClientSession,
  screen: Screen,
  display: Display,
  options: Options,
  load: () => Promise<unknown>,
): Promise<{ user: string; password: string }> {
  let { user } = options;
  const ask = async (question: string, isSecret = false): Promise<string | null> => {
    const answer = screen.ask(question, isSecret);
    await load();
    return answer;
  };
  for (;;) {
    user ??= await ask("Name: ");
    if (user !== null && !isUserName(user)) {
      screen.print(display.failure(`${user} cannot be a user name`));
      user = null;
      continue;
    }
    const password = user === null ? null : (options.password ?? (await ask("Password: ", true)));
    if (user === null || password === null) throw new Exit(EXIT_NO_LOGIN, "not logged in");
    if (!/^[^ \t]+$/.test(password)) {
      const why = password === "" ? "a password is not empty" : "a password has no spaces";
      if (options.password !== null)
        throw new Exit(EXIT_NO_LOGIN, `${why}; change HEARTLINE_PASSWORD or the file of --password-file`);
      screen.print(display.failure(`${why}; type it again`));
      continue;
    }
    try {
      await Promise.all([session.logIn(user, password), load()]);
      return { user, password };
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
