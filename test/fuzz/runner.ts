/** Runs fuzz targets in child processes (round.ts), and finds the input of a hang or a crash. */
import { join } from "node:path";
import type { RoundMessage } from "./round.ts";

/** A child without output for this long hangs. */
const HANG_MS = 20_000;
/** Time per target and round: maximum and minimum. */
const TURN_MS_MAX = 10_000;
const TURN_MS_MIN = 100;
/** Longer inputs and errors are shortened for the report. */
const SHOWN_MAX = 10_000;

/** An input for which a target does not hold. */
export interface Failure {
  target: string;
  /** The seed of the batch: it finds the input again. */
  seed: number;
  input: string;
  error: string;
}

/** Runs targets in rounds. Each round is a new process and continues with the next seeds. */
export class Runner {
  /** Number of inputs so far, by target. */
  readonly inputs = new Map<string, number>();
  /** Seed of the next batch, by target. */
  readonly #seeds = new Map<string, number>();
  readonly #report: (text: string) => void;
  /** The target that runs. */
  #target = "";
  #running: Bun.Subprocess<"ignore", "pipe", "inherit"> | null = null;

  /** `seed` is that of the first batch of each target. `report` is called with the progress. */
  constructor(names: readonly string[], seed: number, report: (text: string) => void = () => {}) {
    for (const name of names) {
      this.inputs.set(name, 0);
      this.#seeds.set(name, seed);
    }
    this.#report = report;
  }

  /** Runs for `forMs` or until the first failure, which it returns. */
  async run(forMs: number): Promise<Failure | null> {
    const untilMs = performance.now() + forMs;
    for (let round = 1; ; round++) {
      const turnMs = Math.min(TURN_MS_MAX, (untilMs - performance.now()) / this.#seeds.size);
      if (turnMs < TURN_MS_MIN && round > 1) return null;
      const failure = await this.#round(round, turnMs);
      if (failure !== null) return failure;
    }
  }

  /** Kills the child process, if there is one. */
  stop(): void {
    this.#running?.kill("SIGKILL");
  }

  async #round(round: number, turnMs: number): Promise<Failure | null> {
    const batches = [...this.#seeds].map((batch) => batch.join(":"));
    let failure: Failure | null = null;
    const end = await this.#spawn([String(Math.round(turnMs)), "-", ...batches], (message) => {
      if ("target" in message) {
        if (message.target !== this.#target) this.#report(`round ${round}: ${message.target}`);
        this.#target = message.target;
        this.#seeds.set(message.target, message.seed);
      } else if ("inputs" in message) {
        this.inputs.set(this.#target, this.inputs.get(this.#target)! + message.inputs);
        this.#seeds.set(this.#target, (this.#seeds.get(this.#target)! + 1) % 2 ** 31);
      } else if ("failure" in message) {
        failure = { target: this.#target, seed: this.#seeds.get(this.#target)!, ...message.failure };
      }
    });
    return failure ?? (end === null ? null : this.#trace(end));
  }

  /** Repeats the batch of a hang or crash with every input written, to find the input. */
  async #trace(error: string): Promise<Failure> {
    const target = this.#target;
    const seed = this.#seeds.get(target)!;
    let input = "";
    const end = await this.#spawn(["0", "trace", `${target}:${seed}`], (message) => {
      if ("input" in message) input = message.input;
    });
    return { target, seed, input: end === null ? "(unknown: the second run did not fail)" : input, error };
  }

  /** Runs round.ts. Returns null after exit code 0, else what happened. */
  async #spawn(args: string[], onMessage: (message: RoundMessage) => void): Promise<string | null> {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "round.ts"), ...args], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    this.#running = child;
    let hangs = false;
    const hung = (): void => {
      hangs = true;
      child.kill("SIGKILL");
    };
    let timer = setTimeout(hung, HANG_MS);
    let rest = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      clearTimeout(timer);
      timer = setTimeout(hung, HANG_MS);
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) onMessage(JSON.parse(line) as RoundMessage);
    }
    clearTimeout(timer);
    const code = await child.exited;
    this.#running = null;
    if (hangs) return `it hangs: no output for ${HANG_MS / 1000} s`;
    return code === 0 ? null : `its process ended with ${child.signalCode ?? `code ${code}`}`;
  }
}

/** A failure as text, with the command that repeats it. */
export function describe({ target, seed, input, error }: Failure): string {
  const command = `bun run fuzz --target ${target} --seed ${seed} --seconds 1`;
  return `${target} does not hold.\n\ninput: ${visible(input)}\n\n${visible(error)}\n\nagain: ${command}\n`;
}

/** Shortens a text and escapes its control characters for the terminal. */
function visible(text: string): string {
  const rest = text.length - SHOWN_MAX;
  const shown = rest > 0 ? `${text.slice(0, SHOWN_MAX)}... (${rest} characters more)` : text;
  return shown.replace(/[^\x20-\x7e\n]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
