/** The address of a NATS cluster: `nats://[user:password@]host1:4222,host2:4222/<name of the cluster>`. */
import { ConfigError } from "../usage-error.ts";

export interface NatsUrl {
  /** `host:port` of each server. */
  servers: string[];
  user: string | undefined;
  password: string | undefined;
  /** Distinguishes the clusters of one NATS account: it begins the names of all their streams. */
  cluster: string;
}

const CLUSTER_DEFAULT = "heartline";
const PORT_DEFAULT = 4222;
const SHAPE = /^nats:\/\/(?:([^@/]*)@)?([^@/?#]+)(?:\/([^/?#]*))?$/;
/** No dot and no space: the name is part of the names of streams and a word of their subjects. */
const CLUSTER_SHAPE = /^[A-Za-z0-9_-]{1,32}$/;
const SERVER_SHAPE = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]\s]+)(?::(\d{1,5}))?$/;

/** Throws ConfigError. No message quotes the part before `@`. */
export function parseNatsUrl(url: string): NatsUrl {
  const [, login, hosts, name = ""] = SHAPE.exec(url) ?? [];
  if (hosts === undefined) throw invalid("it has not this form");
  const [user, password] = login?.split(/:(.*)/s) ?? [];
  const cluster = name === "" ? CLUSTER_DEFAULT : name;
  if (!CLUSTER_SHAPE.test(cluster))
    throw invalid("the name of the cluster has up to 32 letters, digits, hyphens and underscores");
  return { servers: hosts.split(",").map(server), user: decoded(user), password: decoded(password), cluster };
}

function server(text: string, index: number): string {
  const [, host, port = `${PORT_DEFAULT}`] = SERVER_SHAPE.exec(text) ?? [];
  // Without the hosts, the login is in their place: it is not quoted.
  if (host === undefined || Number(port) < 1 || Number(port) > 65_535)
    throw invalid(`server ${index + 1} of the list is not a host with a port`);
  return `${host}:${port}`;
}

function decoded(text: string | undefined): string | undefined {
  try {
    return text === undefined ? undefined : decodeURIComponent(text);
  } catch {
    throw invalid("a % in the user or the password begins no escape; write %25");
  }
}

function invalid(reason: string): ConfigError {
  return new ConfigError(
    `invalid NATS address: ${reason}; write nats://[user:password@]host:4222[,host:4222][/name of the cluster]`,
  );
}
