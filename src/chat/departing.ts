import type { MailboxScheduler } from "./mailbox-scheduler.ts";
import type { Session } from "./session.ts";

/**
 * Ended sessions whose last lines are still being written: to their connection or, for a callback session, in a last
 * call to the client. Their outboxes count toward `streamsBytesMax`, as those of live sessions do. Meanwhile
 * `MailboxScheduler` moves their unacknowledged messages to the mailboxes.
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

  /** A session has ended. Its connection, if it has one, closes when everything is written. */
  add(session: Session): void {
    const { kind, outbox, peer, endReason } = session;
    // A resumable session without a connection, or a callback session after `logout`: the last call is for `goodbye`.
    const hasNoReader = peer === null && (kind === "resumable" || endReason === "logout");
    if (hasNoReader) outbox.sink = null;
    else this.#sessions.add(session);
    if (kind !== "plain") this.#scheduler.requeue(session.delivery);
    if (hasNoReader) session.caller?.giveUp();
    peer?.close();
  }

  /** The last lines of a session are written, or will not be written. */
  remove(session: Session): void {
    this.#sessions.delete(session);
    session.outbox.sink = null;
    if (session.delivery.state !== "done") this.#scheduler.requeue(session.delivery);
    else session.outbox.withdraw(); // The second time, now without a sink: it empties the outbox.
  }

  /**
   * The server stops: what the connections of plain sessions have taken by now counts as delivered, although their
   * clients have not closed them yet, and nothing else does.
   */
  removePlain(): void {
    for (const session of this.#sessions) if (session.kind === "plain") this.remove(session);
  }

  /**
   * Bounds the memory of all outboxes to `streamsBytesMax`: first drops ended sessions, the oldest first, then calls
   * `end` for the session in `online` with the largest outbox, and repeats that.
   */
  limitMemory(online: readonly Session[], streamsBytesMax: number, end: (session: Session) => void): void {
    let bytes = this.heldBytes;
    for (const { outbox } of online) bytes += outbox.heldBytes;
    bytes -= this.#dropOldest(bytes - streamsBytesMax);
    while (bytes > streamsBytesMax) {
      const largest = online.reduce((a, b) => (b.outbox.heldBytes > a.outbox.heldBytes ? b : a));
      bytes -= largest.outbox.heldBytes;
      end(largest);
    }
  }

  /** Drops the oldest ended sessions until at least `bytes` bytes are free. Returns how many were freed. */
  #dropOldest(bytes: number): number {
    let freedBytes = 0;
    for (const session of this.#sessions) {
      if (freedBytes >= bytes) break;
      freedBytes += session.outbox.heldBytes;
      session.caller?.giveUp();
      session.peer?.detach();
      this.remove(session);
    }
    return freedBytes;
  }
}
