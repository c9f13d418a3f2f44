/**
 * The program `serve`: reads the command line and the credentials, starts the server and handles its signals. Exit
 * codes: 0 after an orderly stop, 1 when it cannot run, 2 for an invalid command line, 65 when the engine of the
 * cluster has lost records.
 */
import { lookup } from "node:dns/promises";
import { isatty } from "node:tty";
import { AdminListener } from "../admin/listener.ts";
import type { AdminRequest } from "../protocol/admin.ts";
import { everyAddress, isLoopback, readHost } from "../runtime/host.ts";
import { filterText } from "../display-filter.ts";
import { CertificateError } from "../net/certificate.ts";
import { ConfigError, UsageError } from "../usage-error.ts";
import { ClusterError, LostRecordsError } from "../cluster/shared-log.ts";
import type { Store } from "../storage/store.ts";
import { BoundedLog } from "./bounded-log.ts";
import { type Config, type Configuration, USAGE, readConfiguration } from "./config.ts";
import {
  type Credentials,
  CredentialsError,
  plainPasswordsWarning,
  readAgain,
  readCredentials,
} from "../auth/credentials.ts";
import { StoreError } from "../storage/database.ts";
import { inSlices } from "../runtime/slices.ts";
import { spawned, typed } from "../runtime/invocation.ts";
import { endWithParent, setSlice } from "../runtime/kernel.ts";
import { ListenError, Listener } from "../net/listener.ts";
import { Log, type Logger } from "../runtime/log.ts";
import { ClusterNode, type ClusterNodeOptions } from "./cluster-node.ts";
import { WebPort } from "../net/web-client.ts";
import { ClientPorts } from "./client-ports.ts";
import { Gateway } from "./gateway.ts";
import { assignPorts } from "./inherited-ports.ts";
import { Readiness, type ServerState } from "./readiness.ts";
import { ServiceManager, inheritedSockets } from "../runtime/systemd.ts";
import { PrintError, print } from "../runtime/output.ts";
import { WorkerError, checkWorker } from "../runtime/thread.ts";
import { WORKERS } from "../workers.ts";
import { HttpServer } from "./http.ts";
import { Metrics } from "./metrics.ts";
import { NO_PAGE, readPage } from "./page-files.ts";
import { progressFor, recover } from "./recover.ts";
import { Reloader, hostFor } from "./reload.ts";
import { CLOCK, Server } from "./server.ts";
import { type HandledSignal, type SignalActs, handleSignals, stopActs } from "./signals.ts";
import { EXIT_LOST_RECORDS, WorkerGroup, forWorker, takeWorker } from "./worker-group.ts";

/** What the service manager receives, with a status, when the server enters a state (sd_notify(3)). */
const NOTIFICATIONS: Record<ServerState, string[]> = {
  recovering: [],
  spare: ["READY=1"], // Otherwise the manager would stop the unit after TimeoutStartSec=.
  serving: ["READY=1"],
  draining: [], // `STOPPING=1` would begin TimeoutStopSec=.
  stopping: ["STOPPING=1"],
};
/** The scheduler's time slice (`sched_setattr`): the minimum of the kernel. */
const SLICE_MICROS = 100;

export async function main(args: string[]): Promise<void> {
  const outputs: Log[] = [];
  try {
    await serve(args, outputs);
  } catch (error) {
    for (const output of outputs) await output.close(); // Warnings may explain the error.
    const usage = error instanceof UsageError;
    const isArgument = usage && !(error instanceof ConfigError);
    const known = [
      ClusterError,
      UsageError,
      CredentialsError,
      CertificateError,
      StoreError,
      ListenError,
      PrintError,
      WorkerError,
    ];
    // An unknown error is not rethrown: `uncaughtException` would survive it, and the exit code would be 0.
    if (known.some((kind) => error instanceof kind)) {
      const hint = isArgument ? ` (${typed("help", "serve")} lists the options)` : "";
      process.stderr.write(`heartline: ${filterText((error as Error).message)}${hint}\n`);
    } else console.error(error);
    process.exit(usage ? 2 : error instanceof LostRecordsError ? EXIT_LOST_RECORDS : 1);
  }
}

