/**
 * The program `serve`: reads the command line and the credentials, starts the server and handles its signals. Exit
 * codes: 0 after an orderly stop, 1 when it cannot run, 2 for an invalid command line.
 */
import { lookup } from "node:dns/promises";
import { isatty } from "node:tty";
import { everyAddress, readHost } from "../runtime/host.ts";
import { filterText } from "../display-filter.ts";
import { CertificateError } from "../net/certificate.ts";
import { UsageError } from "../usage-error.ts";
import { USAGE, parseConfig } from "./config.ts";
import { type Credentials, CredentialsError, plainUsers, readCredentials } from "../auth/credentials.ts";
import { StoreError } from "../storage/database.ts";
import { typed } from "../runtime/invocation.ts";
import { setSlice } from "../runtime/kernel.ts";
import { ListenError } from "../net/listener.ts";
import { Log, type Logger } from "../runtime/log.ts";
import { PrintError, print } from "../runtime/output.ts";
import { WorkerError, checkWorker } from "../runtime/thread.ts";
import { WORKERS } from "../workers.ts";
import { Server } from "./server.ts";

/** Ctrl+C reaches the server and `bun start`, which forwards it: a SIGINT within this time is not a second signal. */
const ECHO_MS = 100;
/** The scheduler's time slice (`sched_setattr`): the minimum of the kernel. */
const SLICE_MICROS = 100;

export async function main(args: string[]): Promise<void> {
  try {
    await serve(args);
  } catch (error) {
    const usage = error instanceof UsageError;
    const known = [UsageError, CredentialsError, CertificateError, StoreError, ListenError, PrintError, WorkerError];
    // An unknown error is not rethrown: `uncaughtException` would survive it, and the exit code would be 0.
    if (known.some((kind) => error instanceof kind)) {
      process.stderr.write(
        `heartline: ${filterText((error as Error).message)}${usage ? " (--help lists the options)" : ""}\n`,
      );
    } else console.error(error);
    process.exit(usage ? 2 : 1);
  }
}

async function serve(args: string[]): Promise<void> {
  let reload = (_signal: NodeJS.Signals): void => {}; // Until the server listens, the files are still to be read.
  process.on("SIGHUP", (signal) => reload(signal));
  const config = parseConfig(args);
  if (config === null) return print(USAGE);
  config.host = await resolve(config.host);
  const credentials = readCredentials(config.credentials);
  const output = await Log.open();
  const log = output.logger;
  await Promise.all(Object.values(WORKERS).map(checkWorker));
  const survive = (error: unknown): void => log.error(error, "internal error; the server continues");
  process.on("uncaughtException", survive);
  process.on("unhandledRejection", survive);
  setSlice(SLICE_MICROS);
  const exit = async (code: number): Promise<void> => {
    await output.close();
    process.exit(code);
  };
  const server = new Server(config, credentials, log, exit);
  const { plain, encrypted } = server.listen();
  let stoppedMs = 0;
  const stop = async (signal: NodeJS.Signals): Promise<void> => {
    const isEcho = signal === "SIGINT" && performance.now() - stoppedMs < ECHO_MS;
    if (stoppedMs > 0 && !isEcho) process.exit(1);
    if (stoppedMs > 0) return;
    stoppedMs = performance.now();
    log.info(`${signal}: the server stops; a second signal exits at once`);
    const isStored = await server.stop();
    await exit(isStored ? 0 : 1);
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  const hasTerminal = isatty(0);
  reload = (signal) => {
    if (stoppedMs > 0) return;
    if (hasTerminal && !isatty(0)) return void stop(signal); // The terminal was closed.
    attempt(log, "the users stay as they are", () => server.reload(readCredentials(config.credentials, "regular")));
    attempt(log, "the certificate stays as it is", () => server.renewCertificate());
  };
  const { address } = (plain ?? encrypted)!;
  const tls = plain === null ? " with TLS" : encrypted === null ? "" : `, and with TLS on ${encrypted.address}`;
  process.stdout.write(`listening on ${address}${tls}\n`);
  warnOfPlainPasswords(log, credentials, config.credentials);
  const host = ["0.0.0.0", "::"].includes(config.host) ? "127.0.0.1" : config.host;
  const target = plain === null ? [host, `${encrypted!.port}`, "--tls"] : [host, `${plain.port}`];
  const users = credentials.users.length;
  log.info(`${users} users; join with: ${typed("chat", ...target)}`);
}

function warnOfPlainPasswords(log: Logger, { users, sample }: Credentials, file: string): void {
  if (sample) {
    return log.warn(`SAMPLE CREDENTIALS: the passwords in ${file} are public; replace them before others can connect`);
  }
  const count = plainUsers(users).length;
  if (count === 0) return;
  log.warn(
    `${count} of ${users.length} passwords are plain text; hash them with ${typed("passwd", "--migrate", file)}`,
  );
}

/** Logs an error of `act`, and what remains in force. */
function attempt(log: Logger, remains: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    log.error(`${(error as Error).message}; ${remains}`);
  }
}

/** The address of a host name. */
async function resolve(host: string): Promise<string> {
  try {
    const { address } = await lookup(readHost(host));
    return address === "::" ? everyAddress() : address;
  } catch {
    throw new ListenError(`cannot listen on ${host}: no such host`);
  }
}
