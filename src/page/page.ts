/**
 * Which screen the page shows, and what leads from one to the other: the start, the login, the end of a session, the
 * logout, and a second page of the same user.
 */
import { ChatError } from "../client/errors.ts";
import { Chat } from "./chat.ts";
import { PageClient } from "./page-client.ts";
import { Database } from "./database.ts";
import { Tabs } from "./tabs.ts";
import { explainEnd, explainLogin } from "./words.ts";

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
  /** Another page shows this user. */
  | { kind: "elsewhere"; user: string }
  | { kind: "chat"; chat: Chat };

export class Page {
  screen: Screen = { kind: "starting" };
  changed: () => void = () => {};
  readonly #url: string;
  readonly #tabs = new Tabs(() => void this.#database?.owned());
  #database: Database | null = null;
  #client: PageClient | null = null;
  /** Its database is open. Null before the login. */
  #chat: Chat | null = null;

  /** `url`: where the server takes WebSockets. */
  constructor(url: string) {
    this.#url = url;
  }

  /** Continues the session of this tab, or that of the last user, when there is one. */
  async start(): Promise<void> {
    const { ownUser, lastUser } = this.#tabs;
    if (ownUser !== null) return this.continue(ownUser);
    if (lastUser === null) return this.#ask("", "");
    if (await this.#tabs.isShownElsewhere(lastUser)) return this.#go({ kind: "elsewhere", user: lastUser });
    return this.continue(lastUser);
  }

  /** Shows what is stored of a user, and resumes the session. When there is none, the password is asked for. */
  async continue(user: string): Promise<void> {
    this.#go({ kind: "starting" });
    let chat: Chat;
    try {
      chat = await this.#open(user);
    } catch (error) {
      return this.#ask(user, storageFailure(error));
    }
    if (this.#database!.load() === null) return this.#ask(user, "");
    this.#show(chat);
    await this.#resume(chat);
  }

  /** Tries until the server answers. */
  async #resume(chat: Chat): Promise<void> {
    const client = this.#connect(chat);
    for (let delayMs = RETRY_MS; ; delayMs = Math.min(delayMs * 2, RETRY_MS_MAX)) {
      try {
        await client.resume(chat.user);
        chat.use(client);
        return void chat.online(false);
      } catch (error) {
        if (this.#client !== client) return;
        const { code, detail } = error instanceof ChatError ? error : new ChatError("closed");
        if (!TEMPORARY.includes(code)) {
          this.#client = null;
          client.close();
          return this.#ask(chat.user, explainEnd(detail === "" ? code : detail.split(" ", 1)[0]!, "", chat.user));
        }
        chat.lost();
      }
      await pause(delayMs);
      if (this.#client !== client) return;
    }
  }

  async login(user: string, password: string): Promise<void> {
    this.#go({ kind: "login", user, reason: "", isBusy: true });
    let chat: Chat;
    try {
      chat = await this.#open(user);
    } catch (error) {
      return this.#ask(user, storageFailure(error));
    }
    const client = this.#connect(chat);
    try {
      await client.login(user, password);
    } catch (error) {
      client.close();
      if (this.#client !== client) return;
      this.#ask(user, explainLogin(error, user));
      if (chat.isEmpty) await this.#forget(user); // Perhaps there is no such user.
      return;
    }
    chat.use(client);
    this.#show(chat);
    void chat.online(true);
  }

  /** Logs out, and deletes what the browser keeps of the user. */
  async logout(): Promise<void> {
    const { user } = this.#chat!;
    const client = this.#client!;
    this.#client = null; // Its end is not reported.
    this.#go({ kind: "starting" });
    const { promise: late, resolve } = Promise.withResolvers<void>();
    setTimeout(resolve, LOGOUT_MS);
    await Promise.race([client.logout().catch(() => {}), late]);
    client.close();
    await this.#forget(user);
    this.#ask("", "");
  }

  /** Asks for another user than the one of another page. */
  askForAnother(): void {
    this.#ask("", "");
  }

  #ask(user: string, reason: string): void {
    this.#go({ kind: "login", user, reason, isBusy: false });
  }

  #show(chat: Chat): void {
    this.#go({ kind: "chat", chat });
  }

  /** Opens the database of a user, unless this page has it open. */
  async #open(user: string): Promise<Chat> {
    if (this.#chat?.user === user && this.#database !== null) return this.#chat;
    this.#stop();
    const { database, stored } = await Database.open(user, {
      lost: () => {
        this.#stop();
        this.#go({ kind: "elsewhere", user });
      },
      failed: (error) => {
        this.#stop();
        this.#ask(user, storageFailure(error));
      },
    });
    this.#database = database;
    this.#chat = new Chat(user, database, stored);
    this.#chat.changed = () => this.changed();
    this.#tabs.show(user);
    return this.#chat;
  }

  #connect(chat: Chat): PageClient {
    this.#client?.close();
    const client = new PageClient(this.#url, this.#database!, {
      onEvent: (event) => chat.event(event),
      onLost: () => chat.lost(),
      onBack: () => void chat.online(false),
      onRecovered: (request, error, reply) => chat.recovered(request, error, reply),
    });
    this.#client = client;
    void client.ended.then((reason) => {
      if (this.#client !== client) return;
      this.#client = null;
      this.#ask(chat.user, explainEnd(reason, client.endDetail, chat.user));
    });
    return client;
  }

  /** Ends the connection without a logout, and closes the database. */
  #stop(): void {
    const client = this.#client;
    this.#client = null;
    client?.close();
    this.#database?.close();
    this.#database = null;
    this.#chat = null;
    this.#tabs.show(null);
  }

  async #forget(user: string): Promise<void> {
    this.#stop();
    this.#tabs.forget(user);
    await Database.delete(user);
  }

  #go(screen: Screen): void {
    this.screen = screen;
    this.changed();
  }
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

function storageFailure(error: unknown): string {
  return `This browser stores nothing for this page, so no message could be kept: ${(error as Error).message}`;
}
