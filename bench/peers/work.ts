import type { Task } from "../load/benchmark-runner.ts";
import type { Peer } from "./peer.ts";
import { SCENARIOS } from "../load/scenario.ts";

/** One workload that all peers are measured with. */
export interface Work {
  name: string;
  group: keyof typeof WORK_GROUPS;
  title: string;
  clients: number;
  crowd: number;
  /** A point of a curve, measured in the first round only. */
  once: boolean;
  task: Omit<Task, "users" | "generator" | "resumable" | "crowd" | "warmupMs" | "measureMs">;
  fits: (peer: Peer) => boolean;
}

/** The groups of works, and what each of them shows. */
export const WORK_GROUPS = {
  saturation: "highest rate",
  load: "latency by offered load",
  many: "latency with many active users",
  windows: "latency by messages in flight and at once",
  users: "cost by number of users online",
  memory: "memory per idle client",
};

const TASK = { window: 0, rate: 0, payloadBytes: 64, beatMs: 30_000 };

function messages(clients: number, window: number): Work {
  return {
    name: `message-${clients}-${window}`,
    group: "saturation",
    title: `messages, ${clients.toLocaleString("en")} clients, ${window} in flight`,
    clients,
    crowd: 0,
    once: false,
    fits: () => true,
    task: { ...TASK, scenario: SCENARIOS.message, window },
  };
}

/** Clients that send `chunk` messages at once, whenever so many have arrived. */
function inFlight(window: number, chunk: number): Work {
  return {
    ...messages(64, window),
    name: `window-${window}-${chunk}`,
    group: "windows",
    title: `messages, 64 clients, ${window} in flight, ${chunk} at once`,
    fits: ({ name }) => /^heartline(-resumable)?$/.test(name),
    task: { ...TASK, scenario: SCENARIOS.message, window, chunk },
  };
}

function broadcasts(senders: number, window: number, payloadBytes = 64): Work {
  const size = payloadBytes === 64 ? "" : `, ${payloadBytes} bytes`;
  return {
    name: `broadcast-${senders}-${window}${payloadBytes === 64 ? "" : `-${payloadBytes}`}`,
    group: "saturation",
    title: `broadcast to 1,000, ${senders === 1 ? "" : `${senders} senders, `}${window} in flight${size}`,
    clients: 1000,
    crowd: 0,
    once: false,
    fits: () => true,
    task: { ...TASK, payloadBytes, scenario: { ...SCENARIOS.broadcast, broadcasters: senders }, window },
  };
}

function offered(rate: number): Work {
  return {
    name: `load-${rate}`,
    group: "load",
    title: `messages, 64 clients, ${rate.toLocaleString("en")} per second offered`,
    clients: 64,
    crowd: 0,
    once: true,
    fits: () => true,
    task: { ...TASK, scenario: SCENARIOS.message, rate },
  };
}

function offeredByMany(clients: number, rate: number): Work {
  return {
    name: `many-${clients}-${rate}`,
    group: "many",
    title: `messages, ${clients.toLocaleString("en")} clients, ${rate.toLocaleString("en")} per second offered`,
    clients,
    crowd: 0,
    once: false,
    // The others notify all users of each login, or scan all sockets.
    fits: ({ name }) => /^(heartline|heartline-resumable|baseline|nats|redis)$/.test(name),
    task: { ...TASK, scenario: SCENARIOS.message, rate },
  };
}

function withIdleUsers(crowd: number): Work {
  return {
    name: `users-${crowd}`,
    group: "users",
    title: `messages, 64 clients, 16 in flight, ${crowd.toLocaleString("en")} idle users online`,
    // The other peers notify all users of each login, or scan all sockets: thousands of logins would take minutes.
    clients: 64,
    crowd,
    once: true,
    fits: ({ name }) => /^(heartline|baseline|nats|redis)$/.test(name),
    task: { ...TASK, scenario: SCENARIOS.message, window: 16 },
  };
}

function idle(clients: number): Work {
  return {
    name: `idle-${clients}`,
    group: "memory",
    title: `${clients.toLocaleString("en")} idle clients, without the first quarter`,
    clients,
    crowd: 0,
    once: true,
    fits: ({ name }) => !/-(none|power)$/.test(name),
    task: { ...TASK, scenario: SCENARIOS.idle },
  };
}

const WINDOW_MAX = 512;

export const WORKS: readonly Work[] = [
  messages(64, 1),
  messages(64, 64),
  messages(1000, 16),
  broadcasts(1, 1),
  broadcasts(1, 16),
  broadcasts(4, 64),
  broadcasts(1, 8, 400),
  ...[5_000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 120_000].map(offered),
  ...[20_000, 40_000, 60_000].map((rate) => offeredByMany(1000, rate)),
  ...[20_000, 40_000, 60_000].map((rate) => offeredByMany(5000, rate)),
  ...[1, 2, 4, 8, 16, 32, 63, 64, 65, 66, 128, 256, WINDOW_MAX].map((window) => inFlight(window, 1)),
  ...[4, 16, 32, 63, 64, 65, 66, 128, 256, WINDOW_MAX].map((chunk) => inFlight(WINDOW_MAX, chunk)),
  ...[0, 1_000, 4_000, 19_000].map(withIdleUsers),
  idle(8_000),
];
