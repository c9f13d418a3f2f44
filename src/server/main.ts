import { lookup } from "node:dns/promises";
import { isatty } from "node:tty";
import { everyAddress, readHost } from "../runtime/host.ts";
import { filterText } from "../display-filter.ts";
import { CertificateError } from "../net/certificate.ts";
import { UsageError } from "../usage-error.ts";
import { USAGE, parseConfig } from "./config.ts";
import { CredentialsError, plainUsers, readCredentials } from "../auth/credentials.ts";
import { StoreError } from "../storage/database.ts";
import { setSlice } from "../runtime/kernel.ts";
import { ListenError } from "../net/listener.ts";
import { Log, type Logger } from "../runtime/log.ts";
import { Server } from "./server.ts";

/** Ctrl+C reaches both `bun start` and the server, which then gets it from `bun start` once more: no second signal. */
const ECHO_MS = 100;
/** The least that the kernel takes. */
const SLICE_MICROS = 100;

/** `heartline serve`. Exit codes: 0 after an orderly stop, 1 when it cannot run, 2 for an invalid command line. */
export async function main(args: string[]): Promise<void> {
  try {
    await serve(args);
  } catch (error) {
    const usage = error instanceof UsageError;
    const known = [UsageError, CredentialsError, CertificateError, StoreError, ListenError];
    // Thrown on, a fault of ours would be survived like any other one, and a server that never ran would exit with 0.
    if (known.some((kind) => error instanceof kind)) {
      process.stderr.write(
        `heartline: ${filterText((error as Error).message)}${usage ? " (--help lists the options)" : ""}\n`,
      );
    } else console.error(error);
    process.exit(usage ? 2 : 1);
  }
}

async function serve(args: string[]): Promise<void> {
  let reload = (_signal: NodeJS.Signals): void => {}; // Before it runs, all of that is still to be read.
  process.on("SIGHUP", (signal) => reload(signal));
  const config = parseConfig(args);
  if (config === null) return void process.stdout.write(USAGE);
  config.host = await resolve(config.host);
  const credentials = readCredentials(config.credentials);
  const output = await Log.open();
  const log = output.logger;
  const survive = (error: unknown): void => log.error(error, "a fault that nobody expected; the chat goes on");
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
    log.info(`${signal}: telling everybody goodbye; a second signal ends it at once`);
    const isWell = await server.stop();
    await exit(isWell ? 0 : 1);
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  const hasTerminal = isatty(0);
  reload = (signal) => {
    if (stoppedMs > 0) return;
    if (hasTerminal && !isatty(0)) return void stop(signal); // The window that it ran in was closed.
    attempt(log, "the users stay as they are", () => server.reload(readCredentials(config.credentials, "regular")));
    attempt(log, "the certificate stays as it is", () => server.renewCertificate());
  };
  const { address, port } = (plain ?? encrypted)!;
  const beside = plain === null ? " with TLS" : encrypted === null ? "" : `, and with TLS on ${encrypted.address}`;
  process.stdout.write(`listening on ${address}${beside}\n`);
  const plainCount = plainUsers(credentials.users).length;
  const users = credentials.users.length;
  if (credentials.sample) {
    log.warn(
      `SAMPLE CREDENTIALS: everybody knows the passwords in ${config.credentials}. Replace them before others come`,
    );
  } else if (plainCount > 0) {
    log.warn(
      `${plainCount} of ${users} passwords are plain text: bun run passwd --migrate ${config.credentials} hashes them`,
    );
  }
  const host = ["0.0.0.0", "::"].includes(config.host) ? "127.0.0.1" : config.host;
  const target = `${host} ${port}${plain === null ? " --tls" : ""}`;
  log.info(`${users} users; join with: bun run client ${target}, or npm run client -- ${target}`);
}

/** Does it, or says why not, and what follows. */
function attempt(log: Logger, otherwise: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    log.error(`${(error as Error).message}; ${otherwise}`);
  }
}

/** The address that a host's name stands for. */
async function resolve(host: string): Promise<string> {
  try {
    const { address } = await lookup(readHost(host));
    return address === "::" ? everyAddress() : address;
  } catch {
    throw new ListenError(`cannot listen on ${host}: there is no such host`);
  }
}
