import { freePort } from "./free-port.ts";
import { ServerProcess } from "./process.ts";

export interface ClusterServerChoices {
  /** A file. */
  credentials: string;
  /** The server's folder for temporary files. */
  copies: string;
  /** A folder for the working copy and the admin socket. */
  data?: string;
  variables?: Record<string, string>;
  options?: string[];
  /** Listening sockets that it inherits, in place of a port of its own. */
  sockets?: readonly number[];
  /** That of `--cluster-listen`; 0, the default, is any free one. */
  clusterPort?: number;
}

/** A server of the cluster, and what it says of itself. */
export class ClusterServer {
  readonly process: ServerProcess;
  readonly #http = freePort();
  port = 0;

  constructor(
    url: string,
    { credentials, copies, data, variables = {}, options = [], sockets = [], clusterPort = 0 }: ClusterServerChoices,
  ) {
    const environment = {
      ...variables,
      TMPDIR: copies,
      HEARTLINE_CLUSTER: url,
      HEARTLINE_OUTBOX_SIZE: String(64 << 20),
    };
    const ports = ["--port", "0", "--cluster-listen", `127.0.0.1:${clusterPort}`, "--http", String(this.#http)];
    const folder = data === undefined ? [] : ["--data", data];
    const all = ["--host", "127.0.0.1", "--credentials", credentials, ...ports, ...folder, ...options];
    this.process = new ServerProcess({ sockets, environment }, ...all);
  }

  async start(): Promise<this> {
    this.port = await this.process.port();
    return this;
  }

  /** What `/readyz` says, and `spare` for a server that is ready and does not own the shard. */
  async state(): Promise<string> {
    const [readyz, metrics] = await Promise.all([this.#page("readyz"), this.#page("metrics")]);
    return readyz === "ready" && !/^heartline_cluster_owner\{shard="\d+"\} 1$/m.test(metrics) ? "spare" : readyz;
  }

  /** The shard that it owns; null for a spare. */
  async shard(): Promise<number | null> {
    const [, shard] = /^heartline_cluster_owner\{shard="(\d+)"\} 1$/m.exec(await this.#page("metrics")) ?? [];
    return shard === undefined ? null : Number(shard);
  }

  async metric(name: string): Promise<number> {
    return Number(new RegExp(`^${name} (.*)$`, "m").exec(await this.#page("metrics"))![1]);
  }

  async #page(name: string): Promise<string> {
    return (await fetch(`http://127.0.0.1:${this.#http}/${name}`)).text();
  }

  /** Resolves with the time that it took. */
  async is(state: string | RegExp): Promise<number> {
    const beganMs = performance.now();
    while (!new RegExp(state).test(await this.state())) await Bun.sleep(20);
    return performance.now() - beganMs;
  }
}
