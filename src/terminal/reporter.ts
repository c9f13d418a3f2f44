import type { ChatError, UserEvent } from "../client/client.ts";
import type { Result } from "./commands.ts";
import { type Display, type Printable, printable } from "./display.ts";
import { explainError, explainRecovered } from "./explanations.ts";

/** What a script prints: plain lines for people, or the objects of json-reporter.ts. */

/** Where lines for the user go: a screen, or standard output and standard error. */
export interface Output {
  /** Resolves when the kernel took the line. */
  print(line: Printable): Promise<void>;
  fail(line: Printable): void;
}

/** `request` is the number of the command in the input, from 1. */
export interface Reporter {
  /** Resolves when the kernel took the event. */
  event(event: UserEvent): Promise<void>;
  done(request: number, result: Result): Promise<void>;
  refused(request: number, error: unknown, user: string): void;
  /** An invalid command, which was not sent; `code` is that of the server for such a request. */
  invalid(request: number, code: string, reason: string): void;
  /** The lines of the help. */
  help(request: number, lines: readonly string[]): void;
  recovered(request: string, error: ChatError | null): void;
  /** The connection was lost, or is back. */
  connection(state: "lost" | "back"): void;
}

export class PlainReporter implements Reporter {
  readonly #output: Output;
  readonly #display: Display;

  constructor(output: Output, display: Display) {
    this.#output = output;
    this.#display = display;
  }

  event(event: UserEvent): Promise<void> {
    return this.#output.print(this.#display.event(event));
  }

  async done(_request: number, { note }: Result): Promise<void> {
    if (note !== "") await this.#output.print(this.#display.note(note));
  }

  refused(_request: number, error: unknown, user: string): void {
    this.#output.fail(this.#display.failure(explainError(error, user)));
  }

  invalid(_request: number, _code: string, reason: string): void {
    this.#output.fail(this.#display.failure(reason));
  }

  help(_request: number, lines: readonly string[]): void {
    for (const line of lines) void this.#output.print(printable(line));
  }

  recovered(request: string, error: ChatError | null): void {
    void this.#output.print(this.#display.note(explainRecovered(request, error)));
  }

  connection(): void {}
}
