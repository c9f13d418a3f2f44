/** The engine of a shared log, by the scheme of its URL. Only the engine that is used is loaded. */
import { ConfigError } from "../usage-error.ts";
import type { SharedLog } from "./shared-log.ts";

interface Engine {
  /** Creates a cluster; rejects with ClusterError, and then nothing was written. */
  init(url: string, shards: number): Promise<void>;
  open(url: string): Promise<SharedLog>;
}

const ENGINES: Record<string, () => Promise<Engine>> = {
  "postgres:": loadPostgres,
  "postgresql:": loadPostgres,
  "nats:": loadJetStream,
};

export async function initLog(url: string, shards: number): Promise<void> {
  return (await engineOf(url)).init(url, shards);
}

export async function openLog(url: string): Promise<SharedLog> {
  return (await engineOf(url)).open(url);
}

/** The URL may contain a password: no message quotes it. */
function engineOf(url: string): Promise<Engine> {
  const [scheme = ""] = /^[a-z]+:(?=\/\/)/.exec(url) ?? [];
  const load = Object.hasOwn(ENGINES, scheme) ? ENGINES[scheme] : undefined;
  if (load === undefined) throw new ConfigError("invalid URL of a cluster: it must begin with postgres:// or nats://");
  return load();
}

async function loadPostgres(): Promise<Engine> {
  const { initPostgres, openPostgres } = await import("./postgres-log.ts");
  return { init: initPostgres, open: openPostgres };
}

async function loadJetStream(): Promise<Engine> {
  const { initJetStream, openJetStream } = await import("./jetstream-log.ts");
  return { init: initJetStream, open: openJetStream };
}
