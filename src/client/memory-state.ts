import type { ClientState, SyncStateStore } from "./session.ts";

/**
 * Keeps the state of one user's session in memory: a new client of the same program continues where the one before it
 * ended. One for each user, for the option `store`.
 */
export function memoryState(): SyncStateStore {
  let saved: ClientState | null = null;
  return {
    load: () => saved,
    save: (state) => void (saved = state),
  };
}