/** `outputs` takes the log when there is one. */
async function serve(args: string[], outputs: Log[]): Promise<void> {
  const manager = new ServiceManager();
  const sockets = inheritedSockets();
  const readiness = new Readiness((state) => manager.notify(...NOTIFICATIONS[state], `STATUS=${state}`));
  const acts: SignalActs = { exit: () => process.exit(0) };
  handleSignals(readiness, acts);
  const worker = takeWorker(process.env);
  if (worker !== null) endWithParent();
  const configuration = readConfiguration(args, process.env);
  if (configuration === null) return print(USAGE);
  const inherited = assignPorts(sockets, configuration.config);
  let credentials = readCredentials(configuration.config.credentials);
  const host = await resolve(hostFor(configuration.config, credentials));
  const all = { ...configuration.config, host };
  const config = worker === null ? all : forWorker(all, worker);
  const output = new Log(config.logLevel, worker === null ? null : { worker });
  outputs.push(output);
  if (worker === null && all.workers > 1) {
    if (sockets.length > 0) throw new ListenError("--workers takes no inherited sockets: remove the socket unit");
    return superviseWorkers(all, args, output, { manager, readiness, acts });
  }
  const log = new BoundedLog(output.logger, CLOCK.nowMs);
  await Promise.all(Object.values(WORKERS).map(checkWorker));
  const webPort = await webPortOf(config, log);
  const ports = new ClientPorts(inherited, webPort);
  for (const warning of configuration.warnings) log.warn({ event: "config_warning" }, warning);
  const survive = (error: unknown): void =>
    log.error({ event: "internal_error", err: error }, "internal error; the server continues");
  process.on("uncaughtException", survive);
  process.on("unhandledRejection", survive);
  setSlice(SLICE_MICROS);
  acts.ignore = (signal) =>
    log.info({ event: "signal_ignored", signal }, `${signal} is ignored: the server is ${readiness.state}`);
  let isReloadDue = false;
  acts.reloadLater = () => void (isReloadDue = true);
  const metrics = new Metrics(readiness, config.cluster === null ? config.data : ":memory:");
  const http = config.http === null ? null : await HttpServer.open(config.http, readiness, metrics);
  if (http !== null) log.info({ event: "http", url: http.url }, `health and metrics at ${http.url}`);
  const exit = async (code: number): Promise<void> => {
    http?.close();
    await output.close();
    process.exit(code);
  };
  let server: Server | null = null;
  const node = await joinCluster(config, credentials, log, readiness, ({ kind, message }) => {
    server?.halt();
    log.fatal({ event: kind === "deposed" ? "deposed" : "cluster_error" }, message);
    void exit(kind === "behind" ? EXIT_LOST_RECORDS : 1);
  });
  const admin = adminListener(config, readiness, node, log, survive);
  process.once("exit", () => {
    admin?.stop();
    node?.removeFiles();
  });
  let store: Store;
  let gateway: Gateway | null = null;
  if (node === null) store = await recover(config, log, manager, async () => admin?.listen());
  else {
    metrics.node = node;
    acts.exit = (signal) => {
      log.info({ event: "stopping", signal }, `${signal}: the server stops`);
      void node.release().then(() => exit(0));
    };
    await admin?.listen();
    gateway = new Gateway(config, (core) => node.newRelays(core, null), log, CLOCK, webPort);
    metrics.server = gateway.measured;
    ports.open(config, gateway.handlers);
    gateway.start();
    announce(log, config, credentials, ports, sockets.length);
    const owned = await node.own(progressFor(manager, "reading the shared log"));
    if (owned === null) return; // `release` was called: the process exits.
    ({ store, credentials } = owned);
  }
  server = new Server(config, store, log, exit, readiness, node);
  await inSlices(server.load(credentials));
  metrics.server = server.measured;
  const end = (): void => void server.end();
  const quit = (): void => {
    output.abandon();
    process.exit(1);
  };
  Object.assign(acts, stopActs(log, end, quit));
  acts.drain = () => void server.drain();
  const hasTerminal = isatty(0);
  const read = (): Configuration => readConfiguration(args, process.env)!;
  const reloader = new Reloader(server, log, read, configuration, credentials);
  acts.reload = (signal) => {
    if (hasTerminal && !isatty(0)) return acts.stop!(signal); // The terminal was closed.
    void reloader.reload();
  };
  server.listen(ports);
  gateway?.handOver(server);
  admin?.serve({
    ...server.administered,
    stats: () => metrics.samples(),
    reload: () => reloader.reload(),
    restarts: () => reloader.restarts,
  });
  if (isReloadDue) acts.reload("SIGHUP");
  if (node === null) announce(log, config, credentials, ports, sockets.length);
}

/** Null without `--web`. */
async function webPortOf({ web, tls }: Config, log: Logger): Promise<WebPort | null> {
  if (web === null) return null;
  const page = await readPage();
  if (page === null) log.warn({ event: "config_warning" }, NO_PAGE);
  return new WebPort(tls !== null, page, CLOCK.nowMs);
}

