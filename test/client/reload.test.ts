/**
 * Clients that are killed at any moment, as a page is when it is reloaded, and continue from what their store has saved.
 * Saves take a while here, so a kill often loses the last ones.
 */
import { afterEach, beforeEach, expect, test } from "bun:test";
import type { ChatError, ChatEvent } from "heartline/client";
import type { ClientState, StateStore } from "../../src/client/session.ts";
import { ChatClient } from "../../src/client/web-client.ts";
import { Random, seedFor } from "../support/random.ts";
import { WebRelay } from "../support/web-relay.ts";
import { PASSWORD, WireServer } from "../support/wire.ts";

let server: WireServer;
let relay: WebRelay;

beforeEach(() => {
  server = new WireServer();
  relay = new WebRelay(server.port, { frameBytesMax: 100 });
});

afterEach(async () => {
  relay.stop();
  await server.stop();
});

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(setImmediate);
}

/** What survives a page: the state of its client, and what the page has saved in the same transaction. */
class Disk<T> {
  state: ClientState | null = null;
  data: T;

  constructor(data: T) {
    this.data = data;
  }
}

/** The store of one page. `data` is what the page would save now. */
class SlowStore<T> implements StateStore {
  readonly #disk: Disk<T>;
  readonly #data: () => T;
  readonly #saveTurns: () => number;
  #isKilled = false;
  #last: Promise<void> = Promise.resolve();
  saves = 0;

  constructor(disk: Disk<T>, data: () => T, saveTurns: () => number) {
    this.#disk = disk;
    this.#data = data;
    this.#saveTurns = saveTurns;
  }

  async load(): Promise<ClientState | null> {
    return structuredClone(this.#disk.state);
  }

  save(state: ClientState): Promise<void> {
    const saved = structuredClone({ state, data: this.#data() });
    this.#last = this.#last.then(async () => {
      await turns(this.#saveTurns());
      if (this.#isKilled) return new Promise(() => {});
      this.#disk.state = saved.state;
      this.#disk.data = saved.data;
      this.saves++;
    });
    return this.#last;
  }

  kill(): void {
    this.#isKilled = true;
  }
}

test("every text is sent once and shown once by pages that are reloaded and cut at any moment", async () => {
  const random = new Random(seedFor("reloads"));
  const count = 1_500;
  const typed = new Disk(0);
  const shown = new Disk<number[]>([]);
  let [resumed, loggedIn] = [0, 0];

  /** One page of a user, from its load to its kill. `live` is what the page does. */
  async function page<T>(user: string, disk: Disk<T>, data: () => T, onEvent: (event: ChatEvent) => void) {
    const store = new SlowStore(disk, data, () => random.below(4));
    const client = new ChatClient({ url: relay.url, store: () => store, onEvent });
    for (;;) {
      const isResume = !random.oneIn(6);
      const attempt = isResume ? client.resume(user) : client.login(user, PASSWORD);
      const error = await attempt.then(
        () => null,
        (failure: ChatError) => failure.code,
      );
      if (error === null) isResume ? resumed++ : loggedIn++;
      if (error === null) break;
      expect(["closed", "unknown_session"]).toContain(error);
    }
    const kill = (): void => {
      store.kill();
      client.close();
    };
    return { client, kill };
  }

  async function send(): Promise<void> {
    while (typed.data < count) {
      let next = typed.data;
      const { client, kill } = await page(
        "alice",
        typed,
        () => next,
        () => {},
      );
      const until = random.between(1, 60);
      for (let i = 0; i < until && next < count; i++) {
        client.message("bob", `${next} ${"x".repeat(random.below(300))}`).catch(() => {});
        next++;
        await turns(random.below(4));
        if (random.oneIn(40)) relay.cut();
      }
      if (next === count) while (client.status !== "ended" && typed.data < count) await turns(1);
      kill();
    }
    const last = await page(
      "alice",
      typed,
      () => count,
      () => {},
    );
    await last.client.message("bob", "end");
    last.kill();
  }

  async function show(): Promise<void> {
    for (let hasEnded = false; !hasEnded;) {
      const numbers = [...shown.data];
      const onEvent = (event: ChatEvent): void => {
        if (event.kind !== "message" && event.kind !== "stored") return;
        if (event.text === "end") hasEnded = true;
        else numbers.push(Number.parseInt(event.text, 10));
      };
      const { kill } = await page("bob", shown, () => [...numbers], onEvent);
      for (let i = random.between(1, 150); i > 0 && !hasEnded; i--) await turns(1);
      while (hasEnded && shown.data.length < numbers.length) await turns(1);
      kill();
    }
  }

  await Promise.all([send(), show()]);
  expect(shown.data).toEqual(Array.from({ length: count }, (_, index) => index));
  expect([resumed, loggedIn].every((times) => times > 0)).toBe(true);
}, 30_000);
