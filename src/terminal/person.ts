import { join } from "node:path";
import type { ChatClient, UserEvent } from "../client/client.ts";
import { Attention } from "./attention.ts";
import type { ChatLog } from "./chat-log.ts";
import { Conversation } from "./conversation.ts";
import type { Display } from "./display.ts";
import { EXIT_USAGE, Exit } from "./exit.ts";
import { History } from "./history.ts";
import { Incoming } from "./incoming.ts";
import type { Options } from "./options.ts";
import { Outgoing } from "./outgoing.ts";
import { People } from "./people.ts";
import { PresenceLines } from "./presence.ts";
import { Questions } from "./questions.ts";
import type { Screen } from "./screen.ts";
import { stateFolder } from "./state-file.ts";
import { Transcript } from "./transcript.ts";
import { Welcome } from "./welcome.ts";

/** Composes the parts of a person's chat, from the login to the end. interactive.ts loads it while the person types. */

/** Terminals that print parts of a title or a notification. */
const WITHOUT_TITLE = /^(dumb|linux|vt\d+|ansi|cons25.*)?$/;

export class Person {
  readonly #screen: Screen;
  readonly #options: Options;
  readonly #log: ChatLog | null;
  readonly #transcript: Transcript;
  readonly #display: Display;
  readonly #people = new People();
  readonly #presence: PresenceLines;
  readonly #attention: Attention;
  readonly #questions: Questions;
  readonly #incoming: Incoming;
  readonly #outgoing: Outgoing;
  /** Outcomes of requests of an earlier run, until `start`. */
  readonly #recovered: string[] = [];
  #welcome: Welcome | null = null;

  /** Rejects when the folder of the log cannot be used. */
  static async open(screen: Screen, display: Display, options: Options): Promise<Person> {
    const log = await openLog(options.log, (why) => person.#transcript.failure(`cannot write the log: ${why}`));
    const person = new Person(screen, display, options, log);
    return person;
  }

  private constructor(screen: Screen, display: Display, options: Options, log: ChatLog | null) {
    const { TERM = "" } = process.env;
    this.#screen = screen;
    this.#options = options;
    this.#display = display;
    this.#transcript = new Transcript(screen, display);
    this.#log = log;
    this.#presence = new PresenceLines(options.presence, (text) => this.#incoming.note(display.note(text)));
    this.#attention = new Attention(
      { isBellOn: options.hasBell, hasTitle: !WITHOUT_TITLE.test(TERM) },
      performance.now(),
    );
    this.#questions = new Questions(
      (text) => this.#incoming.note(display.question(text)),
      () => display.slash,
    );
    this.#incoming = new Incoming({ ...this.#parts(), questions: this.#questions });
    this.#outgoing = new Outgoing(this.#transcript, display);
  }

  #parts() {
    return {
      transcript: this.#transcript,
      display: this.#display,
      people: this.#people,
      presence: this.#presence,
      attention: this.#attention,
      log: this.#log,
    };
  }

  /** Whether the connection is lost at the moment. */
  get isLost(): boolean {
    return this.#welcome?.isLost === true;
  }

  /** Prints an event; resolves when the kernel took its line. */
  event(event: UserEvent): Promise<void> {
    return this.#incoming.event(event);
  }

  lost(): void {
    this.#welcome?.lost();
  }

  back(): void {
    this.#welcome?.back();
  }

  /** The outcome of a request of an earlier run. */
  recovered(outcome: string): void {
    if (this.#welcome === null) this.#recovered.push(outcome);
    else this.#transcript.note(outcome);
  }

  /** The login is complete: hands the keyboard to the conversation. `leave` ends the session. */
  async start(client: ChatClient, user: string, password: string, leave: () => void): Promise<void> {
    const { host, port } = this.#options;
    const account = encodeURIComponent(`${user}@${host}:${port}`);
    const history = new History(join(stateFolder(), `${account}.history`));
    const conversation = new Conversation({
      ...this.#parts(),
      client,
      questions: this.#questions,
      outgoing: this.#outgoing,
      editor: this.#screen,
      user,
      password,
      remember: (line) => history.add(line),
      leave,
    });
    this.#screen.history = history.load();
    const parts = { client, transcript: this.#transcript, people: this.#people, outgoing: this.#outgoing };
    this.#welcome = new Welcome({ ...parts, conversation, incoming: this.#incoming });
    // The question who is here leaves before the prompt is there: what is done after that is not in the answer.
    void this.#welcome.greet();
    await new Promise((resolve) => setImmediate(resolve));
    // Without a time: the first local time of a process costs 5 ms, which are not before the prompt.
    void this.#screen.print(this.#display.note("You are in. help lists the commands, Ctrl+C leaves."));
    this.#screen.handlers = conversation;
    conversation.showPrompt();
    for (const outcome of this.#recovered) this.#transcript.note(outcome);
    this.#incoming.start();
  }

  /** Stops all timers, and restores the title. */
  end(): void {
    this.#outgoing.stop();
    this.#presence.stop();
    this.#questions.clear();
    this.#screen.writeControl(this.#attention.end());
  }
}

async function openLog(folder: string | null, onError: (why: string) => void): Promise<ChatLog | null> {
  if (folder === null) return null;
  const { ChatLog } = await import("./chat-log.ts");
  try {
    return new ChatLog(folder, onError);
  } catch (error) {
    throw new Exit(EXIT_USAGE, `cannot use the folder ${folder} for the log: ${(error as Error).message}`);
  }
}
