/**
 * Long work in steps, as a generator: it yields after each short step, or a promise to wait for.
 */

/** How long a slice of steps holds the event loop. */
const SLICE_MS = 25;

/** Takes all steps; the event loop runs between slices of about SLICE_MS. */
export async function inSlices<Result>(steps: Iterator<void | Promise<void>, Result>): Promise<Result> {
  for (let sliceMs = performance.now(); ;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    if (value === undefined && performance.now() - sliceMs < SLICE_MS) continue;
    await (value ?? new Promise(setImmediate));
    sliceMs = performance.now();
  }
}

/** Takes all steps in one call, without waiting for promises. */
export function atOnce<Result>(steps: Iterator<void | Promise<void>, Result>): Result {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}
