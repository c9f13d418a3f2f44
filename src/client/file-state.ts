import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { ChatError } from "./errors.ts";
import type { ClientState, SyncStateStore } from "./session.ts";

/**
 * Keeps the state of one user's session in a file with mode 0600: it has the token of the session, and the requests
 * without a reply. Each save replaces the whole file, so that a killed program leaves the old or the new state. The
 * file is not synced: after a power cut an older state may return, and messages may come twice. One program at a time
 * uses a file, and its folder exists.
 */
export function fileState(path: string): SyncStateStore {
  return {
    load: () => {
      let text: string;
      try {
        text = readFileSync(path, "utf8");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
        throw error;
      }
      const state = parseState(text);
      if (state === null) throw new ChatError("bad_state", `${path} is not the state of a client; remove it`);
      return state;
    },
    save: (state) => {
      const temporary = `${path}.${process.pid}`;
      writeFileSync(temporary, JSON.stringify(state), { mode: 0o600 });
      renameSync(temporary, path);
    },
  };
}

/** Null for any other text: the file may have been edited. */
function parseState(text: string): ClientState | null {
  try {
    const state: unknown = JSON.parse(text);
    return isState(state) ? state : null;
  } catch {
    return null;
  }
}

/** Whether a client can continue from this value. */
function isState(value: unknown): value is ClientState {
  const { token, received, unanswered, read = 0, silenceMs = 0 } = value as { [key in keyof ClientState]: unknown };
  const isRequest = ({ line, position }: Record<string, unknown>): boolean =>
    typeof line === "string" && /^[^\n]+$/.test(line) && isPosition(position);
  const isToken = typeof token === "string" && /^[\w-]{22,64}$/.test(token);
  const isTime = typeof silenceMs === "number" && silenceMs >= 0;
  return (
    isToken &&
    isPosition(received) &&
    isPosition(read) &&
    isTime &&
    Array.isArray(unanswered) &&
    unanswered.every(isRequest)
  );
}

function isPosition(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
