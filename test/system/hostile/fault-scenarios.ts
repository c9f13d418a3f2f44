/** What bench:hostile can do to a server: each attack of attacks.ts, and faults of the machine. */
import { ATTACKS, ATTACK_NAMES, type Attack, type AttackName } from "./attacks.ts";
import type { Target } from "../target.ts";

/** Hostile clients, a fault of the machine, or both. */
export interface FaultScenario {
  help: string;
  /** The attacks of the hostile clients. */
  attacks: readonly AttackName[];
  /** Options of the server. */
  options: readonly string[];
  /** Limit of descriptors of the server; null for the limit of this process. */
  descriptorsMax: number | null;
  /** Whether latencies during it are judged, or only reported. */
  isJudged: boolean;
  /** Whether the server may refuse messages. A message that was accepted must arrive in any case. */
  mayRefuse: boolean;
  /** Called when a hostile slice begins, and when it ends. */
  start(target: Target): void;
  end(target: Target): void;
}

/** Length limit of files for a full disk: less than the files that exist already. */
const FULL_BYTES = 64 << 10;

const DEFAULTS: Omit<FaultScenario, "help" | "attacks"> = {
  options: [],
  descriptorsMax: null,
  isJudged: true,
  mayRefuse: false,
  start: () => {},
  end: () => {},
};

/** Faults of the machine. */
const MACHINE_FAULTS = {
  stop: {
    ...DEFAULTS,
    help: "stops the server's process (SIGSTOP) for --stop seconds; latencies are reported, not judged",
    attacks: [],
    isJudged: false,
    start: (target) => target.kill("SIGSTOP"),
    end: (target) => target.kill("SIGCONT"),
  },
  descriptors: {
    ...DEFAULTS,
    help: "mute and flapping against a server that is limited to 300 descriptors (EMFILE)",
    attacks: ["mute", "flapping"],
    descriptorsMax: 300,
  },
  disk: {
    ...DEFAULTS,
    help: "hoard while the disk is full: messages arrive or are refused; latencies are reported, not judged",
    attacks: ["hoard"],
    isJudged: false,
    mayRefuse: true,
    start: (target) => target.limitFileSize(FULL_BYTES),
    end: (target) => target.limitFileSize("unlimited"),
  },
} satisfies Record<string, FaultScenario>;

export type FaultScenarioName = AttackName | keyof typeof MACHINE_FAULTS;
export const FAULT_SCENARIO_NAMES = [...ATTACK_NAMES, ...Object.keys(MACHINE_FAULTS)] as FaultScenarioName[];

export function faultScenario(name: FaultScenarioName): FaultScenario {
  if (name in MACHINE_FAULTS) return MACHINE_FAULTS[name as keyof typeof MACHINE_FAULTS];
  const attack: Attack = ATTACKS[name as AttackName];
  return { ...DEFAULTS, help: attack.help, options: attack.options ?? [], attacks: [name as AttackName] };
}
