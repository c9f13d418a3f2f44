import type { Chat } from "./chat.ts";

/**
 * Keeps the memory of all streams together below its bound. Ended sessions go first: what of them was promised is in the
 * mailbox, and their clients are told nothing more. Then the sessions that hold most end as slow.
 */
export function limitMemory(chat: Chat): void {
  const { departing, limits, presence } = chat;
  let bytes = 0;
  for (const sessions of [presence.online, departing]) {
    for (const { outbox } of sessions) bytes += outbox.heldBytes;
  }
  for (const session of departing) {
    if (bytes <= limits.streamsBytesMax) return;
    bytes -= session.outbox.heldBytes;
    session.caller?.giveUp();
    session.peer?.detach();
    chat.departed(session);
  }
  while (bytes > limits.streamsBytesMax) {
    const most = presence.online.reduce((a, b) => (b.outbox.heldBytes > a.outbox.heldBytes ? b : a));
    bytes -= most.outbox.heldBytes;
    chat.end(most, "slow");
  }
}
