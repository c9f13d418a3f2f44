/**
 * The arithmetic of bench:cluster: what limited a run, whether the bound of latency holds, and a model of other machines.
 * The model is simple on purpose: a message costs what it has cost here, and a rate ends where the cores, a shard's
 * server or the engine's log has no more room.
 */

/** From here on something counts as used up. */
const FULL = 0.9;
/** From here on other programs use so much of the machine that figures are not those of a quiet one. */
export const OTHERS_MAX = 0.05;

/** Shares (0 to 1) of the time of a run. */
export interface Usage {
  /** Of one core: the load generator, and the server that used most. */
  generator: number;
  busiestServer: number;
  /** Of all cores of the machine: all programs, and those that do not belong to the benchmark. */
  machine: number;
  others: number;
}

/**
 * What the rate of a run ended at. `others`: the cores, which other programs used too; `engine`: nothing was used up, so
 * all waited for acknowledgements of the engine.
 */
export type Limit = "others" | "generator" | "cores" | "server" | "engine";

/** With several limits at the same time, the one that says least about the server. */
export function limitOf({ generator, machine, busiestServer, others }: Usage): Limit {
  if (machine >= FULL && others > OTHERS_MAX) return "others";
  if (generator >= FULL) return "generator";
  if (machine >= FULL) return "cores";
  return busiestServer >= FULL ? "server" : "engine";
}

/** A cross-shard `ok` takes three appends in a row; it may take one more for those that it waits for. */
export const APPENDS_MAX = 4;

/** Whether the median of a `ok`, as a multiple of one append, is within the bound. */
export function boundHolds(multiple: number): boolean {
  return multiple <= APPENDS_MAX;
}

/** What one message has cost. CPU times are in µs and of all processes together. */
export interface Cost {
  server: number;
  engine: number;
  generator: number;
  logBytes: number;
}

/** What a message may use. */
export interface Room {
  cores: number;
  shards: number;
  /** Bytes of records that the engine takes per second. */
  logBytesPerSecond: number;
  /** The load generator runs on these cores too. */
  hasGenerator: boolean;
}

export interface Prediction {
  /** Messages per second. */
  rate: number;
  limit: "cores" | "server" | "engine";
}

/** The rate at which the first of the three is used up. A shard's server has one core at most. */
export function predict({ server, engine, generator, logBytes }: Cost, room: Room): Prediction {
  const everything = server + engine + (room.hasGenerator ? generator : 0);
  const rates: [Prediction["limit"], number][] = [
    ["cores", (room.cores * 1e6) / everything],
    ["server", (room.shards * 1e6) / server],
    ["engine", room.logBytesPerSecond / logBytes],
  ];
  const [limit, rate] = rates.reduce((least, each) => (each[1] < least[1] ? each : least));
  return { rate, limit };
}

/** How far a measured value is from the predicted one: 0.1 when it is 10 % higher. */
export function deviation(measured: number, predicted: number): number {
  return measured / predicted - 1;
}
