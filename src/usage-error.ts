/** A command line that is not valid: the message says what to change. Programs exit with 2 after it. */
export class UsageError extends Error {}

/** What `parseArgs` of node:util says is wrong: its first sentence, in lower case, since advice on quoting follows. */
export function usageError(error: unknown): UsageError {
  const [reason = ""] = (error as Error).message.split(/\.\s/);
  return new UsageError(reason.replace(/^\w/, (letter) => letter.toLowerCase()));
}
