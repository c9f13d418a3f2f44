/**
 * Which screen the page shows, and what leads from one to the other: the start, the login, the end of a session, the
 * logout, and a second tab of the same user.
 */
import { ChatError } from "../client/errors.ts";
import { type IndexedDbState, indexedDbState } from "../client/indexed-db-state.ts";
import { ChatClient } from "../client/web-client.ts";
import { Chat } from "./chat.ts";
import { Tabs } from "./tabs.ts";
import { tickWhileHidden } from "./ticker.ts";
import { explainEnd } from "./words.ts";

/** Failures of a resume after which it is tried again, and how long the page waits. */
const TEMPORARY = ["closed", "busy", "internal", "unknown_outcome"];
const RETRY_MS = 500;
const RETRY_MS_MAX = 8_000;
/** A logout does not wait longer for the server. */
const LOGOUT_MS = 3_000;

export type Screen =
  | { kind: "starting" }
  /** `reason`: why the earlier session has ended or the login failed, as a sentence. */
  | { kind: "login"; user: string; reason: string; isBusy: boolean }
  /** Another tab shows this user. */
  | { kind: "elsewhere"; user: string }
  | { kind: "chat"; chat: Chat };

/** What this tab has of a user. */
interface Opened {
  chat: Chat;
  state: IndexedDbState;
}

export class Page {
  screen: Screen = { kind: "starting" };
  changed: () => void = () => {};
  readonly #url: string;
  readonly #tabs = new Tabs((user) => void this.#giveUp(user));
  #opened: Opened | null = null;
  #client: ChatClient | null = null;
  /** Ends the wait for a state that another tab has. */
  #wait = new AbortController();

  /** `url`: where the server takes WebSockets. */
  constructor(url: string) {
    this.#url = url;
    tickWhileHidden(() => this.#client?.keepAlive());
  }

  /** Continues the session of this tab, or that of the last user, when there is one. */
  async start(): Promise<void> {
    const { lastUser } = this.#tabs;
    if (!isSecureContext) return this.ask("", explainEnd("insecure", "", ""));
    if (lastUser === null) this.ask("");
    else await this.#continue(lastUser);
  }

  async login(user: string, password: string): Promise<void> {
    this.#go({ kind: "login", user, reason: "", isBusy: true });
    const opened = await this.#open(user);
    if (opened === null) return;
    const { chat } = opened;
    const client = this.#connect(opened);
    try {
      await client.login(user, password);
    } catch (error) {
      if (this.#client !== client) return;
      this.#client = null;
      client.close();
      const { code, detail } = asChatError(error);
      if (chat.isEmpty) await this.#delete(); // Perhaps there is no such user.
      return this.ask(user, explainEnd(code, detail, user));
    }
    chat.use(client);
    this.#go({ kind: "chat", chat });
    void chat.online();
  }

  /** Logs out, and deletes what the browser keeps of the user. */
  async logout(): Promise<void> {
    const client = this.#client;
    this.#client = null; // Its end is not reported.
    this.#go({ kind: "starting" });
    const { promise: late, resolve } = Promise.withResolvers<void>();
    setTimeout(resolve, LOGOUT_MS);
    await Promise.race([client?.logout().catch(() => {}), late]);
    client?.close();
    await this.#delete();
    this.ask("");
  }

  /** Takes the state of a user from the tab that has it. */
  takeOver(user: string): void {
    this.#tabs.want(user);
  }

  /** Asks for a name and a password. */
  ask(user: string, reason = ""): void {
    this.#wait.abort();
    this.#go({ kind: "login", user, reason, isBusy: false });
  }

  /** Shows what is stored of a user, and resumes the session. When there is none, the password is asked for. */
  async #continue(user: string): Promise<void> {
    this.#go({ kind: "starting" });
    const opened = await this.#open(user);
    if (opened === null) return;
    if (opened.chat.isNew) return this.ask(user);
    this.#go({ kind: "chat", chat: opened.chat });
    await this.#resume(opened);
  }

  /** Tries until the server answers. */
  async #resume(opened: Opened): Promise<void> {
    const { chat } = opened;
    const client = this.#connect(opened);
    for (let delayMs = RETRY_MS; ; delayMs = Math.min(delayMs * 2, RETRY_MS_MAX)) {
      try {
        await client.resume(chat.user);
        chat.use(client);
        return void chat.online();
      } catch (error) {
        if (this.#client !== client) return;
        const { code, detail } = asChatError(error);
        if (!TEMPORARY.includes(code)) {
          this.#client = null;
          client.close();
          return this.#ended(chat, code, detail);
        }
        chat.lost();
      }
      await pause(delayMs);
      if (this.#client !== client) return;
    }
  }

  /** Opens what is stored of a user, when no other tab has it. Null when that fails, or something else was begun. */
  async #open(user: string): Promise<Opened | null> {
    if (this.#opened?.chat.user === user) return this.#opened;
    await this.#close();
    this.#wait.abort();
    const { signal } = (this.#wait = new AbortController());
    try {
      const onInUse = (): void => this.#go({ kind: "elsewhere", user });
      const state = await indexedDbState(user, { onInUse, signal });
      const [kept, saved] = await Promise.all([state.kept(), state.load()]);
      const chat = new Chat(user, state, kept, saved);
      chat.changed = () => this.changed();
      this.#tabs.show(user);
      return (this.#opened = { chat, state });
    } catch (error) {
      if (!signal.aborted) this.ask(user, explainEnd(asChatError(error).code, "", user));
      return null;
    }
  }

  #connect({ chat, state }: Opened): ChatClient {
    const client = new ChatClient({
      url: this.#url,
      store: () => state,
      onEvent: (event) => chat.event(event),
      onLost: () => chat.lost(),
      onBack: () => void chat.online(),
      onRecovered: (request, error, reply) => chat.recovered(request, error, reply),
    });
    this.#client = client;
    void client.ended.then((reason) => {
      if (this.#client !== client) return;
      this.#client = null;
      this.#ended(chat, reason, client.endDetail);
    });
    return client;
  }

  /** The session has ended. What is stored of the user stays open, for the next login. */
  #ended(chat: Chat, code: string, detail: string): void {
    const [reason = ""] = detail.split(" ", 1);
    const isFinal = code === "unknown_session" && reason !== "";
    this.ask(chat.user, isFinal ? explainEnd(reason, "", chat.user) : explainEnd(code, detail, chat.user));
  }

  /** Another tab wants the state of this user. This one waits until that one is closed. */
  async #giveUp(user: string): Promise<void> {
    if (this.#opened?.chat.user !== user) return;
    await this.#close();
    await this.#continue(user);
  }

  /** Ends the connection without a logout, and lets another tab have the state. */
  async #close(): Promise<void> {
    this.#client?.close();
    this.#client = null;
    const { state } = this.#opened ?? {};
    this.#opened = null;
    await state?.close();
  }

  async #delete(): Promise<void> {
    const { chat, state } = this.#opened!;
    this.#opened = null;
    this.#tabs.forget(chat.user);
    await state.delete();
  }

  #go(screen: Screen): void {
    this.screen = screen;
    this.changed();
  }
}

function asChatError(error: unknown): ChatError {
  return error instanceof ChatError ? error : new ChatError("closed");
}

/** Ends sooner when the browser is connected to a network again. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
  });
}
