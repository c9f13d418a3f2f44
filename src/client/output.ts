/**
 * Writes to standard output or standard error, one text at a time: the write callback of this runtime comes when the
 * kernel took the text, but only then exact when no other write waits. So a promise tells exactly what has left the
 * process, also when the reader goes away.
 */
export class OutputWriter {
  readonly #stream: NodeJS.WritableStream;
  /** Texts that the kernel has not taken yet; the first one is being written. */
  readonly #texts: { text: string | Uint8Array; resolve: () => void }[] = [];
  /** Resolves with the error when nothing can be written any more. */
  readonly failed: Promise<NodeJS.ErrnoException>;
  #fail: (error: NodeJS.ErrnoException) => void;
  #hasFailed = false;

  constructor(stream: NodeJS.WritableStream) {
    const { promise, resolve } = Promise.withResolvers<NodeJS.ErrnoException>();
    this.#stream = stream;
    this.failed = promise;
    this.#fail = (error) => {
      this.#hasFailed = true;
      resolve(error);
    };
    stream.on("error", (error) => this.#fail(error));
  }

  /** Resolves when the kernel took the text; never when it cannot be written. */
  write(text: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      this.#texts.push({ text, resolve });
      if (this.#texts.length === 1) this.#next();
    });
  }

  /** Resolves when everything up to now was taken; never when that cannot be written. */
  async idle(): Promise<void> {
    if (this.#texts.length > 0) await this.write("");
  }

  #next(): void {
    const first = this.#texts[0];
    if (first === undefined || this.#hasFailed) return;
    const taken = (error?: Error | null): void => {
      if (error != null) return this.#fail(error);
      this.#texts.shift();
      first.resolve();
      this.#next();
    };
    // This runtime never calls back for an empty text behind a write that waits.
    if (first.text.length === 0) taken();
    else this.#stream.write(first.text, taken);
  }
}
