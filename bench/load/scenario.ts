/** What the clients do, as data. */
export interface Scenario {
  help: string;
  /** Clients write to each other in pairs. */
  messages: boolean;
  /** So many clients broadcast to all: each as the window allows; or by turns, one after every `each` messages. */
  broadcasters: number;
  broadcastEach: number;
  /** A client says `alive` behind every so many messages of its own; with 0 never. */
  aliveEach: number;
  /** Instead of all that: everybody says `alive` once in a while; people come and go; nobody says anything. */
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
    help: "messages in pairs; for each 9 of a client an alive, for each 10,000 of all a broadcast to everybody",
    broadcasters: 8,
    broadcastEach: 10_000,
    aliveEach: 9,
  },
  message: { ...MESSAGES, help: "messages in pairs, each client to its neighbour" },
  broadcast: { ...MESSAGES, help: "broadcasts to everybody, of --senders clients", messages: false, broadcasters: 1 },
  alive: {
    ...MESSAGES,
    help: "a crowd that says nothing but alive, each client every --beat seconds",
    instead: "alive",
  },
  login: { ...MESSAGES, help: "people who come and go beside a crowd that stays", instead: "login" },
  idle: { ...MESSAGES, help: "a crowd that says nothing: memory per session", instead: "idle" },
} satisfies Record<string, Scenario>;

export type ScenarioName = keyof typeof SCENARIOS;
export const SCENARIO_NAMES = Object.keys(SCENARIOS) as ScenarioName[];
