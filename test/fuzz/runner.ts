import { join } from "node:path";
import type { Said } from "./round.ts";

/** A target from which nothing is heard for so long hangs. */
const HANG_MS = 20_000;
/** For how long a target runs before the next one has its turn, at most and at least. */
const TURN_MS_MAX = 10_000;
const TURN_MS_MIN = 100;
/** Characters of an input or an error that are shown. */
const SHOWN_MAX = 10_000;

/** An input for which a target does not hold. */
export interface Failure {
  target: string;
  /** The batch that finds it again. */
  seed: number;
  input: string;
  error: string;
}

/** Runs targets in turn, a round in a process of its own, with ever new seeds. */
export class Runner {
  /** Inputs that were tried, by target. */
  readonly inputs = new Map<string, number>();
  /** Each target's next batch. */
  readonly #seeds = new Map<string, number>();
  readonly #told: (text: string) => void;
  #target = "";
  #running: Bun.Subprocess<"ignore", "pipe", "inherit"> | null = null;

  /** Each target's first batch has that seed. `told` hears now and then how far it is. */
  constructor(names: readonly string[], seed: number, told: (text: string) => void = () => {}) {
    for (const name of names) {
      this.inputs.set(name, 0);
      this.#seeds.set(name, seed);
    }
    this.#told = told;
  }

  /** Until the time is up or something fails, which it returns. */
  async run(forMs: number): Promise<Failure | null> {
    const untilMs = performance.now() + forMs;
    for (let round = 1; ; round++) {
      const turnMs = Math.min(TURN_MS_MAX, (untilMs - performance.now()) / this.#seeds.size);
      if (turnMs < TURN_MS_MIN && round > 1) return null;
      const failure = await this.#round(round, turnMs);
      if (failure !== null) return failure;
    }
  }

  /** Ends the process that runs, if one does. */
  stop(): void {
    this.#running?.kill("SIGKILL");
  }

  async #round(round: number, turnMs: number): Promise<Failure | null> {
    const orders = [...this.#seeds].map((order) => order.join(":"));
    let failure: Failure | null = null;
    const end = await this.#spawn([String(Math.round(turnMs)), "-", ...orders], (said) => {
      if ("target" in said) {
        if (said.target !== this.#target) this.#told(`round ${round}: ${said.target}`);
        this.#target = said.target;
        this.#seeds.set(said.target, said.seed);
      } else if ("inputs" in said) {
        this.inputs.set(this.#target, this.inputs.get(this.#target)! + said.inputs);
        this.#seeds.set(this.#target, (this.#seeds.get(this.#target)! + 1) % 2 ** 31);
      } else if ("failure" in said) {
        failure = { target: this.#target, seed: this.#seeds.get(this.#target)!, ...said.failure };
      }
    });
    return failure ?? (end === null ? null : this.#trace(end));
  }

  /** What was tried when it hung or died: the same again, with every input written down. */
  async #trace(error: string): Promise<Failure> {
    const target = this.#target;
    const seed = this.#seeds.get(target)!;
    let input = "";
    const end = await this.#spawn(["0", "trace", `${target}:${seed}`], (said) => {
      if ("input" in said) input = said.input;
    });
    return { target, seed, input: end === null ? "(unknown: it went well the second time)" : input, error };
  }

  /** Runs round.ts; null when it ended well, else what happened to it. */
  async #spawn(args: string[], told: (said: Said) => void): Promise<string | null> {
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
      for (const line of lines) told(JSON.parse(line) as Said);
    }
    clearTimeout(timer);
    const code = await child.exited;
    this.#running = null;
    if (hangs) return `it hangs: nothing came of it for ${HANG_MS / 1000} s`;
    return code === 0 ? null : `its process ended with ${child.signalCode ?? `code ${code}`}`;
  }
}

/** A failure in words for people, with the command that repeats it. */
export function describe({ target, seed, input, error }: Failure): string {
  const command = `bun run fuzz --target ${target} --seed ${seed} --seconds 1`;
  return `${target} does not hold.\n\ninput: ${visible(input)}\n\n${visible(error)}\n\nagain: ${command}\n`;
}

/** Inputs may hold what would do something to a terminal, and half a megabyte of it. */
function visible(text: string): string {
  const rest = text.length - SHOWN_MAX;
  const shown = rest > 0 ? `${text.slice(0, SHOWN_MAX)}... (${rest} characters more)` : text;
  return shown.replace(/[^\x20-\x7e\n]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
