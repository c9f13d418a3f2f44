/**
 * The orderly end of a server, up to the moment from which another process may own its shard: the steps, their order,
 * and how long each of them may take. What follows, and a server's own ports and files, are in server.ts.
 */
import type { Store } from "../storage/store.ts";
import { TICK_MS } from "../timer-wheel.ts";
import type { Core } from "./core.ts";

/** The time for replies that other shards owe, before the sessions end. */
export const OWED_REPLIES_MS = 500;
/** The time to write the last bytes, and until the shared log has acknowledged everything. */
const LAST_BYTES_MS = 300;
const HANDOVER_MS = 5_000;

/** What it needs of the server. */
export interface EndingServer {
  readonly core: Pick<Core, "chat" | "turn" | "connections">;
  readonly store: Pick<Store, "ending">;
  sleep(ms: number): Promise<void>;
  /** Ends relays, its links to other owners and connections that are no clients yet, and takes no further ones. */
  unlink(): void;
  /** Nothing leaves the process any more, whatever happens to it until it exits. */
  halt(): void;
  /** Gives the shard up; false when the engine does not answer. Null for a server with its own journal. */
  release: (() => Promise<boolean>) | null;
}

/** `unstored`: the shared log did not take the last record in time. `unreleased`: it has, and then did not answer. */
export type EndingResult = "done" | "unstored" | "unreleased";

export class Ending {
  readonly #server: EndingServer;

  constructor(server: EndingServer) {
    this.#server = server;
  }

  async run(): Promise<EndingResult> {
    const { sleep, halt, release } = this.#server;
    await this.repliesArrive();
    this.goodbye();
    if (release === null) return "done";
    const isStored = await Promise.race([this.lastRecord().then(() => true), sleep(HANDOVER_MS).then(() => false)]);
    halt(); // The next owner may begin while the answer to the release is on its way.
    if (!isStored) return "unstored";
    return (await release()) ? "done" : "unreleased";
  }

  /** Waits for the replies that other shards owe. No request is taken meanwhile, and none is later. */
  async repliesArrive(): Promise<void> {
    const { core, sleep } = this.#server;
    const { neighbours } = core.chat;
    if (neighbours === null) return;
    for (const connection of core.connections.open) connection.suspend();
    for (let waitedMs = 0; waitedMs < OWED_REPLIES_MS; waitedMs += TICK_MS) {
      if (!neighbours.owesReplies) return;
      await sleep(TICK_MS);
    }
  }

  /** Ends all links and sessions. */
  goodbye(): void {
    const { chat, turn, connections } = this.#server.core;
    turn.begin();
    this.#server.unlink();
    chat.shutdown();
    for (const connection of connections.open) connection.close();
  }

  /**
   * Everything until the last `goodbye` is acknowledged by the shared log. What plain sessions have taken is in the log
   * too, so that the next owner does not send it again.
   */
  async lastRecord(): Promise<void> {
    const { core, store, sleep } = this.#server;
    const { chat, turn, connections } = core;
    store.ending();
    await turn.saved();
    for (let waitedMs = 0; waitedMs < LAST_BYTES_MS; waitedMs += TICK_MS) {
      if ([...connections.open].every(({ drained }) => drained)) break;
      await sleep(TICK_MS);
    }
    turn.begin();
    for (const connection of [...connections.open]) if (!connection.drained) connection.hangUp();
    chat.departing.removePlain();
    await turn.saved();
  }
}
