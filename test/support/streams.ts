import type { Outbox } from "../../src/stream/outbox.ts";
import type { Stream, Turn } from "../../src/stream/turn.ts";

/** A turn that ends when the test says so. */
export class HandTurn implements Turn {
  #touched: Stream[] = [];

  markDirty(stream: Stream): void {
    if (stream.dirty) throw new Error("a stream is touched once a turn");
    stream.dirty = true;
    this.#touched.push(stream);
  }

  /** What was appended is safe now; returns whose streams that changed. */
  end(): Stream[] {
    const ending = this.#touched;
    this.#touched = [];
    for (const stream of ending) {
      stream.dirty = false;
      stream.durable = stream.committing = stream.end;
    }
    return ending;
  }
}

/** The piece that a stream offers, as a copy; null when there is none. */
export function offered(outbox: Outbox): Buffer | null {
  return outbox.peek() ? Buffer.from(outbox.piece.subarray(outbox.pieceStart, outbox.pieceEnd)) : null;
}

/** Takes everything that is safe, as a kernel with room does; `sends` pieces of it. */
export function drain(outbox: Outbox): { bytes: Buffer; sends: number } {
  const pieces: Buffer[] = [];
  for (let piece = offered(outbox); piece !== null; piece = offered(outbox)) {
    pieces.push(piece);
    outbox.advance(piece.length);
  }
  return { bytes: Buffer.concat(pieces), sends: pieces.length };
}
