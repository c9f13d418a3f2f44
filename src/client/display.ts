import { createColors } from "picocolors";
import type { ChatEvent } from "./event.ts";

/** C0 and C1 controls, the marks and overrides of direction, and the line and paragraph separators. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must go
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Text of others without what could move the cursor, change colours, or show a text in another order. */
export function printable(text: string): string {
  return text.replace(/\t/g, " ").replace(UNSAFE, "");
}

const GOODBYES: Record<string, string> = {
  replaced: "You logged in somewhere else, so this session has ended.",
  expired: "The server heard nothing for too long and ended the session.",
  slow: "Too much waited to be read here, so the server ended the session. Messages are kept for the next login.",
  flood: "The server ended the session: too many bad lines.",
  removed: "The server ended the session: this user was removed.",
  shutdown: "The server is shutting down.",
};

/** Words for people; with colours where there is a terminal that wants them. */
export class Display {
  readonly #colors: ReturnType<typeof createColors>;

  constructor(colored: boolean) {
    this.#colors = createColors(colored);
  }

  event(event: ChatEvent): string {
    const { bold, dim, inverse, yellow } = this.#colors;
    const user = "user" in event ? printable(event.user) : "";
    switch (event.kind) {
      case "message":
        return `${bold(printable(event.from))}: ${printable(event.text)}`;
      case "broadcast":
        return `${bold(printable(event.from))} ${dim("to all")}: ${printable(event.text)}`;
      case "stored":
        return `${bold(printable(event.from))} ${dim(`on ${time(event.unixMs)}`)}: ${printable(event.text)}`;
      case "joined":
        return dim(`* ${user} is here`);
      case "left":
        return dim(`* ${user} left (${printable(event.reason)})`);
      case "private":
        return `${inverse("[private]")} ${bold(printable(event.from))}: ${printable(event.text)}`;
      case "asked":
        if (!event.encrypted) return yellow(`* ${user} asks to chat privately, but not encrypted; the answer was no`);
        return yellow(`? ${user} asks to chat privately: yes ${user}, or no ${user}`);
      case "agreed":
        if (!event.encrypted) return yellow(`* ${user} agrees to a chat that is not encrypted; there will be none`);
        return yellow(`* ${user} agrees: private ${user} <text> goes straight to ${address(event)}`);
      case "invited":
        return dim(`* ${user} may write to you privately now; private ${user} <text> answers`);
      case "denied":
        return dim(`* ${user} does not agree to a private chat, or is not here`);
      case "parted":
        return dim(`* the private chat with ${user} is over`);
      case "unreachable":
        return dim(`* ${user} cannot be reached privately for now`);
      case "impostor":
        return yellow(`* whoever answers at the address of ${user} is somebody else; nothing was said`);
      case "goodbye":
        // The reason is the server's: it may be a word that every object has.
        if (Object.hasOwn(GOODBYES, event.reason)) return yellow(GOODBYES[event.reason]!);
        return yellow(`The server ended the session (${printable(event.reason)}).`);
    }
  }

  /** What came of a command. */
  note(text: string): string {
    return this.#colors.dim(printable(text));
  }

  failure(text: string): string {
    return this.#colors.red(printable(text));
  }
}

function address({ host, port }: { host: string; port: number }): string {
  return host.includes(":") ? `[${printable(host)}]:${port}` : `${printable(host)}:${port}`;
}

/** A local time that sorts and reads well: 2026-11-22 21:58. */
function time(unixMs: number): string {
  const local = new Date(unixMs - new Date(unixMs).getTimezoneOffset() * 60_000);
  return Number.isNaN(local.getTime()) ? "?" : local.toISOString().slice(0, 16).replace("T", " ");
}
