/** What a fuzz target is, and helpers that all targets share. */
import fc from "fast-check";

/** A property that must hold for every input. */
export interface Target {
  readonly name: string;
  /** What must hold, in one sentence. */
  readonly holds: string;
  /** Number of inputs per batch: the time is checked after each batch. */
  readonly batch: number;
  readonly property: fc.IAsyncProperty<[unknown]>;
}

/** Errors that no caller can catch: in a handler of a socket, or in a promise without a handler. */
const uncaughtErrors: unknown[] = [];

/** Called with each input before the check. */
let watch: (input: unknown) => void = () => {};

/** From now on an uncaught error is a failure of the current input, and `watcher` is called with each input. */
export function watchInputs(watcher: (input: unknown) => void): void {
  watch = watcher;
  process.on("uncaughtException", (error) => void uncaughtErrors.push(error));
  process.on("unhandledRejection", (error) => void uncaughtErrors.push(error));
}

/** A target: for each of the inputs, `check` must not throw. */
export function target<Input>(
  { name, holds, batch = 100 }: { name: string; holds: string; batch?: number },
  inputs: fc.Arbitrary<Input>,
  check: (input: Input) => void | Promise<void>,
): Target {
  const property = fc.asyncProperty(inputs, async (input) => {
    watch(input);
    await check(input);
    // An unhandled rejection is reported after a turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    const uncaught = uncaughtErrors.shift();
    if (uncaught !== undefined) throw uncaught;
  });
  return { name, holds, batch, property };
}

/** Sizes of the chunks in which bytes arrive. */
export const cuts: fc.Arbitrary<number[]> = fc.array(fc.nat({ max: 40 }), { maxLength: 12 });

/** Cuts bytes into chunks of these sizes and one for the rest. Each chunk has its own memory, as those of sockets. */
export function cut(bytes: Uint8Array, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let at = 0;
  for (const size of sizes) {
    pieces.push(Buffer.from(bytes.subarray(at, at + size)));
    at += size;
  }
  pieces.push(Buffer.from(bytes.subarray(at)));
  return pieces.filter((piece) => piece.length > 0);
}

/** The bytes of a latin1 text. */
export function latin1(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

/** Throws unless the two values of plain data are deeply equal. */
export function expectAlike(found: unknown, expected: unknown, what: string): void {
  if (Bun.deepEquals(found, expected, true)) return;
  throw new Error(`${what}: found ${fc.stringify(found)} instead of ${fc.stringify(expected)}`);
}

/** Throws `message()` unless the condition holds. */
export function expectThat(holds: boolean, message: () => string): void {
  if (!holds) throw new Error(message());
}
