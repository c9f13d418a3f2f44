import { ChatError, type UserEvent } from "../client/client.ts";
import { encodeText } from "../client/event.ts";
import type { Result } from "./commands.ts";
import { explainError } from "./explanations.ts";
import type { Reporter } from "./reporter.ts";

/**
 * `--json`: one object a line, for programs. Replies have the number of their command. A text that is not UTF-8 is in
 * `text_base64` instead of `text`. Texts are not filtered; in the line everything but printable ASCII is escaped.
 */
export class JsonReporter implements Reporter {
  readonly #write: (line: string) => Promise<void>;

  /** `write` resolves when the kernel took the line. */
  constructor(write: (line: string) => Promise<void>) {
    this.#write = write;
  }

  event(event: UserEvent): Promise<void> {
    const { kind, ...rest } = event;
    return this.#print({ event: kind, ...fields(rest) });
  }

  done(request: number, { fields: words = {} }: Result): Promise<void> {
    return this.#print({ reply: "ok", ...words, request });
  }

  refused(request: number, error: unknown, user: string): void {
    const [code, detail] = error instanceof ChatError ? [error.code, error.detail] : ["internal", ""];
    void this.#print({ reply: "err", code, detail, reason: explainError(error, user), request });
  }

  invalid(request: number, code: string, reason: string): void {
    void this.#print({ reply: "err", code, detail: "", reason, request });
  }

  help(request: number, lines: readonly string[]): void {
    void this.#print({ reply: "ok", help: lines, request });
  }

  recovered(line: string, error: ChatError | null): void {
    const state = error === null ? { outcome: "ok" } : { outcome: "err", code: error.code };
    void this.#print({ event: "recovered", ...state, ...fields({ text: line }) });
  }

  connection(state: "lost" | "back"): void {
    void this.#print({ event: state });
  }

  #print(object: Record<string, unknown>): Promise<void> {
    return this.#write(`${ascii(JSON.stringify(object))}\n`);
  }
}

/** The fields of an event, with words in the form of JSON. */
function fields(event: Record<string, unknown>): Record<string, unknown> {
  const named: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(event)) {
    const isBytes = typeof value === "string" && !value.isWellFormed();
    if (name === "unixMs") named.unix_ms = Number.isFinite(value) ? value : null;
    else if (isBytes) named[`${name}_base64`] = Buffer.from(encodeText(value)).toString("base64");
    else named[name] = value;
  }
  return named;
}

/** Escapes what a terminal or a reader of another encoding could take for something else. */
function ascii(json: string): string {
  return json.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
