/**
 * Engines of the shared log as ordinary processes in a temporary folder: never the system's service, and reached only
 * on loopback or in a network of their own. They are ended by process id.
 */
import {
  appendFileSync,
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { freePort } from "./free-port.ts";
import { type Host, LOOPBACK } from "./hosts.ts";

/** Debian has the programs of each version in a folder of its own. */
const POSTGRES_FOLDERS = "/usr/lib/postgresql";
const USER = "heartline";
const PASSWORD = "engine-secret";
/** The server accepts connections within this time after its start. */
const START_MS = 30_000;

/** The folder with `postgres` and `initdb`, of the newest version; null when PostgreSQL is not installed. */
export const postgresPrograms = findPrograms();
if (postgresPrograms === null) console.warn("\n  SKIPPED: tests with PostgreSQL (they need the package postgresql)\n");

function findPrograms(): string | null {
  const versions = existsSync(POSTGRES_FOLDERS) ? readdirSync(POSTGRES_FOLDERS) : [];
  const folders = versions.sort((a, b) => Number(b) - Number(a)).map((name) => join(POSTGRES_FOLDERS, name, "bin"));
  const installed = Bun.which("postgres");
  if (installed !== null) folders.push(dirname(realpathSync(installed)));
  return folders.find((folder) => existsSync(join(folder, "initdb"))) ?? null;
}

/** A PostgreSQL server of its own. PostgreSQL refuses to run as root; then its user is `postgres`. */
export class PostgresEngine {
  /** Those that `closeAll` has not ended. */
  static readonly #started = new Set<PostgresEngine>();
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-postgres-"));
  readonly port = freePort();
  readonly #options: readonly string[];
  readonly #host: Host;
  #process: Bun.Subprocess<"ignore", "ignore", "pipe"> | null = null;
  /** What the server wrote to its log since its last start. */
  log = "";

  private constructor(options: readonly string[], host: Host) {
    this.#options = options;
    this.#host = host;
    PostgresEngine.#started.add(this);
    process.once("exit", () => rmSync(this.#folder, { recursive: true, force: true }));
    if (process.getuid!() === 0) {
      const [uid, gid] = ["-u", "-g"].map((flag) => Number(Bun.spawnSync(["id", flag, "postgres"]).stdout.toString()));
      chownSync(this.#folder, uid!, gid!);
    }
  }

  /** `options` are settings of the server: `fsync=off`. */
  static start(...options: string[]): Promise<PostgresEngine> {
    return PostgresEngine.startAt(LOOPBACK, ...options);
  }

  static async startAt(host: Host, ...options: string[]): Promise<PostgresEngine> {
    const engine = new PostgresEngine(options, host);
    const password = join(engine.#folder, "password");
    writeFileSync(password, `${PASSWORD}\n`);
    chmodSync(password, 0o644);
    const login = [`--username=${USER}`, `--pwfile=${password}`, "--auth=scram-sha-256"];
    engine.#run("initdb", `--pgdata=${engine.#data}`, ...login, "--encoding=UTF8", "--locale=C", "--no-sync");
    const access = ["all", "replication"].map((what) => `host ${what} all samenet scram-sha-256\n`);
    if (host !== LOOPBACK) appendFileSync(join(engine.#data, "pg_hba.conf"), access.join(""));
    await engine.restart();
    return engine;
  }

  /** A standby of this server, which follows it: with these settings, and these options of pg_basebackup. */
  async startStandby(
    settings = this.#options,
    options: readonly string[] = [`--dbname=${this.url("postgres")}`, "--write-recovery-conf", "--checkpoint=fast"],
  ): Promise<PostgresEngine> {
    const standby = new PostgresEngine(settings, this.#host);
    standby.#run("pg_basebackup", ...options, `--pgdata=${standby.#data}`);
    await standby.restart();
    return standby;
  }

  /** Ends all servers of a test file. */
  static async closeAll(): Promise<void> {
    await Promise.all([...PostgresEngine.#started].map((engine) => engine.close()));
  }

  get #data(): string {
    return join(this.#folder, "data");
  }

  /** The library of PostgreSQL looks for certificates in the home folder. */
  get #place(): { cwd: string; env: Record<string, string | undefined> } {
    return { cwd: this.#folder, env: { ...process.env, HOME: this.#folder } };
  }

  /** Its other processes are children of this one. */
  get pid(): number {
    return this.#process!.pid;
  }

  /** `host:port`. */
  get address(): string {
    return `${this.#host.address}:${this.port}`;
  }

  url(database: string, user = USER, password = PASSWORD): string {
    return `postgres://${user}:${password}@${this.address}/${database}`;
  }

  /** That of a client which knows several servers. */
  static urlOf(database: string, ...engines: PostgresEngine[]): string {
    return `postgres://${USER}:${PASSWORD}@${engines.map(({ address }) => address).join()}/${database}`;
  }

  /** Starts the server, also after `kill`; resolves when it accepts connections. */
  async restart(): Promise<void> {
    const settings = [
      `port=${this.port}`,
      `listen_addresses=${this.#host.address}`,
      "unix_socket_directories=",
      ...this.#options,
    ];
    const command = asUser(
      postgresPrograms!,
      "postgres",
      "-D",
      this.#data,
      ...settings.flatMap((each) => ["-c", each]),
    );
    const child = Bun.spawn([...this.#host.prefix, ...command], {
      ...this.#place,
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#process = child;
    this.log = "";
    const { promise: isReady, resolve } = Promise.withResolvers<void>();
    void (async () => {
      const decoder = new TextDecoder();
      for await (const chunk of child.stderr) {
        this.log += decoder.decode(chunk, { stream: true });
        if (this.log.includes("ready to accept")) resolve();
      }
    })();
    const late = AbortSignal.timeout(START_MS);
    const isEnded = child.exited.then(() => Promise.reject(new Error(`PostgreSQL ended: ${this.log}`)));
    isEnded.catch(() => {});
    const isLate = new Promise<never>((_, reject) =>
      late.addEventListener("abort", () => reject(new Error(`PostgreSQL does not start: ${this.log}`))),
    );
    await Promise.race([isReady, isEnded, isLate]);
  }

  /** Ends the server and all its processes with SIGKILL; resolves when they are gone. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (child === null) return;
    this.#process = null;
    const all = processes(child.pid);
    signal(all, "SIGKILL");
    await child.exited;
    while (all.some(isAlive)) await Bun.sleep(5); // They hold the shared memory, which the next start needs.
  }

  pause(): void {
    signal(processes(this.#process!.pid), "SIGSTOP");
  }

  /** From now on standbys receive nothing, until `resume`. */
  pauseReplication(): void {
    const isSender = (pid: number): boolean => readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("walsender");
    signal(processes(this.#process!.pid).filter(isSender), "SIGSTOP");
    signal([this.#process!.pid], "SIGCONT"); // `processes` has stopped it.
  }

  resume(): void {
    signal(processes(this.#process!.pid), "SIGCONT");
  }

  /** A standby becomes the primary of a new timeline. */
  promote(): void {
    this.#run("pg_ctl", "promote", `--pgdata=${this.#data}`, "--wait");
  }

  /** Ends the server and removes its folder. */
  async close(): Promise<void> {
    await this.kill();
    PostgresEngine.#started.delete(this);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #run(program: string, ...args: string[]): void {
    const { exitCode, stderr } = Bun.spawnSync(asUser(postgresPrograms!, program, ...args), this.#place);
    if (exitCode !== 0) throw new Error(`${program} failed: ${stderr.toString()}`);
  }
}

/** The command of a program that ends when this process ends, however it does. */
function asUser(folder: string, program: string, ...args: string[]): string[] {
  const user = process.getuid!() === 0 ? ["--reuid=postgres", "--regid=postgres", "--init-groups"] : [];
  return ["setpriv", ...user, "--pdeathsig=KILL", join(folder, program), ...args];
}

/** A process and its children, which are stopped first, so that they start no others meanwhile. */
function processes(pid: number): number[] {
  signal([pid], "SIGSTOP");
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
  return [pid, ...children];
}

function signal(pids: number[], name: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch {
      // It has ended.
    }
  }
}

/** Ended children that the server's own parent has not collected are zombies. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