/** Never returns: the process exits when all workers have. */
async function superviseWorkers(
  config: Config,
  args: readonly string[],
  output: Log,
  { manager, readiness, acts }: { manager: ServiceManager; readiness: Readiness; acts: SignalActs },
): Promise<void> {
  const { workers: count, host, port, web } = config;
  const log = output.logger;
  forWorker(config, count); // Its ports exist.
  // The ports are free: workers would share them with other servers.
  new Listener(host, port, { data: () => {} }, null).stop();
  if (web !== null) new Listener(web.host, web.port, { data: () => {} }, null, null, "--web").stop();
  const group = new WorkerGroup({
    count,
    command: spawned("serve", ...args),
    log,
    listening: (line) => {
      process.stdout.write(line);
      readiness.enter("serving");
    },
  });
  const stop = (signal: HandledSignal): void => {
    log.info({ event: "stopping", signal }, `${signal}: all workers stop`);
    manager.notify("STOPPING=1");
    group.stop(signal);
  };
  const reload = (): void => group.signal("SIGHUP");
  Object.assign(acts, { exit: stop, stop, drain: stop, reload, reloadLater: reload });
  const code = await group.run();
  log.info({ event: "stopped" }, "all workers have exited");
  await output.close();
  process.exit(code);
}

/** Null for a server with its own journal. */
async function joinCluster(
  { cluster, credentials: file }: Config,
  credentials: Credentials,
  log: Logger,
  readiness: Readiness,
  ended: ClusterNodeOptions["ended"],
): Promise<ClusterNode | null> {
  if (cluster === null) return null;
  const read = (known: Credentials): Promise<Credentials> => readAgain(file, known);
  return ClusterNode.open(cluster, { log, readiness, credentials, readCredentials: read, ended });
}

/** Prints where the server listens, and logs how to join it. */
function announce(
  log: Logger,
  config: Config,
  credentials: Credentials,
  { plain, encrypted, webUrl }: ClientPorts,
  inherited: number,
): void {
  const { address, host } = (plain ?? encrypted)!;
  const tls = plain === null ? " with TLS" : encrypted === null ? "" : `, and with TLS on ${encrypted.address}`;
  process.stdout.write(`listening on ${address}${tls}\n`);
  const isOpen = config.isHostGiven || inherited > 0 || (config.web !== null && !isLoopback(config.web.host));
  warnOfPlainPasswords(log, credentials, { ...config, isHostGiven: isOpen });
  const reached = ["0.0.0.0", "::"].includes(host) ? "127.0.0.1" : host;
  const target = plain === null ? [reached, `${encrypted!.port}`, "--tls"] : [reached, `${plain.port}`];
  const users = credentials.users.length;
  const addresses = { address: plain?.address, tls: encrypted?.address, admin: config.adminSocket ?? undefined };
  log.info(
    { event: "listening", ...addresses, inherited, users },
    `${users} users; join with: ${typed("chat", ...target)}`,
  );
  if (webUrl !== null) log.info({ event: "web", url: webUrl }, `chat in a browser: ${webUrl}`);
  else log.info({ event: "web" }, `no chat in a browser; to switch it on: ${typed("serve", "--web", "8080")}`);
}

/** Null for a server in memory that has no admin socket. In a cluster it also takes the commands of other servers. */
function adminListener(
  { adminSocket }: Config,
  readiness: Readiness,
  node: ClusterNode | null,
  log: Logger,
  report: (error: unknown) => void,
): AdminListener | null {
  if (adminSocket === null && node === null) return null;
  const obstacle = (): string | null => {
    const { state } = readiness;
    return state === "recovering" || state === "spare" || state === "stopping" ? `${state}; nothing was done` : null;
  };
  const done = ({ verb, user }: AdminRequest): void =>
    log.info({ event: "admin", command: verb, ...(user === "" ? {} : { user }) }, `${verb} by an operator`);
  const cluster = node === null ? null : { lines: () => node.lines(), shards: node.newShardAdmin() };
  const admin = new AdminListener(adminSocket, { obstacle, report, done, cluster });
  if (node !== null) node.administer = (socket) => admin.accept(socket);
  return admin;
}

function warnOfPlainPasswords(log: Logger, { users, sample }: Credentials, config: Config): void {
  const { credentials: file, isHostGiven } = config;
  if (sample) {
    const advice = isHostGiven
      ? "replace them before others can connect"
      : "so the server listens on 127.0.0.1 only; write your own users to a file for --credentials, or give --host";
    return log.warn({ event: "config_warning" }, `SAMPLE CREDENTIALS: the passwords in ${file} are public; ${advice}`);
  }
  const warning = plainPasswordsWarning(users, file);
  if (warning !== null) log.warn({ event: "config_warning" }, warning);
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
