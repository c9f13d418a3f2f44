/**
 * What a browser keeps of one user: the messages, the state of the session, what was read and who is blocked, in one
 * IndexedDB database per user.
 *
 * Everything that has changed is written by one transaction at a time, so the position up to which the server's stream
 * was received is always stored together with the messages before it. The client sends nothing meanwhile: what is
 * acknowledged is stored, and what is stored does not come again.
 *
 * Of several pages with the same user one owns the database: the last one that has opened it. A transaction of another
 * one changes nothing, so that page can neither acknowledge nor send anything any more.
 */
import type { ClientState, StateStore } from "../client/session.ts";
import type { Message } from "./conversations.ts";

const NAME_PREFIX = "heartline.";
const VERSION = 1;

/** What was stored earlier. */
export interface Stored {
  messages: Message[];
  read: Record<string, number>;
  blocked: string[];
  state: ClientState | null;
}

export interface DatabaseListener {
  /** Another page owns the database now, or has deleted it. */
  lost(): void;
  /** The browser refuses to store anything. */
  failed(error: unknown): void;
}

/** Names in the store of values. */
type Value = "owner" | "state" | "read" | "blocked";

export class Database implements StateStore {
  readonly #database: IDBDatabase;
  readonly #listener: DatabaseListener;
  /** A fresh one for each page, also for a copy of a tab. */
  readonly #owner = randomName();
  #state: ClientState | null = null;
  /** What has changed since the last transaction began. */
  #messages = new Map<number, Message | null>();
  #values = new Map<Value, unknown>();
  #phase: "idle" | "scheduled" | "writing" | "closed" = "idle";
  /** They wait for the next transaction, and for the present one. */
  #waiters: (() => void)[] = [];
  #writingWaiters: (() => void)[] = [];
  readonly #wake = new MessageChannel();

  private constructor(database: IDBDatabase, listener: DatabaseListener) {
    this.#database = database;
    this.#listener = listener;
    database.onversionchange = () => this.#lose(); // Another page deletes it.
    database.onclose = () => this.#lose(); // The browser deletes it.
    this.#wake.port1.onmessage = () => this.#write();
  }

  /** Opens the database of a user and becomes its owner. Rejects when the browser stores nothing. */
  static async open(user: string, listener: DatabaseListener): Promise<{ database: Database; stored: Stored }> {
    const request = indexedDB.open(NAME_PREFIX + user, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("messages", { keyPath: "id" });
      request.result.createObjectStore("values");
    };
    const database = new Database(await resultOf(request), listener);
    return { database, stored: await database.#claim() };
  }

  /** Deletes what the browser keeps of a user. */
  static async delete(user: string): Promise<void> {
    await resultOf(indexedDB.deleteDatabase(NAME_PREFIX + user));
  }

  /** Becomes the owner. Transactions of an earlier owner are complete before this one, or change nothing. */
  async #claim(): Promise<Stored> {
    const transaction = this.#begin();
    const values = transaction.objectStore("values");
    values.put(this.#owner, "owner");
    const [messages, state, read, blocked] = await Promise.all([
      resultOf<Message[]>(transaction.objectStore("messages").getAll()),
      resultOf<ClientState | undefined>(values.get("state")),
      resultOf<Record<string, number> | undefined>(values.get("read")),
      resultOf<string[] | undefined>(values.get("blocked")),
    ]);
    await completed(transaction);
    this.#state = state ?? null;
    return { messages, state: this.#state, read: read ?? {}, blocked: blocked ?? [] };
  }

  /** The saved state of the session. */
  load(): ClientState | null {
    return this.#state;
  }

  save(state: ClientState): Promise<void> {
    this.#state = state;
    this.set("state", state);
    return this.committed();
  }

  set(name: Exclude<Value, "owner">, value: unknown): void {
    this.#values.set(name, value);
    this.#schedule();
  }

  /** Stores a message as it is when the transaction begins. */
  put(message: Message): void {
    this.#messages.set(message.id, message);
    this.#schedule();
  }

  remove(ids: readonly number[]): void {
    for (const id of ids) this.#messages.set(id, null);
    this.#schedule();
  }

  /** Resolves when everything that has changed so far is stored; never when that fails. */
  committed(): Promise<void> {
    if (this.#phase === "idle") return Promise.resolve();
    const isStoredNext = this.#phase !== "writing" || this.#isDirty;
    return new Promise((resolve) => (isStoredNext ? this.#waiters : this.#writingWaiters).push(resolve));
  }

  /** As `committed`, when this page is still the owner. */
  owned(): Promise<void> {
    const owned = new Promise<void>((resolve) => this.#waiters.push(resolve));
    this.#schedule();
    return owned;
  }

  get #isDirty(): boolean {
    return this.#messages.size + this.#values.size + this.#waiters.length > 0;
  }

  close(): void {
    this.#phase = "closed";
    this.#database.close();
  }

  /**
   * A transaction begins in a later task, because what belongs together changes within one task: a request and its
   * message, or a reply and the state of its message. A timer would be late in a tab that nobody looks at.
   */
  #schedule(): void {
    if (this.#phase !== "idle") return;
    this.#phase = "scheduled";
    this.#wake.port2.postMessage(null);
  }

  #write(): void {
    if (this.#phase !== "scheduled") return;
    this.#phase = "writing";
    const values = this.#values;
    const messages = new Map(
      [...this.#messages].map(([id, message]) => [id, message === null ? null : { ...message }]),
    );
    this.#writingWaiters = this.#waiters;
    [this.#messages, this.#values, this.#waiters] = [new Map(), new Map(), []];
    this.#store(messages, values).then(
      (isOwner) => {
        if (this.#phase !== "writing") return;
        if (!isOwner) return this.#lose();
        this.#phase = "idle";
        for (const resolve of this.#writingWaiters.splice(0)) resolve();
        if (this.#isDirty) this.#schedule();
      },
      (error: unknown) => {
        if (this.#phase !== "writing") return;
        this.close();
        this.#listener.failed(error);
      },
    );
  }

  /** Returns false when another page is the owner. */
  async #store(messages: Map<number, Message | null>, values: Map<Value, unknown>): Promise<boolean> {
    const transaction = this.#begin();
    const completion = completed(transaction);
    const valueStore = transaction.objectStore("values");
    const messageStore = transaction.objectStore("messages");
    const owner = valueStore.get("owner");
    let isOwner = true;
    owner.onsuccess = () => {
      isOwner = owner.result === this.#owner;
      if (!isOwner) return;
      for (const [name, value] of values) valueStore.put(value, name);
      for (const [id, message] of messages) {
        if (message === null) messageStore.delete(id);
        else messageStore.put(message);
      }
    };
    await completion;
    return isOwner;
  }

  #begin(): IDBTransaction {
    // Strict: stored for good is stored on the disk.
    return this.#database.transaction(["messages", "values"], "readwrite", { durability: "strict" });
  }

  #lose(): void {
    if (this.#phase === "closed") return;
    this.close();
    this.#listener.lost();
  }
}

function resultOf<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function completed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

function randomName(): string {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((word) => word.toString(36)).join("-");
}
