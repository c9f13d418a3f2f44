import { rmSync } from "node:fs";

/** The folder of a command that works for a while: it is removed at the end, and when a signal ends the command. */

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Calls `act`, and removes the folder of that path afterwards, if it is still there. */
export async function thenRemove<Result>(path: string, act: () => Promise<Result>): Promise<Result> {
  const remove = (): void => rmSync(path, { recursive: true, force: true });
  const interrupted = (): void => {
    remove();
    process.stderr.write("heartline: interrupted; run the command again\n");
    process.exit(1);
  };
  for (const signal of SIGNALS) process.on(signal, interrupted);
  try {
    return await act();
  } finally {
    for (const signal of SIGNALS) process.off(signal, interrupted);
    remove();
  }
}
