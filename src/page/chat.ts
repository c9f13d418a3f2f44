/**
 * The chat of one user on this page: the client, what is stored of the user, and what the page shows. It knows no
 * elements; `changed` is called when something that the page shows is different.
 */
import type { BaseClient } from "../client/base-client.ts";
import { ChatError } from "../client/errors.ts";
import type { ChatEvent } from "../client/event.ts";
import type { IndexedDbState, Key } from "../client/indexed-db-state.ts";
import type { ClientState } from "../client/session.ts";
import type { Timeout } from "../client/timing.ts";
import { Conversations, EVERYBODY, type Message, requestOf } from "./conversations.ts";
import { Presence } from "./presence.ts";
import { count, explainRefusal } from "./words.ts";

/** Errors that leave open whether the server acted on a request. */
const UNKNOWN = ["unknown_outcome", "unknown_session", "internal"];

/** What the chat needs of the client library. */
export type Client = Pick<BaseClient, "message" | "broadcast" | "online" | "block" | "unblock" | "catchUp" | "status">;

/** A note disappears by itself. */
const NOTE_MS = 10_000;
/** Keys of the database. Messages have their ids. */
const READ = "read";
const BLOCKED = "blocked";

export class Chat {
  readonly user: string;
  /** Whether this browser has no state of a session. */
  isNew: boolean;
  readonly conversations: Conversations;
  readonly presence = new Presence();
  /** Users that this browser knows to be blocked: the server has no list of them. */
  readonly blocked: Set<string>;
  connection: "connecting" | "online" | "lost" = "connecting";
  /** A sentence about the connection or the last request; empty without one. */
  note = "";
  /** The conversation that is open; null: none. */
  current: string | null = null;
  /** Messages in it after this one were unread when somebody began to look at it. */
  newAfterId = Number.POSITIVE_INFINITY;
  /** Called with each message that has arrived. */
  arrived: (message: Message) => void = () => {};
  changed: () => void = () => {};
  /** Whether somebody looks at the page. */
  #isWatched = true;
  #client: Client | null = null;
  /** Messages that the client has: it sends them, and keeps them in its state until they are answered. */
  readonly #requested = new Set<number>();
  #noteTimer: Timeout | undefined;
  readonly #put: (key: Key, value: unknown) => void;
  /** Messages since the connection is back, while they may have waited; null later. */
  #waited: number | null = null;

