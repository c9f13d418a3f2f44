/** An invalid command line: the message says what to change. A program exits with 2 after it. */
export class UsageError extends Error {}

/** Errors in the environment or in the configuration file, one line each; the message is the first one. */
export class ConfigError extends UsageError {
  readonly findings: readonly string[];

  constructor(...findings: string[]) {
    super(findings[0]);
    this.findings = findings;
  }
}

/** A text of the user in a message: in quotes, on one line, and not longer than QUOTED_MAX characters. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > QUOTED_MAX ? `${text.slice(0, QUOTED_MAX)}…` : text);
}

const QUOTED_MAX = 80;

/** Turns an error into a UsageError. An error of `parseArgs` (node:util) becomes its first sentence, in lower case. */
export function usageError(error: unknown): UsageError {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code?.startsWith("ERR_PARSE_ARGS_") !== true) return new UsageError(message);
  const [reason = ""] = message.split(/\.\s/); // Advice on quoting follows.
  return new UsageError(reason.replace(/^\w/, (letter) => letter.toLowerCase()));
}
