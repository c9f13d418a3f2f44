import type { Outbox } from "./outbox.ts";

/** A socket, seen by a `SocketWriter`. */
export interface WritableSocket {
  /** Returns how many of bytes[start..start + count) were accepted; below 0 when the socket is closed. */
  write(bytes: Buffer, start: number, count: number): number;
}

/** The write loop: moves the durable bytes of outboxes to one socket until the socket is full. */
export class SocketWriter {
  /** The socket accepts no bytes until its `drain` event, whose handler clears this. */
  isFull = false;
  readonly #socket: WritableSocket;

  constructor(socket: WritableSocket) {
    this.#socket = socket;
  }

  /** Writes up to the position `end` of the stream at most. False when the socket is closed. */
  write(stream: Outbox, end = stream.durable): boolean {
    while (!this.isFull && stream.sent < end && stream.peek()) {
      const count = Math.min(stream.pieceEnd - stream.pieceStart, end - stream.sent);
      const taken = this.#socket.write(stream.piece, stream.pieceStart, count);
      if (taken < 0) return false;
      stream.advance(taken);
      this.isFull = taken < count;
    }
    return true;
  }
}
