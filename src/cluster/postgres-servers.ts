/**
 * Connections to the PostgreSQL servers of a cluster's URL: which server is used, and when one is refused. What is
 * stored there is in postgres-log.ts.
 */
import { type ReservedSQL, SQL } from "bun";
import { ConfigError } from "../usage-error.ts";
import { ClusterError } from "./shared-log.ts";

/** Limits: of a connection attempt, with the login; and of a statement, on both sides. */
const CONNECT_S = 3;
const STATEMENT_MS = 5_000;
const PORT = 5432;

/** One server of the URL. `url` contains the password: it is never printed. */
interface Server {
  name: string;
  url: string;
}

/** A checked session with a server that accepts writes. It is not connected again: see `Lane`. */
export interface Connection {
  readonly sql: ReservedSQL;
  /** `host:port`. */
  readonly server: string;
  readonly timeline: number;
  close(): void;
}

/** What a database cluster is identified by; it stays through restarts, and a standby has that of its primary. */
interface Identity {
  /** Empty where the server does not tell it. */
  system: string;
  /** Grows with each promotion of a standby; 0 where the server does not tell it. */
  timeline: number;
  /** Of PostgreSQL. */
  version: string;
}

/** The servers of one URL, tried in turn, beginning with the one that was used last. */
export class PostgresServers {
  readonly database: string;
  readonly #servers: readonly Server[];
  #current = 0;
  /** That of the newest server so far: another system and an older timeline are refused. */
  #seen: Identity | null = null;
  /** Refuses a connection by throwing; is set when the cluster is known. */
  admit: (sql: SQL) => Promise<void> = async () => {};

  constructor(url: string) {
    const { database, servers } = parseUrl(url);
    this.database = database;
    this.#servers = servers;
  }

  /** What the log and the admin socket call the engine: the server that was used last. Empty before the first one. */
  get engine(): string {
    if (this.#seen === null) return "";
    return `PostgreSQL ${this.#seen.version} at ${this.#servers[this.#current]!.name}, database ${this.database}`;
  }

  /** The timeline of the newest server so far. Connections with an older one are not used any more. */
  get timeline(): number {
    return this.#seen?.timeline ?? 0;
  }

  /** Rejects with an error whose message has one reason for each server, on one line. */
  async connect(): Promise<Connection> {
    const reasons: Refusal[] = [];
    for (let i = 0; i < this.#servers.length; i++) {
      const index = (this.#current + i) % this.#servers.length;
      const server = this.#servers[index]!;
      try {
        const connection = await this.#connectTo(server);
        this.#current = index;
        return connection;
      } catch (error) {
        reasons.push(refusal(server.name, error));
      }
    }
    const advices = new Set(reasons.map(({ advice }) => advice));
    const advice = advices.size === 1 ? reasons[0]!.advice : "correct the URL, or start a server";
    throw new Error(`${reasons.map(({ reason }) => reason).join("; ")}; ${advice}`);
  }

  async #connectTo({ name, url }: Server): Promise<Connection> {
    // PGDATABASE has priority over a URL, but not over an option.
    const pool = new SQL(url, { database: this.database, max: 1, connectionTimeout: CONNECT_S });
    const close = (): void => void pool.close({ timeout: 0 }).catch(() => {});
    try {
      const sql = await pool.reserve();
      const identity = await within(STATEMENT_MS, examine(sql));
      if (identity === null) throw new Refused("is a standby", "name the primary in the URL");
      const seen = this.#seen;
      if (seen !== null && identity.system !== seen.system)
        throw new Refused("is another database system than before", "correct the URL");
      if (seen !== null && identity.timeline < seen.timeline)
        throw new Refused(
          `is an old primary: its timeline ${identity.timeline} is lower than ${seen.timeline}`,
          "make it a standby of the new one",
        );
      await within(STATEMENT_MS, this.admit(sql));
      this.#seen = identity;
      return { sql, server: name, timeline: identity.timeline, close };
    } catch (error) {
      close();
      throw error;
    }
  }
}

/**
 * One connection that is opened when it is needed, and given up at the first error or late answer: then the outcome of
 * its statements is unknown. A statement is never cancelled: cancelling the wait for a synchronous standby makes
 * PostgreSQL report a commit that is not replicated.
 */
export class Lane {
  readonly #servers: PostgresServers;
  #connection: Promise<Connection> | null = null;
  #isClosed = false;

  constructor(servers: PostgresServers) {
    this.#servers = servers;
  }

  /** Runs statements whose promise has STATEMENT_MS. */
  async run<T>(statements: (sql: SQL) => Promise<T>): Promise<T> {
    const connection = await this.#connected();
    try {
      return await within(STATEMENT_MS, statements(connection.sql));
    } catch (error) {
      await this.#drop(connection);
      throw clusterError(error) ?? new Error(`${connection.server}: ${oneLine((error as Error).message)}`);
    }
  }

