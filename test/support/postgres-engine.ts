/**
 * Engines of the shared log as ordinary processes in a temporary folder: never the system's service, and reached only
 * on loopback. They are ended by process id.
 */
import {
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
  #process: Bun.Subprocess<"ignore", "ignore", "pipe"> | null = null;
  /** What the server wrote to its log since its last start. */
  log = "";

  private constructor(options: readonly string[]) {
    this.#options = options;
    PostgresEngine.#started.add(this);
    process.once("exit", () => rmSync(this.#folder, { recursive: true, force: true }));
    if (process.getuid!() === 0) {
      const [uid, gid] = ["-u", "-g"].map((flag) => Number(Bun.spawnSync(["id", flag, "postgres"]).stdout.toString()));
      chownSync(this.#folder, uid!, gid!);
    }
  }

  /** `options` are settings of the server: `fsync=off`. */
  static async start(...options: string[]): Promise<PostgresEngine> {
    const engine = new PostgresEngine(options);
    const password = join(engine.#folder, "password");
    writeFileSync(password, `${PASSWORD}\n`);
    chmodSync(password, 0o644);
    const login = [`--username=${USER}`, `--pwfile=${password}`, "--auth=scram-sha-256"];
    engine.#run("initdb", `--pgdata=${engine.#data}`, ...login, "--encoding=UTF8", "--locale=C", "--no-sync");
    await engine.restart();
    return engine;
  }

  /** A standby of this server, which follows it. */
  async startStandby(): Promise<PostgresEngine> {
    const standby = new PostgresEngine(this.#options);
    const source = `--dbname=${this.url("postgres")}`;
    standby.#run("pg_basebackup", source, `--pgdata=${standby.#data}`, "--write-recovery-conf", "--checkpoint=fast");
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

  /** Its other processes are children of this one. */
  get pid(): number {
    return this.#process!.pid;
  }

  /** `host:port`. */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  url(database: string, user = USER, password = PASSWORD): string {
    return `postgres://${user}:${password}@${this.address}/${database}`;
  }

  /** Starts the server, also after `kill`; resolves when it accepts connections. */
  async restart(): Promise<void> {
    const settings = [`port=${this.port}`, "listen_addresses=127.0.0.1", "unix_socket_directories=", ...this.#options];
    const command = asUser(
      postgresPrograms!,
      "postgres",
      "-D",
      this.#data,
      ...settings.flatMap((each) => ["-c", each]),
    );
    const child = Bun.spawn(command, { cwd: this.#folder, stdio: ["ignore", "ignore", "pipe"] });
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
    const { exitCode, stderr } = Bun.spawnSync(asUser(postgresPrograms!, program, ...args), { cwd: this.#folder });
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
