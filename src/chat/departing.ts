import type { MailboxScheduler } from "./mailbox-scheduler.ts";
import type { Session } from "./session.ts";

/**
 * Ended sessions whose last bytes are still being written, to their connection or by a last call. Their memory counts
 * with that of live sessions. `MailboxScheduler` moves their unacknowledged messages meanwhile.
 */
export class Departing {
  readonly #scheduler: MailboxScheduler;
  readonly #sessions = new Set<Session>();

  constructor(scheduler: MailboxScheduler) {
    this.#scheduler = scheduler;
  }

  get size(): number {
    return this.#sessions.size;
  }

  get heldBytes(): number {
    let bytes = 0;
    for (const { outbox } of this.#sessions) bytes += outbox.heldBytes;
    return bytes;
  }

  /** A session has ended. */
  add(session: Session): void {
    const { kind, outbox, peer, endReason } = session;
    // Nothing can take its last bytes: no connection, or no `goodbye` for which the client would be called.
    const hasNoReader = peer === null && (kind === "resumable" || endReason === "logout");
    if (hasNoReader) outbox.sink = null;
    else this.#sessions.add(session);
    if (kind !== "plain") this.#scheduler.requeue(session.delivery);
    if (hasNoReader) session.caller?.giveUp();
    peer?.close();
  }

  /** Its last bytes are written or given up. */
  remove(session: Session): void {
    this.#sessions.delete(session);
    session.outbox.sink = null;
    if (session.delivery.state !== "done") this.#scheduler.requeue(session.delivery);
    else session.outbox.withdraw(); // Again, now that nothing is written from it.
  }

  /** Bounds the memory of all outboxes: gives up ended sessions first, then ends those `online` that hold most. */
  limitMemory(online: readonly Session[], streamsBytesMax: number, end: (session: Session) => void): void {
    let bytes = this.heldBytes;
    for (const { outbox } of online) bytes += outbox.heldBytes;
    bytes -= this.#free(bytes - streamsBytesMax);
    while (bytes > streamsBytesMax) {
      const most = online.reduce((a, b) => (b.outbox.heldBytes > a.outbox.heldBytes ? b : a));
      bytes -= most.outbox.heldBytes;
      end(most);
    }
  }

  /** Gives up the oldest sessions until about `bytes` are free; returns the number of freed bytes. */
  #free(bytes: number): number {
    let freed = 0;
    for (const session of this.#sessions) {
      if (freed >= bytes) break;
      freed += session.outbox.heldBytes;
      session.caller?.giveUp();
      session.peer?.detach();
      this.remove(session);
    }
    return freed;
  }
}
