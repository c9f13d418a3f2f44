import fc from "fast-check";

/** Something that must hold for whatever input. */
export interface Target {
  readonly name: string;
  /** What must hold, in one sentence. */
  readonly holds: string;
  /** Inputs that are tried before anybody looks at the clock. */
  readonly batch: number;
  readonly property: fc.IAsyncProperty<[unknown]>;
}

/** What went wrong where nobody could catch it: in a handler of a socket, or in a promise that nobody waits for. */
const strays: unknown[] = [];

/** Hears of each input before it is tried; whoever looks for the one that hangs writes it down. */
let watch: (input: unknown) => void = () => {};

/** From now on what nobody catches makes the input under way a failure, and `watcher` hears of each input. */
export function watchInputs(watcher: (input: unknown) => void): void {
  watch = watcher;
  process.on("uncaughtException", (error) => void strays.push(error));
  process.on("unhandledRejection", (error) => void strays.push(error));
}

/** A target that makes inputs like that, for each of which `check` must not throw. */
export function target<Input>(
  { name, holds, batch = 100 }: { name: string; holds: string; batch?: number },
  inputs: fc.Arbitrary<Input>,
  check: (input: Input) => void | Promise<void>,
): Target {
  const property = fc.asyncProperty(inputs, async (input) => {
    watch(input);
    await check(input);
    // Only when the loop has turned is it known that nobody catches something.
    await new Promise((resolve) => setImmediate(resolve));
    const stray = strays.shift();
    if (stray !== undefined) throw stray;
  });
  return { name, holds, batch, property };
}

/** Sizes of the pieces that bytes come in. */
export const cuts: fc.Arbitrary<number[]> = fc.array(fc.nat({ max: 40 }), { maxLength: 12 });

/** Bytes in pieces of these sizes, and the rest in one; each with memory of its own, as sockets give them. */
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

/** Text whose characters are bytes, as bytes. */
export function latin1(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

/** Two values of plain data are alike. */
export function expectAlike(found: unknown, expected: unknown, what: string): void {
  if (Bun.deepEquals(found, expected, true)) return;
  throw new Error(`${what}: found ${fc.stringify(found)} instead of ${fc.stringify(expected)}`);
}

export function expectThat(holds: boolean, otherwise: () => string): void {
  if (!holds) throw new Error(otherwise());
}
