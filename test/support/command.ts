/** Programs that are started as a user starts them: by any command, in any folder, with an environment of their own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { linesOf } from "../../bench/program.ts";

export const root = join(import.meta.dir, "../..");

interface Site {
  cwd: string;
  env: Record<string, string>;
  input?: string;
}

/** A temporary folder that `remove` deletes. */
export class Folders {
  readonly #folders: string[] = [];

  make(): string {
    const folder = mkdtempSync(join(tmpdir(), "heartline-"));
    this.#folders.push(folder);
    return folder;
  }

  remove(): void {
    for (const folder of this.#folders) rmSync(folder, { recursive: true, force: true });
  }
}

/** The environment of a user who has node and npm, but no bun. What npm needs on this machine's network stays. */
export function bareEnvironment(home: string, ...folders: string[]): Record<string, string> {
  const env: Record<string, string> = { HOME: home, XDG_STATE_HOME: join(home, "state") };
  for (const [name, value] of Object.entries(process.env)) {
    if (
      /^(NODE_EXTRA_CA_CERTS|SSL_CERT_\w+|https?_proxy|no_proxy|npm_config_(registry|cache|globalconfig))$/i.test(name)
    )
      env[name] = value!;
  }
  env.npm_config_cache ??= join(process.env.HOME ?? "/root", ".npm");
  // npm looks for it next to the prefix, which a test changes.
  env.npm_config_globalconfig ??= Bun.spawnSync(["npm", "config", "get", "globalconfig"]).stdout.toString().trim();
  const node = dirname(Bun.which("node") ?? "/usr/bin/node");
  env.PATH = [...folders, ...new Set([node, "/usr/bin", "/bin"])].join(":");
  return env;
}

/** Runs a command until it exits. */
export async function runCommand(
  command: string[],
  { cwd, env, input = "" }: Site,
): Promise<{ out: string; err: string; code: number }> {
  const child = Bun.spawn(command, { cwd, env, stdin: Buffer.from(input), stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { out, err, code };
}

/** A server that was started by any command, in a process group of its own: npm does not forward signals. */
export class StartedServer {
  static readonly running = new Set<StartedServer>();
  readonly pid: number;
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly port: Promise<number>;
  /** All lines of the log so far. */
  readonly log: string[] = [];
  readonly #logged: Promise<void>;
  /** The command of the log line "join with". */
  readonly joinHint: Promise<string>;

  constructor(command: string[], { cwd, env }: Site) {
    const child = Bun.spawn(command, { cwd, env, stdin: "ignore", stdout: "pipe", stderr: "pipe", detached: true });
    this.#process = child;
    this.pid = child.pid;
    StartedServer.running.add(this);
    const [port, hint] = [Promise.withResolvers<number>(), Promise.withResolvers<string>()];
    this.port = port.promise;
    this.joinHint = hint.promise;
    void (async () => {
      for await (const line of linesOf(child.stdout)) {
        const at = /^listening on \S+:(\d+)/.exec(line);
        if (at !== null) port.resolve(Number(at[1]));
      }
    })();
    this.#logged = (async () => {
      for await (const line of linesOf(child.stderr)) {
        this.log.push(line);
        const command = /join with: (.*)"/.exec(line);
        if (command !== null) hint.resolve(command[1]!);
      }
      const ended = new Error(`the server ended: ${this.log.join("\n")}`);
      for (const each of [port, hint]) {
        each.promise.catch(() => {});
        each.reject(ended);
      }
    })();
  }

  /** Ends the process group with SIGTERM; returns the exit code. */
  async stop(): Promise<number> {
    StartedServer.running.delete(this);
    process.kill(-this.pid, "SIGTERM");
    await this.#logged;
    return this.#process.exited;
  }
}
