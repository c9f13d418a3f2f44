/** `heartline cluster`: creates the shared log of a cluster. */
import { parseArgs } from "node:util";
import { filterText } from "../display-filter.ts";
import { variableOf } from "../environment.ts";
import { typed } from "../runtime/invocation.ts";
import { PrintError, print } from "../runtime/output.ts";
import { ConfigError, UsageError, quoted, usageError } from "../usage-error.ts";
import { initLog, openLog } from "./open-log.ts";
import { ClusterError } from "./shared-log.ts";

const SHARDS_MAX = 256;

const USAGE = `Usage: ${typed("cluster")} init [<url>] [--shards <number>]

Creates the log of a cluster, which its processes share, at a database engine:

  postgres://user:password@host:port,host:port/database   PostgreSQL; the database must exist
  nats://user:password@host:port,host:port/name           NATS JetStream; a name for the cluster

Without <url> it is read from ${variableOf("cluster")}, which other users of the machine cannot see. Nothing is
written when the engine has a cluster already.

  --shards <number>   parts of the users, each with a server of its own; it never changes (1)
  --help              prints this page

Exit code: 0 when it is created, 1 when nothing was written, 2 for an invalid command line.
`;

interface Options {
  url: string;
  shards: number;
}

/** Null for the help. */
function parseOptions(args: string[]): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: { shards: { type: "string" }, help: { type: "boolean", short: "h" } },
      allowPositionals: true,
    });
    const [verb, url = process.env[variableOf("cluster")] ?? "", ...rest] = positionals;
    if (values.help === true || verb === "help") return null;
    if (verb === undefined) throw new UsageError("give a command");
    if (verb !== "init") throw new UsageError(`there is no command ${quoted(verb)}`);
    if (url === "") throw new UsageError("give the URL of the cluster");
    if (rest.length > 0) throw new UsageError("give one URL; several hosts are separated by commas");
    return { url, shards: shardsOf(values.shards ?? "1") };
  } catch (error) {
    throw error instanceof UsageError ? error : usageError(error);
  }
}

function shardsOf(text: string): number {
  const shards = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (shards >= 1 && shards <= SHARDS_MAX) return shards;
  throw new UsageError(`--shards takes a number from 1 to ${SHARDS_MAX}, not ${quoted(text)}`);
}

/** Opens the new log, which shows that it can be used. */
async function init({ url, shards }: Options): Promise<void> {
  await initLog(url, shards);
  const log = await openLog(url);
  await log.close();
  for (const warning of log.warnings) printError(`warning: ${warning}`);
  await print(filterText(`created a cluster with ${shards} shard${shards === 1 ? "" : "s"} on ${log.engine}`) + "\n");
}

function printError(message: string): void {
  process.stderr.write(`heartline: ${filterText(message)}\n`);
}

export async function main(args: string[]): Promise<void> {
  try {
    const options = parseOptions(args);
    if (options === null) await print(USAGE);
    else await init(options);
  } catch (error) {
    if (error instanceof UsageError) {
      const hint = error instanceof ConfigError ? "" : ` (${typed("help", "cluster")} lists the options)`;
      printError(`${error.message}${hint}`);
      process.exitCode = 2;
    } else if (error instanceof ClusterError || error instanceof PrintError) {
      printError(error.message);
      process.exit(1); // A connection attempt of an engine's library may still be open.
    } else throw error;
  }
}
