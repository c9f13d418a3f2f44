/** What the clients of a benchmark do, as data. */
export interface Scenario {
  help: string;
  /** Clients write to each other in pairs. */
  messages: boolean;
  /** Number of clients that broadcast: as fast as the window allows, or in turn with `broadcastEach`. */
  broadcasters: number;
  /** One broadcast per this many messages of all clients; 0 for as many as the window allows. */
  broadcastEach: number;
  /** Each client sends `alive` after this many of its messages; 0 for never. */
  aliveEach: number;
  /** In place of messages: each client sends `alive` at intervals; clients log in and out; clients send nothing. */
  instead: "alive" | "login" | "idle" | null;
}

const MESSAGES: Scenario = {
  help: "",
  messages: true,
  broadcasters: 0,
  broadcastEach: 0,
  aliveEach: 0,
  instead: null,
};

export const SCENARIOS = {
  mixed: {
    ...MESSAGES,
    help: "messages in pairs, an alive per 9 messages of a client, a broadcast per 10,000 messages of all",
    broadcasters: 8,
    broadcastEach: 10_000,
    aliveEach: 9,
  },
  message: { ...MESSAGES, help: "messages in pairs" },
  broadcast: { ...MESSAGES, help: "broadcasts of --senders clients to all others", messages: false, broadcasters: 1 },
  alive: {
    ...MESSAGES,
    help: "each client sends only alive, every --beat seconds",
    instead: "alive",
  },
  login: { ...MESSAGES, help: "clients that log in and out, while others stay online", instead: "login" },
  idle: { ...MESSAGES, help: "clients that send nothing: memory per session", instead: "idle" },
} satisfies Record<string, Scenario>;

export type ScenarioName = keyof typeof SCENARIOS;
export const SCENARIO_NAMES = Object.keys(SCENARIOS) as ScenarioName[];
