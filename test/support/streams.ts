import type { Outbox } from "../../src/stream/outbox.ts";
import type { Stream, Turn } from "../../src/stream/turn.ts";

/** A turn that ends when the test calls `end`. */
export class HandTurn implements Turn {
  #dirty: Stream[] = [];

  markDirty(stream: Stream): void {
    if (stream.dirty) throw new Error("a stream was marked dirty twice in a turn");
    stream.dirty = true;
    this.#dirty.push(stream);
  }

  /** Makes everything appended durable; returns the dirty streams. */
  end(): Stream[] {
    const ending = this.#dirty;
    this.#dirty = [];
    for (const stream of ending) {
      stream.dirty = false;
      stream.durable = stream.committing = stream.end;
    }
    return ending;
  }
}

/** A copy of the next piece to send; null when there is none. */
export function offered(outbox: Outbox): Buffer | null {
  return outbox.peek() ? Buffer.from(outbox.piece.subarray(outbox.pieceStart, outbox.pieceEnd)) : null;
}

/** Sends everything durable, like a kernel with room. `sends` counts the pieces. */
export function drain(outbox: Outbox): { bytes: Buffer; sends: number } {
  const pieces: Buffer[] = [];
  for (let piece = offered(outbox); piece !== null; piece = offered(outbox)) {
    pieces.push(piece);
    outbox.advance(piece.length);
  }
  return { bytes: Buffer.concat(pieces), sends: pieces.length };
}
