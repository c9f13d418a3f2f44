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
  kill(): Promise<void>;
  restart(): Promise<void>;
  /** The URL for a new cluster. */
  newUrl(): Promise<string>;
}

let urls = 0;

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
    return { kill: () => engine.kill(), restart: () => engine.restart(), newUrl };
  },
  closeAll: () => PostgresEngine.closeAll(),
};

export const NATS: Engine = {
  name: "NATS JetStream",
  isInstalled: hasNats,
  start: async () => {
    const engine = await NatsEngine.start();
    const newUrl = async (): Promise<string> => `nats://${engine.address}/test${++urls}`;
    return { kill: () => engine.kill(), restart: () => engine.restart(), newUrl };
  },
  closeAll: () => NatsEngine.closeAll(),
};
