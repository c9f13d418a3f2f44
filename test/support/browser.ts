/** What a browser has and Bun has not: IndexedDB in memory, and the locks of Web Locks. */
import { IDBFactory } from "fake-indexeddb";

interface Waiting {
  name: string;
  held: () => Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (reason: unknown) => void;
}

/** Exclusive locks, each given to the callers in their order. */
class Locks {
  #waiting: Waiting[] = [];
  readonly #held = new Set<string>();

  request(name: string, { signal }: { signal: AbortSignal }, held: () => Promise<unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const waiting = { name, held, resolve, reject };
      this.#waiting.push(waiting);
      signal.addEventListener("abort", () => {
        this.#waiting = this.#waiting.filter((each) => each !== waiting);
        reject(signal.reason);
      });
      queueMicrotask(() => this.#grant(name));
    });
  }

  #grant(name: string): void {
    const next = this.#waiting.find((each) => each.name === name);
    if (next === undefined || this.#held.has(name)) return;
    this.#held.add(name);
    this.#waiting.splice(this.#waiting.indexOf(next), 1);
    void next.held().then((value) => {
      this.#held.delete(name);
      next.resolve(value);
      this.#grant(name);
    });
  }
}

/** Gives this process a new IndexedDB and locks, until `removeBrowser`. `isSecure`: pages without TLS have no locks. */
export function addBrowser(isSecure = true): InstanceType<typeof IDBFactory> {
  const indexedDB = new IDBFactory();
  Object.assign(globalThis, { indexedDB });
  Object.defineProperty(navigator, "locks", { value: isSecure ? new Locks() : undefined, configurable: true });
  return indexedDB;
}

export function removeBrowser(): void {
  Reflect.deleteProperty(globalThis, "indexedDB");
  Reflect.deleteProperty(navigator, "locks");
}
