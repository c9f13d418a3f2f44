import { LINE_BYTES_MAX } from "../limits.ts";
import { ChatClient, type ChatClientOptions, ChatError } from "../client/client.ts";
import { retry } from "../client/retry.ts";
import { formatAddress } from "../runtime/host.ts";
import type { Display } from "./display.ts";
import { EXIT_NO_LOGIN, EXIT_SESSION_ENDED, Exit, beforeErrorExit, output } from "./exit.ts";
import { explainEnd, explainError, explainUnreachable } from "./explanations.ts";
import type { Options } from "./options.ts";
import { StateFile, StateInUse, stateFolder } from "./state-file.ts";
import type { Output } from "./reporter.ts";

/** Limit of the wait for the reply to a logout: the server may be away. */
const LOGOUT_MS = 5_000;

/**
 * The program's session from the connection to its end: the client of the library, and the state file that survives
 * this process. It reads no input; interactive.ts and script.ts do.
 */
export class ClientSession {
  readonly client: ChatClient;
  readonly #options: Options;
  /** How long a lost or full server is tried again. */
  readonly #giveUpMs: number;
  readonly #messages: Output;
  readonly #display: Display;
  #state: StateFile | null = null;
  /** Another client of the user on this machine has asked for the state. */
  #isTakenOver = false;

  /** `messages` shows warnings and errors to the user; `handlers` get the events of the client. */
  constructor(
    options: Options,
    giveUpMs: number,
    messages: Output,
    display: Display,
    handlers: Pick<ChatClientOptions, "onEvent" | "onRecovered">,
  ) {
    this.#options = options;
    this.#giveUpMs = giveUpMs;
    this.#messages = messages;
    this.#display = display;
    const { host, port, tls, callback, listenPort } = options;
    this.client = new ChatClient({
      ...handlers,
      host,
      port,
      tls,
      session: callback ? "callback" : "resumable",
      listenPort: listenPort ?? undefined,
      giveUpMs,
      lineBytesMax: LINE_BYTES_MAX, // The server says when a line is too long for it.
      store: (user) => this.#openState(user),
      onUntrusted: ({ detail }) => this.#fail(`cannot reconnect: ${detail}; trying again`),
    });
    beforeErrorExit({ leave: () => this.#leave(), hangUp: () => this.hangUp() });
  }

  /** Connects. Prints a warning before a password goes over a network without encryption. */
  async connect(): Promise<void> {
    const { host, port, tls } = this.#options;
    await this.client.connect().catch((error: unknown) => {
      if (error instanceof ChatError && error.code === "busy") return; // `logIn` tries again.
      throw new Exit(EXIT_NO_LOGIN, `cannot reach ${formatAddress(host, port)}: ${explainUnreachable(error, host)}`);
    });
    if (tls !== false || this.client.isThisMachine) return;
    this.#fail(`without --tls, others on the network to ${host} can read your password and your messages`);
  }

  /** Logs in, and tries again while the server is busy. Rejects with the last error of the client. */
  async logIn(user: string, password: string): Promise<void> {
    let isReported = false;
    const attempt = async (): Promise<void> => {
      try {
        await this.client.login(user, password);
      } catch (error) {
        this.#state?.release();
        const isBusy = error instanceof ChatError && error.code === "busy";
        if (isBusy && !isReported) this.#fail(`${explainError(error, user)}; trying again`);
        isReported ||= isBusy;
        throw error;
      }
    };
    await retry(attempt, ["busy"], this.#giveUpMs);
  }

  /**
   * Acknowledges all that was printed and logs out; hangs up when no reply comes in time. The wait for a pipe's reader
   * comes before that time starts: what it reads after the end is not saved, and would be printed again.
   */
  async logOut(): Promise<void> {
    if (!process.stdout.isTTY) await output.idle();
    setTimeout(() => this.hangUp(), LOGOUT_MS);
    await output.idle();
    await this.client.logout().catch(() => this.hangUp());
  }

  /** As `logOut`, after a write error: what was not printed is not acknowledged, and comes again at the next login. */
  async #leave(): Promise<void> {
    await Promise.race([this.client.logout().catch(() => {}), Bun.sleep(LOGOUT_MS)]);
  }

  /** Saves the state and closes the session. Pending lines are not printed: the next login gets them again. */
  hangUp(): void {
    this.client.close();
    output.discard();
  }

  /** Returns after a logout; any other end of the session is an Exit with its reason. */
  checkEnd(reason: string): void {
    if (this.#isTakenOver)
      throw new Exit(EXIT_SESSION_ENDED, "another client of the same user on this machine has taken over the session");
    if (reason !== "logout") throw new Exit(EXIT_SESSION_ENDED, explainEnd(reason, this.client.endDetail));
  }

  async #openState(user: string): Promise<StateFile> {
    const { host, typedHost, port } = this.#options;
    const folder = stateFolder();
    const onSaveError = (why: string): void =>
      this.#fail(`cannot save the session in ${folder}: ${why}; messages may be shown again at the next login`);
    try {
      const file = new StateFile(folder, user, host, port, onSaveError, typedHost);
      this.#state = file;
      await file.claim(() => {
        this.#isTakenOver = true;
        void this.logOut();
      });
      return file;
    } catch (error) {
      if (error instanceof StateInUse) throw new Exit(EXIT_NO_LOGIN, `${error.message}; stop it first`);
      const { message } = error as Error;
      throw new Exit(
        EXIT_NO_LOGIN,
        `cannot use the state folder ${folder}: ${message}; XDG_STATE_HOME sets another one`,
      );
    }
  }

  #fail(text: string): void {
    this.#messages.fail(this.#display.failure(text));
  }
}