  async #connected(): Promise<Connection> {
    if (this.#isClosed) throw new Error("the shared log is closed");
    const current = await this.#connection?.catch(() => null);
    if (current != null && current.timeline < this.#servers.timeline) await this.#drop(current);
    this.#connection ??= this.#connect();
    return this.#connection;
  }

  async #connect(): Promise<Connection> {
    try {
      const connection = await this.#servers.connect();
      if (!this.#isClosed) return connection;
      connection.close();
      throw new Error("the shared log is closed");
    } catch (error) {
      this.#connection = null;
      throw error;
    }
  }

  async #drop(connection: Connection): Promise<void> {
    connection.close();
    if ((await this.#connection?.catch(() => null)) === connection) this.#connection = null;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    (await this.#connection?.catch(() => null))?.close();
  }
}

/** Prepares the session and identifies its server; null for a standby. */
async function examine(sql: SQL): Promise<Identity | null> {
  // A session waits for a synchronous standby unless it is configured not to; remote_apply is stronger than on.
  const [row] = await sql`
    SELECT pg_is_in_recovery() AS standby, current_setting('server_version') AS version,
      set_config('application_name', 'heartline', false),
      set_config('default_transaction_isolation', 'read committed', false),
      set_config('statement_timeout', ${String(STATEMENT_MS)}, false),
      set_config('synchronous_commit',
        CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)`;
  if (row.standby) return null;
  const [version] = row.version.split(" ");
  try {
    const [{ system, file }] = await sql`
      SELECT system_identifier AS system, pg_walfile_name(pg_current_wal_lsn()) AS file FROM pg_control_system()`;
    return { system, timeline: Number.parseInt(file.slice(0, 8), 16), version };
  } catch (error) {
    if (UNIDENTIFIED.has((error as SQL.PostgresError).errno ?? "")) return { system: "", timeline: 0, version };
    throw error;
  }
}

/** SQLSTATE of servers that do not tell their identity: no such function, no permission, not supported. */
const UNIDENTIFIED = new Set(["42883", "42501", "0A000"]);

/** SQLSTATE for which repeating does not help: permission, table, schema, column; a record after the head. */
const PERMANENT: Record<string, string> = {
  "42501": "grant the permission to this user",
  "42P01": "the tables of the cluster are missing or changed",
  "3F000": "the tables of the cluster are missing or changed",
  "42703": "the tables of the cluster are missing or changed",
  "23505": "the tables of the cluster contradict each other; restore the database",
};

/** A ClusterError for an error of a statement that repeating does not solve; else null. */
export function clusterError(error: unknown): ClusterError | null {
  const { errno = "", message } = error as SQL.PostgresError;
  const advice = PERMANENT[errno];
  return advice === undefined ? null : new ClusterError(`PostgreSQL refuses: ${oneLine(message)}; ${advice}`);
}

/** A server that answers, but must not be used. */
export class Refused extends Error {
  readonly advice: string;

  /** `message` follows the name of the server. */
  constructor(message: string, advice: string) {
    super(message);
    this.advice = advice;
  }
}

interface Refusal {
  reason: string;
  advice: string;
}

/** Advice by the beginning of an SQLSTATE: login, database, permission, resources, start or stop of the server. */
const ADVICE: Record<string, string> = {
  "28": "correct the user, the password or sslmode in the URL, or pg_hba.conf",
  "3D": "create the database, or correct the URL",
  "42501": "grant the permission, or correct the URL",
  "53": "try again later, or raise max_connections",
  "57": "try again later",
};

function refusal(server: string, error: unknown): Refusal {
  if (error instanceof Refused) return { reason: `${server} ${error.message}`, advice: error.advice };
  // Errors of TLS and of files have other codes and numbers than those of PostgreSQL.
  const { code = "", errno, message } = error as { code?: string; errno?: unknown; message: string };
  const unreachable = "start the server, or correct the URL";
  if (code === "ERR_POSTGRES_CONNECTION_TIMEOUT")
    return { reason: `${server} does not answer within ${CONNECT_S} s`, advice: unreachable };
  if (code.startsWith("ERR_POSTGRES_CONNECTION")) return { reason: `${server} cannot be reached`, advice: unreachable };
  const state = Object.keys(ADVICE).find((prefix) => typeof errno === "string" && errno.startsWith(prefix));
  const other = /certificate|caFile/.test(message)
    ? "correct the host or sslrootcert in the URL"
    : "correct the URL, or the server";
  const advice = state === undefined ? other : ADVICE[state]!;
  return { reason: `${server}: ${oneLine(message)}`, advice };
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

/** The result of a promise; rejects when it is late, and then ignores it. */
export async function within<T>(ms: number, promise: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`no answer within ${ms / 1000} s`)), ms);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** `postgres://user:password@host1:port,host2:port/database?parameters`, as libpq has it. */
function parseUrl(url: string): { database: string; servers: Server[] } {
  const found = /^(postgres(?:ql)?:)\/\/(?:([^/?#]*)@)?([^@/?#]*)\/([^/?#]+)(\?[^#]*)?$/s.exec(url);
  if (found === null) throw invalidUrl();
  const [, scheme, login, hosts = "", path = "", query = ""] = found;
  const servers = hosts.split(",").map((host): Server => {
    const server = `${scheme}//${login === undefined ? "" : `${login}@`}${host}/${path}${query}`;
    try {
      const { hostname, port } = new URL(server);
      if (hostname === "" && !new URLSearchParams(query).has("host")) throw invalidUrl();
      new SQL(server).close().catch(() => {}); // Checks the parameters; connects nowhere.
      return { name: hostname === "" ? "the local server" : `${hostname}:${port || PORT}`, url: server };
    } catch (error) {
      // The message may quote the URL, except that of an invalid parameter.
      const { code, message } = error as NodeJS.ErrnoException;
      if (code !== "ERR_INVALID_ARG_VALUE") throw invalidUrl();
      throw new ConfigError(`invalid URL of PostgreSQL: ${message.replace(/^The argument /, "")}`);
    }
  });
  return { database: decodeURIComponent(path), servers };
}

function invalidUrl(): ConfigError {
  return new ConfigError(
    "invalid URL of PostgreSQL: it has another form; write postgres://user:password@host:port/database, " +
      "with several hosts separated by commas, and %2F for / in a password",
  );
}
