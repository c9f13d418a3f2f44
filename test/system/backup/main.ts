/** `bun run backups`: backups of a server under load, each of which is opened and compared with what was promised. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CommandLine, Progress, onInterrupt, runProgram } from "../../../bench/command-line.ts";
import { Program, onCore } from "../../../bench/program.ts";
import { digits, median } from "../../../bench/report/statistics.ts";
import type { Flow } from "./check.ts";
import { Load, PASSWORD, USERS } from "./load.ts";
import { faultsOf } from "./verdict.ts";

const root = join(import.meta.dir, "../../..");
const OPTIONS = ["count", "rate", "durability"] as const;
const WARMUP_MS = 1_000;

const USAGE = `Usage: bun run backups [options]

Runs a server, 8 clients that send, and 10 that receive and acknowledge, two of which come and go. Meanwhile it makes
backups. Each must open, have every message that was accepted before and not acknowledged, and none that was
acknowledged before or twice.

  --count <number>       number of backups (100)
  --rate <number>        messages per second (50000)
  --durability <level>   durability of the server: process or power (process)
  --help                 prints this page

Exit code: 0; 1 when a backup is wrong, or something else failed; 2 for an invalid command line.
`;

/** A wrong backup, or a process that failed. The message is for users. */
class BackupError extends Error {}

/** A server that makes backups. */
class BackupServer {
  readonly #program: Program;
  readonly #answers: { port?: number; error?: string | null; ms?: number }[] = [];
  #wake = (): void => {};

  constructor(folder: string, durability: string) {
    const limits = [
      "--rate-limit",
      "0",
      "--mailbox-messages",
      "1000000",
      "--mailbox-size",
      "1000000000",
      "--mailbox-share",
      "100",
    ];
    const files = ["--data", join(folder, "data"), "--credentials", join(folder, "credentials")];
    const place = ["--host", "127.0.0.1", "--port", "0"];
    this.#program = new Program(
      [
        "--preload",
        "./test/system/backup/backup-on-line.ts",
        "src/main.ts",
        "serve",
        ...place,
        ...files,
        "--durability",
        durability,
        ...limits,
      ],
      (line) => {
        const [, port] = /^listening on \S+:(\d+)$/.exec(line) ?? [];
        this.#answers.push(port === undefined ? JSON.parse(line) : { port: Number(port) });
        this.#wake();
      },
      (line) => {
        if (!/"level":[1-4]0/.test(line)) process.stderr.write(`${line}\n`);
      },
      onCore(0),
    );
    void this.#program.ended.then(() => this.#wake());
  }

  async answer(): Promise<{ port?: number; error?: string | null; ms?: number }> {
    while (this.#answers.length === 0) {
      if (!this.#program.isRunning) throw new BackupError("the server has ended");
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return this.#answers.shift()!;
  }

  /** Returns how long it took in ms. */
  async backup(path: string): Promise<number> {
    this.#program.writeLine(path);
    const { error, ms } = await this.answer();
    if (error !== null) throw new BackupError(error);
    return ms!;
  }

  stop(): Promise<void> {
    return this.#program.stop();
  }
}

/** The flows of messages in a backup. Throws BackupError when it does not open. */
async function flowsOf(path: string): Promise<Flow[]> {
  const command = [process.execPath, join(import.meta.dir, "check.ts"), path];
  const child = Bun.spawn(command, { cwd: root, stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  if (code !== 0) throw new BackupError(`the backup does not open: ${err}`);
  return JSON.parse(out);
}

async function main(line: CommandLine<(typeof OPTIONS)[number]>): Promise<number> {
  const count = line.number("count", 100, 1, 10_000);
  const rate = line.number("rate", 50_000, 100, 1_000_000);
  const durability = line.choice("durability", "process", ["process", "power"]);
  const folder = mkdtempSync(join(tmpdir(), "heartline-backups-"));
  const progress = new Progress();
  const remove = (): void => {
    progress.clear();
    for (const program of Program.running) program.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  };
  onInterrupt(remove);
  writeFileSync(join(folder, "credentials"), USERS.map((name) => `${name} ${PASSWORD}\n`).join(""));
  const server = new BackupServer(folder, durability);
  const load = new Load();
  const times: number[] = [];
  let [messages, wrong] = [0, 0];
  try {
    await load.start((await server.answer()).port!, rate);
    await Bun.sleep(WARMUP_MS);
    const [beganMs, acceptedBefore] = [performance.now(), load.accepted];
    for (let i = 0; i < count; i++) {
      progress.show(`backup ${i + 1} of ${count}`);
      const path = join(folder, `backup-${i}`);
      const before = load.bounds;
      times.push(await Promise.race([server.backup(path), load.failed]));
      const flows = await Promise.race([flowsOf(path), load.failed]);
      const faults = faultsOf(flows, before, load.bounds);
      for (const fault of faults) progress.log(`backup ${i + 1}: ${fault}`);
      if (faults.length > 0) wrong++;
      messages += flows.reduce((sum, each) => sum + each.count, 0);
      rmSync(path, { recursive: true });
      if (existsSync(`${path}.partial`)) throw new BackupError("a backup left a folder");
    }
    const seconds = (performance.now() - beganMs) / 1000;
    load.stop();
    progress.clear();
    const report = [
      `backups           ${count}, each opened`,
      `wrong             ${wrong}`,
      `messages in them  ${messages}`,
      `accepted per s    ${digits(Math.round((load.accepted - acceptedBefore) / seconds))}`,
      `ms per backup     ${digits(median(times))} (${digits(Math.min(...times))} to ${digits(Math.max(...times))})`,
    ];
    process.stdout.write(`${report.join("\n")}\n`);
    return wrong === 0 ? 0 : 1;
  } finally {
    load.stop();
    await server.stop();
    remove();
  }
}

const failures = (error: unknown): boolean => error instanceof Error;
await runProgram({ name: "backups", usage: USAGE, options: OPTIONS, failures }, main);
