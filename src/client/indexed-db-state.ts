/**
 * The state of a session in the IndexedDB of a browser, with what the page itself keeps. One tab or worker at a time
 * has it: a lock of the browser (Web Locks) says so, and ends with the tab.
 */
import { ChatError } from "./errors.ts";
import type { ClientState, StateStore } from "./session.ts";

/** The lock of a tab that is being closed may stay for this time. */
const CLOSING_MS = 300;
/** Names of the stores in a database: the session's state, at STATE_KEY, and what the page keeps. */
const STATE = "state";
const KEPT = "kept";
const STATE_KEY = 0;

/** Keys have an order: numbers, then strings. */
export type Key = number | string;

export interface IndexedDbStateOptions {
  /** Called when another tab has the state: then this one waits until that tab is closed. */
  onInUse?: () => void;
  /** Ends the wait. */
  signal?: AbortSignal;
}

export interface IndexedDbState extends StateStore {
  load(): Promise<ClientState | null>;
  save(state: ClientState): Promise<void>;
  /**
   * Keeps a value that IndexedDB can store; undefined removes it. Everything that is put and saved in the same turn of
   * the event loop is stored in one transaction: a message that `onEvent` puts before it returns is kept if and only if
   * it will not come again. Do not change the value later. Resolves when it is stored.
   */
  put(key: Key, value: unknown): Promise<void>;
  /** All values that `put` has stored, in the order of their keys. */
  kept(): Promise<Map<Key, unknown>>;
  /** Closes the database after everything is stored, and lets another tab have it. End the session first. */
  close(): Promise<void>;
  /** As `close`, and deletes everything: the state, and what the page has put. For a user who logs out. */
  delete(): Promise<void>;
}

/** What is used here of a browser, for programs that are compiled without its types. */
interface Browser {
  indexedDB: {
    open(name: string, version: number): DbRequest<Db>;
    deleteDatabase(name: string): DbRequest<unknown>;
  };
  navigator: {
    locks?: { request(name: string, options: { signal: AbortSignal }, held: () => Promise<void>): Promise<void> };
  };
}

interface DbRequest<T> {
  readonly result: T;
  readonly error: unknown;
  onsuccess: (() => void) | null;
  onerror: (() => void) | null;
  onupgradeneeded?: (() => void) | null;
}

interface Db {
  close(): void;
  createObjectStore(name: string): unknown;
  transaction(names: string[], mode: "readonly" | "readwrite", options?: { durability: "strict" }): DbTransaction;
}

interface DbTransaction {
  readonly error: unknown;
  oncomplete: (() => void) | null;
  onabort: (() => void) | null;
  abort(): void;
  objectStore(name: string): DbStore;
}

interface DbStore {
  count(): DbRequest<number>;
  get(key: Key): DbRequest<unknown>;
  getAll(): DbRequest<unknown[]>;
  getAllKeys(): DbRequest<Key[]>;
  put(value: unknown, key: Key): unknown;
  delete(key: Key): unknown;
}

/**
 * Opens the state of one user, by any name; a new one is made. Rejects with `in_use` while another tab has it, unless
 * `onInUse` is given; with `insecure` on a page that is not from https or localhost: only those have locks; and with
 * `not_saved` when the browser does not let this page store anything.
 */
export async function indexedDbState(name: string, options: IndexedDbStateOptions = {}): Promise<IndexedDbState> {
  const fullName = `heartline:${name}`;
  const release = await lock(fullName, options);
  try {
    const request = browser().indexedDB.open(fullName, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(STATE);
      request.result.createObjectStore(KEPT);
    };
    return new Store(fullName, await resultOf(request), release);
  } catch (error) {
    release();
    throw new ChatError("not_saved", `the browser does not let this page store anything: ${String(error)}`);
  }
}

function browser(): Browser {
  return globalThis as unknown as Browser;
}

/** Resolves with a function that releases the lock. */
function lock(name: string, { onInUse, signal }: IndexedDbStateOptions): Promise<() => void> {
  const { locks } = browser().navigator;
  if (locks === undefined) throw new ChatError("insecure", "the page must be from https or localhost to keep a state");
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const wait = new AbortController();
    const stop = (reason: unknown): void => {
      wait.abort(reason);
      reject(reason);
    };
    const onAbort = (): void => stop(signal?.reason);
    signal?.addEventListener("abort", onAbort);
    const inUse = setTimeout(() => {
      if (onInUse === undefined) stop(new ChatError("in_use", "another tab has this state; close it first"));
      else onInUse();
    }, CLOSING_MS);
    const held = (): Promise<void> =>
      new Promise((release) => {
        clearTimeout(inUse);
        signal?.removeEventListener("abort", onAbort);
        resolve(release);
      });
    locks.request(name, { signal: wait.signal }, held).catch(reject);
  });
}

class Store implements IndexedDbState {
  readonly #name: string;
  readonly #database: Db;
  readonly #release: () => void;
  /** What the next transaction stores. */
  #state: ClientState | null = null;
  #changes: Map<Key, unknown> = new Map();
  /** The next transaction, until it has begun to store; it begins after the one before. */
  #next: Promise<void> | null = null;
  #last: Promise<void> = Promise.resolve();

  constructor(name: string, database: Db, release: () => void) {
    this.#name = name;
    this.#database = database;
    this.#release = release;
  }

  async load(): Promise<ClientState | null> {
    const store = this.#database.transaction([STATE], "readonly").objectStore(STATE);
    return ((await resultOf(store.get(STATE_KEY))) as ClientState | undefined) ?? null;
  }

  save(state: ClientState): Promise<void> {
    this.#state = state;
    return this.#changed();
  }

  put(key: Key, value: unknown): Promise<void> {
    this.#changes.set(key, value);
    return this.#changed();
  }

  async kept(): Promise<Map<Key, unknown>> {
    const store = this.#database.transaction([KEPT], "readonly").objectStore(KEPT);
    const [keys, values] = await Promise.all([resultOf(store.getAllKeys()), resultOf(store.getAll())]);
    return new Map(keys.map((key, index) => [key, values[index]]));
  }

  async close(): Promise<void> {
    await this.#last.catch(() => {});
    this.#database.close();
    this.#release();
  }

  async delete(): Promise<void> {
    await this.#last.catch(() => {});
    this.#database.close();
    await resultOf(browser().indexedDB.deleteDatabase(this.#name)).finally(this.#release);
  }

  /** After one failure all later changes fail, so that nothing is stored without what was put before it. */
  #changed(): Promise<void> {
    if (this.#next !== null) return this.#next;
    this.#next = this.#last = this.#last.then(() => this.#store());
    this.#next.catch(() => {}); // A page may ignore the promise of `put`: then `save` fails.
    return this.#next;
  }

  #store(): Promise<void> {
    const transaction = this.#database.transaction([STATE, KEPT], "readwrite", { durability: "strict" });
    const [state, kept] = [transaction.objectStore(STATE), transaction.objectStore(KEPT)];
    // A request ends in a later task of the event loop: until then changes of this turn join the transaction.
    state.count().onsuccess = () => {
      this.#next = null;
      const changes = this.#changes;
      this.#changes = new Map();
      try {
        if (this.#state !== null) state.put(this.#state, STATE_KEY);
        for (const [key, value] of changes) value === undefined ? kept.delete(key) : kept.put(value, key);
      } catch {
        transaction.abort(); // A value that cannot be cloned.
      }
      this.#state = null;
    };
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new TypeError("a value cannot be stored"));
    });
  }
}

function resultOf<T>(request: DbRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
