import { mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeCertificate, writeCertificate } from "../support/certificate.ts";
import { Program, onCore, within } from "../../bench/program.ts";

const READY_MS = 20_000;
const PAGE_BYTES = 4096;
const LOG_LINES = 20;
export const PASSWORD = "secret";

/** A server that does not start, or ended; in words for a person. */
export class TargetError extends Error {}

export interface TargetOptions {
  /** Names of the users; all have the same password. */
  users: readonly string[];
  /** Of these the server has nothing but an argon2id hash. */
  hashed: readonly string[];
  /** Options of the server besides those that say where it is. */
  options: readonly string[];
  /** So many descriptors it may have; null for as many as there are. */
  descriptorsMax: number | null;
}

/** The server that is attacked: on one core, with data in a temporary folder. */
export class Target {
  static readonly #all = new Set<Target>();
  readonly #folder = mkdtempSync(join(tmpdir(), "heartline-hostile-"));
  readonly #log: string[] = [];
  /** What it logged of faults, the first lines of them. */
  readonly loggedErrors: string[] = [];
  #program: Program | null = null;
  port = 0;
  /** Where it speaks TLS, with a certificate that nobody trusts. */
  tlsPort = 0;

  private constructor() {
    Target.#all.add(this);
  }

  /** Starts a server; resolves when it listens. Throws TargetError. */
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

  /** Bytes of memory that are resident; 0 when it has ended. */
  get resident(): number {
    return this.#pages(1);
  }

  /** Those of them that are a file's: its program, its journal. */
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

  /** How many descriptors it has open. */
  get descriptors(): number {
    try {
      return readdirSync(`/proc/${this.pid}/fd`).length;
    } catch {
      return 0;
    }
  }

  /**
   * What they are, sorted: files by their names, all else by its kind. Without those of the journal, which has more
   * segments under load and keeps them.
   */
  get openDescriptors(): string[] {
    try {
      const all = readdirSync(`/proc/${this.pid}/fd`).map((name) => whereTo(`/proc/${this.pid}/fd/${name}`));
      const journal = join(this.#folder, "data", "journal");
      return all
        .filter((what) => !what.startsWith(journal))
        .map((what) => what.replace(/:\[\d+\]$/, ""))
        .sort();
    } catch {
      return [];
    }
  }

  /** From now on it may write no file beyond so many bytes: a full disk. */
  limitFileSize(bytes: number | "unlimited"): void {
    const { exitCode, stderr } = Bun.spawnSync(["prlimit", `--fsize=${bytes}:`, "--pid", String(this.pid)]);
    if (exitCode !== 0) throw new TargetError(`prlimit: ${stderr.toString()}`);
  }

  /** It gives back all memory that nothing holds any more; else garbage is a part of what is resident. */
  collectGarbage(): void {
    this.kill("SIGUSR2");
  }

  kill(signal: NodeJS.Signals): void {
    this.#program?.kill(signal);
  }

  /** Ends it, and takes its files away. */
  async remove(): Promise<void> {
    if (this.#program?.isRunning) await this.#program.stop();
    this.#removeFiles();
  }

  #removeFiles(): void {
    Target.#all.delete(this);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** Takes everything away at once, for somebody who quits. */
  static killAll(): void {
    for (const program of Program.running) program.kill("SIGKILL");
    for (const target of Target.#all) target.#removeFiles();
  }
}

/** Where a link leads; nowhere when it has just gone. */
function whereTo(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return "";
  }
}
