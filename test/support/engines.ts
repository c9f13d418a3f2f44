/** The engines of a cluster, for tests that run on each of them. */
import { NatsEngine, hasNats } from "./nats-engine.ts";
import { PostgresEngine, postgresPrograms } from "./postgres-engine.ts";

export interface Engine {
  /** How it is called in a log. */
  name: string;
  isInstalled: boolean;
  /** `settings` are those of the server: `fsync=off`. */
  start(...settings: string[]): Promise<RunningEngine>;
  closeAll(): Promise<void>;
}

export interface RunningEngine {
  /** Its servers; they have started the other processes. */
  readonly pids: number[];
  kill(): Promise<void>;
  restart(): Promise<void>;
  /** The URL for a new cluster. */
  newUrl(): Promise<string>;
}

let urls = 0;

type Server = Pick<PostgresEngine, "pid" | "kill" | "restart">;

function runningEngine(servers: readonly Server[], newUrl: () => Promise<string>): RunningEngine {
  const all = async (act: (server: Server) => Promise<void>): Promise<void> =>
    void (await Promise.all(servers.map(act)));
  return {
    get pids() {
      return servers.map(({ pid }) => pid);
    },
    kill: () => all((server) => server.kill()),
    restart: () => all((server) => server.restart()),
    newUrl,
  };
}

export const POSTGRES: Engine = {
  name: "PostgreSQL",
  isInstalled: postgresPrograms !== null,
  start: async (...settings) => {
    const engine = await PostgresEngine.start(...settings);
    const newUrl = async (): Promise<string> => {
      const name = `test${++urls}`;
      const sql = new Bun.SQL(engine.url("postgres"), { max: 1 });
      await sql.unsafe(`CREATE DATABASE ${name}`);
      await sql.close();
      return engine.url(name);
    };
    return runningEngine([engine], newUrl);
  },
  closeAll: () => PostgresEngine.closeAll(),
};

export const NATS: Engine = {
  name: "NATS JetStream",
  isInstalled: hasNats,
  start: async () => {
    const engine = await NatsEngine.start();
    const newUrl = async (): Promise<string> => `nats://${engine.address}/test${++urls}`;
    return runningEngine([engine], newUrl);
  },
  closeAll: () => NatsEngine.closeAll(),
};

/** The log has a copy at each of three servers. */
export const NATS_CLUSTER: Engine = {
  name: "NATS JetStream on three servers",
  isInstalled: hasNats,
  start: async () => {
    const engines = await NatsEngine.startCluster();
    const addresses = engines.map(({ address }) => address).join(",");
    return runningEngine(engines, async () => `nats://${addresses}/test${++urls}`);
  },
  closeAll: () => NatsEngine.closeAll(),
};
