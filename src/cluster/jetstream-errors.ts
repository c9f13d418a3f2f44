/** The errors of the NATS library in this program's words, and what a server must be to be used. */
import { JetStreamApiError } from "@nats-io/jetstream";
import { PermissionViolationError } from "@nats-io/transport-node";
import { ClusterError } from "./shared-log.ts";

/** The stream does not exist: it was deleted, or the server that answered has not caught up. */
export class StreamMissing extends Error {}

/** Nobody serves the subject: the servers are starting, the stream has no leader, or it was deleted. */
export class Unserved extends Error {}

/** The only answer that says that an append was not done. */
export class Refused extends Error {
  /** Sequence number of the last message. */
  readonly last: number;

  constructor(message: string) {
    super(message);
    this.last = Number(/\d+/.exec(message)?.[0] ?? 0);
  }
}

const API_ERRORS: Record<number, (message: string, stream: string) => Error> = {
  10071: (message) => new Refused(message),
  10059: (_, stream) => new StreamMissing(`NATS has no stream ${stream}`),
  10058: (_, stream) =>
    new ClusterError(
      `cannot create the stream ${stream}: NATS has another one with this name; ` +
        "write another name of the cluster after the last / of the URL",
    ),
  10076: () => new Unserved("NATS has no JetStream"),
  10060: (_, stream) => taken(stream),
  10065: (_, stream) => taken(stream),
};

function taken(stream: string): ClusterError {
  return new ClusterError(
    `cannot create the stream ${stream}: another stream of this account takes its subjects; ` +
      "use an account of its own, or another name of the cluster",
  );
}

/** The oldest version whose JetStream clusters are worth the name, and the first that can sync each write. */
const VERSION_MIN = [2, 9, 0] as const;
const VERSION_SYNC = [2, 10, 0] as const;
/** Servers of these versions lost whole streams when they were killed (nats-server issue 6888). */
const VERSION_UNSAFE = [2, 10, 20] as const;
const VERSION_SAFE = [2, 10, 23] as const;

/** An error of a call about a stream. */
export function translate(error: unknown, stream: string): Error {
  if (error instanceof ClusterError) return error;
  const { name, cause } = error as Error;
  const permission = [error, cause].find((each) => each instanceof PermissionViolationError);
  if (permission !== undefined)
    return new ClusterError(
      `NATS refused "${permission.operation}" on ${permission.subject}: the user has no permission; ` +
        "grant it, docs/cluster.md lists the subjects",
    );
  if (error instanceof JetStreamApiError) {
    const known = API_ERRORS[error.code]?.(error.message, stream);
    return known ?? new Error(`NATS answered about the stream ${stream}: ${oneLine(error)}`);
  }
  if (name === "JetStreamNotEnabled") return new Unserved(`NATS has no leader for the stream ${stream}`);
  if (name === "TimeoutError") return new Error("NATS did not answer in time");
  return new Error(`NATS: ${oneLine(error)}`);
}

/** The error of the first connection. */
export function connectionError(error: unknown, servers: string[]): ClusterError {
  const at = servers.join(", ");
  const { name } = error as Error;
  if (name === "AuthorizationError")
    return new ClusterError(`NATS at ${at} refused the login: wrong user or password; correct the URL`);
  const reason = oneLine(error);
  const advice = reason.includes("certificate")
    ? "correct the URL, or write its authority to the file of NODE_EXTRA_CA_CERTS"
    : "start it or correct the URL";
  return new ClusterError(`NATS cannot be reached at ${at}: ${reason}; ${advice}`);
}

/** Throws ClusterError for a server that is not safe; returns warnings about one that could be safer. */
export function checkVersion(version: string): string[] {
  if (isBefore(version, VERSION_MIN))
    throw new ClusterError(`nats-server ${version} is too old: its JetStream is not safe; install 2.10.23 or newer`);
  if (!isBefore(version, VERSION_UNSAFE) && isBefore(version, VERSION_SAFE))
    throw new ClusterError(`nats-server ${version} loses streams when it is killed; install 2.10.23 or newer`);
  if (!isBefore(version, VERSION_SYNC)) return [];
  return [
    `nats-server ${version} does not write each record to disk before it acknowledges it: ` +
      "a power failure can lose acknowledged messages; install 2.10.23 or newer and set sync_interval: always",
  ];
}

function isBefore(version: string, other: readonly number[]): boolean {
  const parts = version.split(/[.-]/).map(Number);
  const index = other.findIndex((part, i) => part !== parts[i]);
  return index !== -1 && (parts[index] ?? 0) < other[index]!;
}

function oneLine(error: unknown): string {
  const { message, name } = error as Error;
  return (message || name).split("\n", 1)[0]!.toLowerCase();
}
