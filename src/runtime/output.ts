/**
 * Writes to standard output or standard error, one text at a time. The write callback of this runtime means that the
 * kernel took the bytes, but pending writes share one result: only with one write in progress does the promise of a
 * text say exactly whether the kernel took it, also when the reader closes the pipe.
 */
export class OutputWriter {
  readonly #stream: NodeJS.WritableStream;
  /** Texts that the kernel has not taken; the first one is being written. */
  readonly #texts: { text: string | Uint8Array; resolve: () => void }[] = [];
  /** Resolves with the first write error. Nothing is written after it. */
  readonly failed: Promise<NodeJS.ErrnoException>;
  #fail: (error: NodeJS.ErrnoException) => void;
  /** `failed` has resolved, or is about to. */
  hasFailed = false;

  constructor(stream: NodeJS.WritableStream) {
    const { promise, resolve } = Promise.withResolvers<NodeJS.ErrnoException>();
    this.#stream = stream;
    this.failed = promise;
    this.#fail = (error) => {
      this.hasFailed = true;
      resolve(error);
    };
    stream.on("error", (error) => this.#fail(error));
  }

  /** Resolves when the kernel took the text, or it was discarded; stays pending after a write error. */
  write(text: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      this.#texts.push({ text, resolve });
      if (this.#texts.length === 1) this.#next();
    });
  }

  /** Resolves when the kernel took all texts so far; stays pending after a write error. */
  async idle(): Promise<void> {
    if (this.#texts.length > 0) await this.write("");
  }

  /** Drops the texts whose write has not begun, and resolves their promises. */
  discard(): void {
    for (const { resolve } of this.#texts.splice(1)) resolve();
  }

  #next(): void {
    const first = this.#texts[0];
    if (first === undefined || this.hasFailed) return;
    const onWritten = (error?: Error | null): void => {
      if (error != null) return this.#fail(error);
      this.#texts.shift();
      first.resolve();
      this.#next();
    };
    // An empty text only marks a position in the queue.
    if (first.text.length === 0) onWritten();
    else this.#stream.write(first.text, onWritten);
  }
}

/** Standard output refuses the result of a program. The message is for the user. */
export class PrintError extends Error {}

/** The message for a write error on standard output; null when the reader has closed the pipe, which is no fault. */
export function writeFault({ code, message }: NodeJS.ErrnoException): string | null {
  return code === "EPIPE" ? null : `cannot write: ${message}`;
}

/** Prints a text on standard output. Resolves when the kernel took it or the reader is gone; throws PrintError. */
export async function print(text: string): Promise<void> {
  const output = new OutputWriter(process.stdout);
  const error = await Promise.race([output.write(text), output.failed]);
  const fault = error === undefined ? null : writeFault(error);
  if (fault !== null) throw new PrintError(fault);
}
