import { appendFileSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { HISTORY_MAX } from "./screen.ts";

/**
 * The lines typed in earlier runs, for the arrow keys: a file with mode 0600 in the state folder. The caller leaves out
 * texts of private chats, and lines that contain the password. A file that cannot be used is not used: nothing depends
 * on it.
 */
export class History {
  readonly #file: string;
  #last = "";

  constructor(file: string) {
    this.#file = file;
  }

  /** The lines, the latest first. A file that has become long is shortened. */
  load(): string[] {
    try {
      const lines = readFileSync(this.#file, "utf8").split("\n").filter(Boolean);
      const kept = lines.slice(-HISTORY_MAX);
      if (lines.length > 2 * HISTORY_MAX) {
        const draft = `${this.#file}.${process.pid}`;
        writeFileSync(draft, kept.map((line) => `${line}\n`).join(""), { mode: 0o600 });
        renameSync(draft, this.#file);
      }
      this.#last = kept.at(-1) ?? "";
      return kept.reverse();
    } catch {
      return [];
    }
  }

  add(line: string): void {
    if (line.trim() === "" || line === this.#last) return;
    this.#last = line;
    try {
      appendFileSync(this.#file, `${line.toWellFormed()}\n`, { mode: 0o600 });
    } catch {}
  }
}
