import { join } from "node:path";
import { ChatError } from "../client/client.ts";
import { onEndingSignal } from "../runtime/keyboard.ts";
import { Attention } from "./attention.ts";
import { ChatLog } from "./chat-log.ts";
import { ClientSession } from "./client-session.ts";
import { isUserName } from "./commands.ts";
import { Conversation } from "./conversation.ts";
import { Display, hasColors, hasUtf8 } from "./display.ts";
import { EXIT_NO_LOGIN, EXIT_SESSION_ENDED, EXIT_USAGE, Exit, output } from "./exit.ts";
import { explainLogin, explainRecovered } from "./explanations.ts";
import { History } from "./history.ts";
import { Incoming } from "./incoming.ts";
import type { Options } from "./options.ts";
import { Outgoing } from "./outgoing.ts";
import { People } from "./people.ts";
import { PresenceLines } from "./presence.ts";
import { Questions } from "./questions.ts";
import { Screen } from "./screen.ts";
import { stateFolder } from "./state-file.ts";
import { Transcript } from "./transcript.ts";
import { Welcome } from "./welcome.ts";

/** The client for a person at a terminal: asks for name and password, then hands the keyboard to the conversation. */

/** Refusals of a login that another name or password does not change. */
const FINAL_REFUSALS = ["locked_out", "closed", "untrusted", "needs_tls"];
/** Terminals that print parts of a title or a notification. */
const WITHOUT_TITLE = /^(dumb|linux|vt\d+|ansi|cons25.*)?$/;

export async function runInteractive(options: Options): Promise<void> {
  const { TERM = "" } = process.env;
  const isDumb = TERM === "dumb" || TERM === "";
  const isColored = options.hasColors && hasColors(process.stdout);
  const display = new Display(isColored, isColored && hasUtf8(process.env));
  const log = openLog(options, (why) => transcript.failure(`cannot write the log: ${why}`));
  const screen = new Screen(process.stdin, process.stdout, output, !isDumb);
  const transcript = new Transcript(screen, display);
  const people = new People();
  const presence = new PresenceLines(options.presence, (text) => incoming.note(display.note(text)));
  const attention = new Attention({ isBellOn: options.hasBell, hasTitle: !WITHOUT_TITLE.test(TERM) });
  const questions = new Questions(
    (text) => incoming.note(display.question(text)),
    () => display.slash,
  );
  const incoming = new Incoming({ transcript, display, people, presence, attention, questions, log });
  const outgoing = new Outgoing(transcript, display);
  const session = new ClientSession(options, Number.POSITIVE_INFINITY, screen, display, {
    onEvent: (event) => {
      if (event.kind === "goodbye") goodbye = event.reason;
      return incoming.event(event);
    },
    onLost: () => welcome?.lost(),
    onBack: () => welcome?.back(),
    onRecovered: (request, error) => {
      const outcome = explainRecovered(request, error);
      if (welcome === null) recovered.push(outcome);
      else transcript.note(outcome);
    },
  });
  let goodbye = "";
  /** Outcomes of requests of an earlier run, until the login is complete. */
  const recovered: string[] = [];
  let welcome: Welcome | null = null;
  onEndingSignal(() => screen.quit(false));
  try {
    const quit = new Promise<never>((_, reject) => {
      screen.onQuit = () => reject(new Exit(EXIT_NO_LOGIN, "not logged in"));
    });
    await Promise.race([quit, session.connect()]);
    const { user, password } = await Promise.race([quit, logIn(session, screen, display, options)]);
    const history = new History(
      join(stateFolder(), `${encodeURIComponent(`${user}@${options.host}:${options.port}`)}.history`),
    );
    const parts = {
      client: session.client,
      transcript,
      display,
      people,
      presence,
      attention,
      questions,
      outgoing,
      log,
    };
    const remember = (line: string): void => history.add(line);
    const leave = (): void => screen.quit(true);
    const conversation = new Conversation({ ...parts, editor: screen, user, password, remember, leave });
    screen.history = history.load();
    transcript.note("You are in. help lists the commands, Ctrl+C leaves.");
    for (const outcome of recovered) transcript.note(outcome);
    screen.handlers = conversation;
    conversation.showPrompt();
    incoming.start();
    welcome = new Welcome({ ...parts, conversation, incoming });
    void welcome.greet();
    screen.onQuit = () => {
      screen.onQuit = (byCtrlC) => byCtrlC && session.hangUp();
      if (welcome?.isLost === true) session.hangUp();
      else void session.logOut();
    };
    const reason = await session.client.ended;
    if (reason === goodbye) throw new Exit(EXIT_SESSION_ENDED, ""); // The event has already been printed.
    session.checkEnd(reason);
  } finally {
    outgoing.stop();
    presence.stop();
    questions.clear();
    screen.writeControl(attention.end());
    screen.close();
  }
}

function openLog({ log }: Options, onError: (why: string) => void): ChatLog | null {
  if (log === null) return null;
  try {
    return new ChatLog(log, onError);
  } catch (error) {
    throw new Exit(EXIT_USAGE, `cannot use the folder ${log} for the log: ${(error as Error).message}`);
  }
}

/** Asks for what the command line does not give, until the login succeeds or is refused for good. */
async function logIn(
  session: ClientSession,
  screen: Screen,
  display: Display,
  options: Options,
): Promise<{ user: string; password: string }> {
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
    if (options.password === null && !/^[^ \t]+$/.test(password)) {
      const why = password === "" ? "a password is not empty" : "a password has no spaces";
      screen.print(display.failure(`${why}; type it again`));
      continue;
    }
    try {
      await session.logIn(user, password);
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
