import { ChatError } from "../client/client.ts";
import { UsageError } from "../usage-error.ts";
import { EXIT_NO_LOGIN, EXIT_USAGE, Exit, exit, output, printError } from "./exit.ts";
import { runInteractive } from "./interactive.ts";
import { USAGE, parseOptions } from "./options.ts";
import { runScript } from "./script.ts";

/** `heartline chat`: with a terminal for a person, without one for a script. USAGE has the exit codes. */
export async function main(args: string[]): Promise<void> {
  try {
    const options = parseOptions(args);
    if (options === null) void output.write(USAGE);
    else if (process.stdin.isTTY && process.stdout.isTTY && !options.json) await runInteractive(options);
    else await runScript(options);
    await exit(0);
  } catch (error) {
    const { syscall, message } = error as NodeJS.ErrnoException;
    if (error instanceof UsageError) {
      printError(`${message} (--help lists the options)`);
      return exit(EXIT_USAGE);
    }
    // Any other error is a bug of this program: the runtime prints it with its stack.
    if (!(error instanceof Exit || error instanceof ChatError) && syscall === undefined) throw error;
    if (message !== "") printError(message);
    await exit(error instanceof Exit ? error.code : EXIT_NO_LOGIN);
  }
}