  /** `kept`: what an earlier page has put into the database; `saved`: the state of its session. */
  constructor(user: string, database: Pick<IndexedDbState, "put">, kept: Map<Key, unknown>, saved: ClientState | null) {
    this.user = user;
    this.isNew = saved === null;
    // Failures end the session, because then its state cannot be saved either.
    this.#put = (key, value) => void database.put(key, value);
    const read = (kept.get(READ) ?? {}) as Record<string, number>;
    this.blocked = new Set(kept.get(BLOCKED) as string[] | undefined);
    this.conversations = new Conversations(user, {
      changed: (message) => this.#put(message.id, { ...message }),
      removed: (ids) => ids.forEach((id) => this.#put(id, undefined)),
      read: (name, id) => {
        read[name] = id;
        this.#put(READ, { ...read });
      },
    });
    const messages = [...kept].flatMap(([key, value]) => (typeof key === "number" ? [value as Message] : []));
    this.conversations.load(messages, read);
    const requests = saved?.unanswered.map(({ line }) => line) ?? [];
    for (const message of this.conversations.waiting) {
      const index = requests.indexOf(requestOf(message));
      if (index < 0) continue;
      requests.splice(index, 1);
      this.#requested.add(message.id);
    }
  }

  /** A session is there. What was written meanwhile is sent. */
  use(client: Client): void {
    this.#client = client;
    this.isNew = false;
    for (const message of this.conversations.waiting) if (!this.#requested.has(message.id)) this.#send(message);
  }

  /** The session begins or continues. */
  async online(): Promise<void> {
    const client = this.#client!;
    const back = this.connection === "lost" ? "You are back. " : "";
    this.connection = "online";
    this.#waited = 0;
    this.#show("");
    try {
      this.presence.requested();
      const { names, more } = await client.online();
      this.presence.listed(names, more);
      this.changed();
      await client.catchUp();
    } catch {
      return; // The loss of the connection, or the end of the session, is reported by itself.
    }
    const waited = this.#waited ?? 0;
    this.#waited = null;
    this.#show(`${back}${waited > 0 ? `${count(waited, "message")} waited.` : ""}`);
  }

  lost(): void {
    this.connection = "lost";
    this.#waited = null;
    this.#show("No connection. What you write is kept and sent later.");
  }

  event(event: ChatEvent): void {
    switch (event.kind) {
      case "message":
        return this.#receive(event.from, event.from, event.text, Date.now());
      case "stored":
        return this.#receive(event.from, event.from, event.text, event.unixMs);
      case "broadcast":
        return this.#receive(EVERYBODY, event.from, event.text, Date.now());
      case "notice":
        return this.#receive(EVERYBODY, "", event.text, Date.now());
      case "joined":
      case "left":
        this.presence.changed(event.user, event.kind === "joined");
        return this.changed();
    }
  }

  #receive(conversation: string, from: string, text: string, timeMs: number): void {
    const message = this.conversations.receive(conversation, from, text, timeMs);
    if (this.#waited !== null) this.#waited++;
    this.#markRead();
    this.arrived(message);
    this.changed();
  }

  /** Sends a text to a user or to everybody, now or when the server can be reached. */
  say(conversation: string, text: string): void {
    this.#dismissNote();
    this.#send(this.conversations.send(conversation, text, Date.now()));
    this.changed();
  }

  #send(message: Message): void {
    const client = this.#client;
    if (client === null || client.status === "ended") return; // The next session sends it.
    this.#requested.add(message.id);
    const { conversation, text } = message;
    const request = conversation === EVERYBODY ? client.broadcast(text) : client.message(conversation, text);
    request.then(
      (reply) => this.#accepted(message, `${reply}`),
      (error: unknown) => this.#failed(message, error),
    );
  }

  /** Sends a message again whose outcome is unknown, or that was refused. */
  sayAgain(message: Message): void {
    this.remove(message);
    this.say(message.conversation, message.text);
  }

  /** Removes a message that was not sent. */
  remove(message: Message): void {
    this.conversations.remove(message);
    this.changed();
  }

  /** The outcome of a request of an earlier page. */
  recovered(request: string, error: ChatError | null, reply: string): void {
    const message = this.conversations.waitingFor(request);
    if (message === undefined) return;
    if (error === null) this.#accepted(message, reply);
    else this.#failed(message, error);
  }

  /** `reply`: the state, or for a message to everybody the number of its receivers. */
  #accepted(message: Message, reply: string): void {
    const isToEverybody = message.conversation === EVERYBODY;
    this.#settle(message, reply === "stored" ? "stored" : "sent", isToEverybody ? reply : "");
  }

  #failed(message: Message, error: unknown): void {
    const code = error instanceof ChatError ? error.code : "";
    if (code === "closed") return; // The session has ended; the next one sends the message.
    if (UNKNOWN.includes(code)) this.#settle(message, "unknown");
    else this.#settle(message, "refused", explainRefusal(error, message.conversation));
  }

  #settle(message: Message, state: "sent" | "stored" | "refused" | "unknown", detail = ""): void {
    this.#requested.delete(message.id);
    this.conversations.settle(message, state, detail);
    this.changed();
  }

  async block(user: string, isBlocked: boolean): Promise<void> {
    try {
      await (isBlocked ? this.#client?.block(user) : this.#client?.unblock(user));
    } catch (error) {
      const isDone = error instanceof ChatError && ["already_blocked", "not_blocked"].includes(error.code);
      if (!isDone) return this.#show(`${isBlocked ? "Not blocked" : "Not unblocked"}: ${explainRefusal(error, user)}.`);
    }
    if (isBlocked) this.blocked.add(user);
    else this.blocked.delete(user);
    this.#put(BLOCKED, [...this.blocked]);
    this.#show(isBlocked ? `${user} is blocked.` : `${user} is not blocked any more.`);
  }

  /** Opens a conversation; null: none. */
  open(conversation: string | null): void {
    this.current = conversation;
    this.#look();
  }

  /** Whether somebody looks at the page: only then what arrives in the open conversation is read. */
  watch(isWatched: boolean): void {
    const began = isWatched && !this.#isWatched;
    this.#isWatched = isWatched;
    if (began) this.#look();
  }

  #look(): void {
    if (this.current !== null) this.newAfterId = this.conversations.readId(this.current);
    this.#markRead();
    this.changed();
  }

  /** Whether this browser keeps nothing of the user. */
  get isEmpty(): boolean {
    return this.isNew && this.conversations.count === 0;
  }

  #dismissNote(): void {
    if (this.connection !== "lost") this.#show("");
  }

  #markRead(): void {
    if (this.current !== null && this.#isWatched) this.conversations.markRead(this.current);
  }

  #show(note: string): void {
    clearTimeout(this.#noteTimer);
    this.note = note;
    if (note !== "" && this.connection !== "lost") this.#noteTimer = setTimeout(() => this.#dismissNote(), NOTE_MS);
    this.changed();
  }
}
