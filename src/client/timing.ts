/** Timers of the client, which run in a browser too. */

export type Timeout = ReturnType<typeof setTimeout>;

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Whether a promise is resolved within this time. No timer is left, which would keep the program from its end. */
export async function resolvesWithin(ms: number, promise: Promise<unknown>): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>();
  const deadline = setTimeout(() => resolve(false), ms);
  return Promise.race([promise.then(() => true), late]).finally(() => clearTimeout(deadline));
}

/** Calls `handler` at the end of the turn of the event loop. A browser has no such call: there it is after promises. */
export const later: (handler: () => void) => unknown =
  typeof setImmediate === "function" ? setImmediate : queueMicrotask;
