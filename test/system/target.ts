/** The server under test in the hostile and soak tests: its start, its memory, its descriptors, its log, its end. */
import { mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { Program, onCore, within } from "../../bench/program.ts";

const READY_MS = 20_000;
const PAGE_BYTES = 4096;
const LOG_LINES = 20;
export const PASSWORD = "secret";

/** A process that does not start, or has ended. The message is for users. */
export class TargetError extends Error {}

export interface TargetOptions {
  /** Users with the plain password PASSWORD. */
  users: readonly string[];
  /** Users with an argon2id hash of it. */
  hashed: readonly string[];
  /** Further options of the server. */
  options: readonly string[];
  /** Limit of descriptors (RLIMIT_NOFILE); null for the limit of this process. */
  descriptorsMax: number | null;
}

/** A server on one core, with its data in a temporary folder. */
export class Target {
  static readonly #all = new Set<Target>();
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-hostile-"));
  /** The last lines of its log. */
  readonly #log: string[] = [];
  /** The first lines of its log with level error or fatal. */
  readonly loggedErrors: string[] = [];
  #program: Program | null = null;
  port = 0;
  /** The port for TLS. The certificate is self-signed. */
  tlsPort = 0;

  private constructor() {
    Target.#all.add(this);
  }

  /** Starts a server and resolves when it listens. Throws TargetError. */
  static async start(options: TargetOptions): Promise<Target> {
    const target = new Target();
    try {
      await target.#start(options);
      return target;
    } catch (error) {
      await target.remove();
      throw error;
    }
  }

  async #start({ users, hashed, options, descriptorsMax }: TargetOptions): Promise<void> {
    const credentials = join(this.#folder, "credentials");
    const lines = users.map((name) => `${name} ${PASSWORD}\n`);
    if (hashed.length > 0) {
      const hash = await Bun.password.hash(PASSWORD);
      lines.push(...hashed.map((name) => `${name} ${hash}\n`));
    }
    writeFileSync(credentials, lines.join(""));
    const { chain, key } = writeCertificate(this.#folder, await makeCertificate());
    const listens = Promise.withResolvers<void>();
    this.#program = new Program(
      [
        "--preload",
        "./test/system/collect.ts",
        "src/main.ts",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--credentials",
        credentials,
        "--tls-cert",
        chain,
        "--tls-key",
        key,
        "--tls-port",
        "0",
        "--data",
        join(this.#folder, "data"),
        ...options,
      ],
      (line) => {
        [this.port = 0, this.tlsPort = 0] = (line.match(/(?<=:)\d+(?=,|$)/g) ?? []).map(Number);
        listens.resolve();
      },
      (line) => this.#logged(line),
      [...(descriptorsMax === null ? [] : ["prlimit", `--nofile=${descriptorsMax}:${descriptorsMax}`]), ...onCore(0)],
    );
    await within(Promise.race([listens.promise, this.#program.ended]), READY_MS);
    if (this.port === 0) throw new TargetError(`the server does not start: ${this.#log.join(" ").slice(0, 500)}`);
  }

  #logged(line: string): void {
    if (this.#log.push(line) > LOG_LINES) this.#log.shift();
    if (/"level":[56]0/.test(line) && this.loggedErrors.length < LOG_LINES) this.loggedErrors.push(line);
  }

  get pid(): number {
    return this.#program!.pid;
  }

  get isRunning(): boolean {
    return this.#program!.isRunning;
  }

  /** Resident memory in bytes; 0 when it has ended. */
  get resident(): number {
    return this.#pages(1);
  }

  /** The part of it that is mapped from files: the program and the journal. */
  get mapped(): number {
    return this.#pages(2);
  }

  #pages(column: number): number {
    try {
      return PAGE_BYTES * Number(readFileSync(`/proc/${this.pid}/statm`, "latin1").split(" ")[column]);
    } catch {
      return 0;
    }
  }

  /** Number of open descriptors. */
  get descriptors(): number {
    try {
      return readdirSync(`/proc/${this.pid}/fd`).length;
    } catch {
      return 0;
    }
  }

  /**
   * The open descriptors, sorted: files by name, others by kind. Without segments of the journal, which has more of them
   * under load and keeps them as spares.
   */
  get openDescriptors(): string[] {
    try {
      const all = readdirSync(`/proc/${this.pid}/fd`).map((name) => linkTarget(`/proc/${this.pid}/fd/${name}`));
      const journal = join(this.#folder, "data", "journal");
      return all
        .filter((what) => !what.startsWith(journal))
        .map((what) => what.replace(/:\[\d+\]$/, ""))
        .sort();
    } catch {
      return [];
    }
  }

  /** Limits the length of its files (RLIMIT_FSIZE): a full disk. */
  limitFileSize(bytes: number | "unlimited"): void {
    const { exitCode, stderr } = Bun.spawnSync(["prlimit", `--fsize=${bytes}:`, "--pid", String(this.pid)]);
    if (exitCode !== 0) throw new TargetError(`prlimit: ${stderr.toString()}`);
  }

  /** Makes it collect all garbage, which is otherwise part of the resident memory. */
  collectGarbage(): void {
    this.kill("SIGUSR1");
  }

  kill(signal: NodeJS.Signals): void {
    this.#program?.kill(signal);
  }

  /** Ends the server and removes its files. */
  async remove(): Promise<void> {
    if (this.#program?.isRunning) await this.#program.stop();
    this.#removeFiles();
  }

  #removeFiles(): void {
    Target.#all.delete(this);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Kills all programs and removes all files, for an interrupt. */
  static killAll(): void {
    for (const program of Program.running) program.kill("SIGKILL");
    for (const target of Target.#all) target.#removeFiles();
  }
}

/** The target of a symbolic link; empty when the descriptor has just been closed. */
function linkTarget(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return "";
  }
}
