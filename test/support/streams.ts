import type { Outbox, Turn } from "../../src/protocol/outbox.ts";

/** A turn that ends when the test says so. */
export class HandTurn implements Turn {
  #touched: Outbox[] = [];

  touch(outbox: Outbox): void {
    if (outbox.touched) throw new Error("a stream is touched once a turn");
    outbox.touched = true;
    this.#touched.push(outbox);
  }

  /** What was appended is safe now; returns whose streams that changed. */
  end(): Outbox[] {
    const ending = this.#touched;
    this.#touched = [];
    for (const outbox of ending) {
      outbox.touched = false;
      outbox.safe = outbox.end;
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
    outbox.took(piece.length);
  }
  return { bytes: Buffer.concat(pieces), sends: pieces.length };
}
