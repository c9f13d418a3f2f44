import { ATTACKS, ATTACK_NAMES, type Attack, type AttackName } from "./attacks.ts";
import type { Target } from "../target.ts";

/** What is done to a server besides what hostile clients do, or for want of them. */
export interface FaultScenario {
  help: string;
  /** What hostile clients do meanwhile. */
  attacks: readonly AttackName[];
  /** Options that the server has. */
  options: readonly string[];
  /** Descriptors that the server may have; null for as many as there are. */
  descriptorsMax: number | null;
  /** Whether latencies beside it are judged, or only told. */
  isJudged: boolean;
  /** Messages may be refused, but then they are. */
  mayRefuse: boolean;
  /** Done to the server when the slice begins, and when it ends. */
  start(target: Target): void;
  end(target: Target): void;
}

/** Bytes of a file that a server may still write whose disk is full: less than what is there already. */
const FULL_BYTES = 64 << 10;

const DEFAULTS: Omit<FaultScenario, "help" | "attacks"> = {
  options: [],
  descriptorsMax: null,
  isJudged: true,
  mayRefuse: false,
  start: () => {},
  end: () => {},
};

/** What is done to the machine. */
const MACHINE_FAULTS = {
  stop: {
    ...DEFAULTS,
    help: "the server's process is stopped (SIGSTOP) for --stop seconds, and goes on; latencies are told, not judged",
    attacks: [],
    isJudged: false,
    start: (target) => target.kill("SIGSTOP"),
    end: (target) => target.kill("SIGCONT"),
  },
  descriptors: {
    ...DEFAULTS,
    help: "mute and flapping against a server that may have 300 descriptors (EMFILE)",
    attacks: ["mute", "flapping"],
    descriptorsMax: 300,
  },
  disk: {
    ...DEFAULTS,
    help: "hoard while the disk is full: messages are refused or arrive; latencies are told, not judged",
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
