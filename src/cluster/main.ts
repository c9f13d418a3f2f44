/** `heartline cluster`: creates the shared log of a cluster, and moves data folders into it and back. */
import { parseArgs } from "node:util";
import { filterText } from "../display-filter.ts";
import { variableOf } from "../environment.ts";
import { typed } from "../runtime/invocation.ts";
import { PrintError, print } from "../runtime/output.ts";
import { progressOf } from "../runtime/progress.ts";
import { ConfigError, UsageError, quoted, usageError } from "../usage-error.ts";
import { StoreError } from "../storage/database.ts";
import { exportCluster } from "./export.ts";
import { importFolder } from "./import.ts";
import { initLog, openLog } from "./open-log.ts";
import { ClusterError } from "./shared-log.ts";

const SHARDS_MAX = 256;

const USAGE = `Usage: ${typed("cluster")} init [<url>] [--shards <number>]
       ${typed("cluster")} import <data folder> [--cluster <url>]
       ${typed("cluster")} export <new folder> [--cluster <url>]

init creates the log of a cluster, which its processes share, at a database engine:

  postgres://user:password@host:port,host:port/database   PostgreSQL; the database must exist
  nats://user:password@host:port,host:port/name           NATS JetStream; a name for the cluster

Nothing is written when the engine has a cluster already.

import puts the messages, blocks, bans and sessions of a data folder into a new cluster, before its first server starts.
The server of the folder must be stopped. The folder is only read, from a copy in the folder for temporary files
(TMPDIR), which takes twice its size. An import that was cut off leaves a cluster that no server uses: repeat it.

export makes a data folder of all shards of a cluster, for a server without one. All servers of the cluster must be
stopped. The cluster stays as it is.

Neither moves the credentials file. Without <url> it is read from ${variableOf("cluster")}, which other users of the
machine cannot see.

  --cluster <url>     the URL of the cluster
  --shards <number>   parts of the users, each with a server of its own; it never changes (1)
  --help              prints this page

Exit code: 0 when it is done, 1 when it is not, 2 for an invalid command line.
`;

type Options = { url: string } & ({ verb: "init"; shards: number } | { verb: "import" | "export"; folder: string });

/** Null for the help. */
function parseOptions(args: string[]): Options | null {
  try {
    const { values, positionals } = parseArgs({
      args,
      options: {
        cluster: { type: "string" },
        shards: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
      allowPositionals: true,
    });
    const [verb, ...words] = positionals;
    if (values.help === true || verb === "help") return null;
    if (verb === undefined) throw new UsageError("give a command");
    if (verb !== "init" && verb !== "import" && verb !== "export")
      throw new UsageError(`there is no command ${quoted(verb)}`);
    if (verb !== "init" && values.shards !== undefined) throw new UsageError("only init takes --shards");
    const folder = verb === "init" ? undefined : words.shift();
    if (verb !== "init" && folder === undefined)
      throw new UsageError(verb === "import" ? "give the data folder" : "give the path of a new folder");
    const given = values.cluster ?? (verb === "init" ? words.shift() : undefined);
    if (words.length > 0 && verb === "init")
      throw new UsageError("give one URL; several hosts are separated by commas");
    if (words.length > 0) throw new UsageError("give one folder, and the URL with --cluster");
    const url = given ?? process.env[variableOf("cluster")] ?? "";
    if (url === "") throw new UsageError("give the URL of the cluster");
    if (verb === "init") return { verb, url, shards: shardsOf(values.shards ?? "1") };
    return { verb, url, folder: folder! };
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
async function init(url: string, shards: number): Promise<void> {
  await initLog(url, shards);
  const log = await openLog(url);
  await log.close();
  for (const warning of log.warnings) printError(`warning: ${warning}`);
  await printLine(`created a cluster with ${shardCount(shards)} on ${log.engine}`);
}

async function moveFolder(verb: "import" | "export", url: string, folder: string): Promise<void> {
  const log = await openLog(url);
  try {
    for (const warning of log.warnings) printError(`warning: ${warning}`);
    const options = { unixMs: Date.now(), progress: progressOf(verb) };
    const moved =
      verb === "import" ? await importFolder(log, folder, options) : await exportCluster(log, folder, options);
    if (moved === null) return await printLine("completed the earlier import, all of which was in the cluster already");
    const { messages, sessions, blocks, bans } = moved;
    const what = `${messages} waiting messages, ${blocks} blocks, ${bans} bans and ${sessions} ended sessions`;
    const where = `${shardCount(log.shards)} on ${log.engine}`;
    if (verb === "import")
      await printLine(`imported ${what} into ${where}; start its servers with the same credentials file`);
    else await printLine(`exported ${what} from ${where} to ${folder}; ${typed("serve", "--data", folder)} opens it`);
  } finally {
    await log.close();
  }
}

function shardCount(shards: number): string {
  return `${shards} shard${shards === 1 ? "" : "s"}`;
}

function printLine(text: string): Promise<void> {
  return print(`${filterText(text)}\n`);
}

function printError(message: string): void {
  process.stderr.write(`heartline: ${filterText(message)}\n`);
}

export async function main(args: string[]): Promise<void> {
  try {
    const options = parseOptions(args);
    if (options === null) await print(USAGE);
    else if (options.verb === "init") await init(options.url, options.shards);
    else await moveFolder(options.verb, options.url, options.folder);
  } catch (error) {
    if (error instanceof UsageError) {
      const hint = error instanceof ConfigError ? "" : ` (${typed("help", "cluster")} lists the options)`;
      printError(`${error.message}${hint}`);
      process.exitCode = 2;
    } else if ([ClusterError, StoreError, PrintError].some((known) => error instanceof known)) {
      printError((error as Error).message);
      process.exit(1); // A connection attempt of an engine's library may still be open.
    } else throw error;
  }
}
