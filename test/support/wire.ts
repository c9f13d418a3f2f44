import type { Socket } from "bun";
import { once } from "node:events";
import pino from "pino";
import { openStore } from "../../src/storage/recovery.ts";
import { atOnce } from "../../src/runtime/slices.ts";
import type { Credentials } from "../../src/auth/credentials.ts";
import type { Limits } from "../../src/limits.ts";
import { type Config, parseConfig } from "../../src/server/config.ts";
import { BoundedLog } from "../../src/server/bounded-log.ts";
import { type Page, WebPort } from "../../src/net/web-client.ts";
import { ClientPorts } from "../../src/server/client-ports.ts";
import { type GatewayChoices, WireGateway } from "./gateway.ts";
import type { Ownership } from "../../src/server/ownership.ts";
import { CLOCK, Server } from "../../src/server/server.ts";
import { WireCluster } from "./wire-cluster.ts";

export const PASSWORD = "secret";
/** The dialogues of a test file run through a gateway, to one server or to a cluster of that many shards. */
const SHARDS = Number(process.env.HEARTLINE_TEST_GATEWAY ?? 0);
export const NAMES = ["alice", "bob", "carol", "dave", "1.2.3"];

/**
 * A pattern for exactly these bytes (latin1), with placeholders for variable parts: `<token>`, `<ms>`, and `<words>` for
 * the free text after a code.
 */
export function pattern(expected: string): RegExp {
  const escaped = expected.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  const open = escaped.replace("<token>", "[A-Za-z0-9_-]{22,64}").replace("<ms>", "\\d{13}").replace("<words>", ".*");
  return new RegExp(`^${open}$`, "s");
}

/** A client that knows only bytes and lines, not the protocol. A test must expect every line: none is skipped. */
export class WireClient {
  /** Received lines that the test has not read yet. */
  readonly lines: string[] = [];
  #socket!: Socket<undefined>;
  #rest: Buffer[] = [];
  #unsent: Buffer[] = [];
  #ended = false;
  #closed = false;
  readonly #changes = new EventTarget();

  /** With an authority (PEM) the connection is over TLS; resolves after the handshake. */
  static async connect(port: number, hostname = "127.0.0.1", authority?: string): Promise<WireClient> {
    const client = new WireClient();
    const encrypted = Promise.withResolvers<void>();
    const tls = authority === undefined ? {} : { tls: { ca: authority, serverName: hostname } };
    await Bun.connect({
      hostname,
      port,
      allowHalfOpen: true,
      ...tls,
      socket: {
        open: (socket) => void (client.#socket = socket),
        handshake: (_socket, isWell, error) => (isWell ? encrypted.resolve() : encrypted.reject(error)),
        data: (_socket, chunk) => client.#data(chunk),
        drain: () => client.#flush(),
        end: (socket) => {
          client.#change(() => (client.#ended = true));
          socket.end();
        },
        close: () => client.#change(() => (client.#ended = client.#closed = true)),
      },
    });
    if (authority !== undefined) await encrypted.promise;
    return client;
  }

  /** Sends bytes, or text as latin1; what the kernel does not take now is sent later. */
  send(bytes: string | Uint8Array): void {
    this.#unsent.push(Buffer.from(bytes as string, "latin1"));
    this.#flush();
  }

  /** Sends lines, and LF after each. */
  sendLines(...lines: string[]): void {
    this.send(lines.map((line) => `${line}\n`).join(""));
  }

  /** The next lines must be exactly these. */
  async expectLines(...expected: string[]): Promise<void> {
    for (const line of expected) {
      const received = await this.line();
      if (!pattern(line).test(received)) throw new Error(`received ${show(received)} instead of ${show(line)}`);
    }
  }

  /** Sends a line and expects one line. */
  async expectReply(line: string, reply: string): Promise<void> {
    this.sendLines(line);
    await this.expectLines(reply);
  }

  async line(): Promise<string> {
    await this.#until(() => this.lines.length > 0 || this.#ended);
    const line = this.lines.shift();
    if (line === undefined) throw new Error("the connection ended, and a line was expected");
    return line;
  }

  /** The lines before the first one that matches `last`, which is consumed. */
  async until(last: string): Promise<string[]> {
    const before: string[] = [];
    for (let line = await this.line(); !pattern(last).test(line); line = await this.line()) before.push(line);
    return before;
  }

  /** The server must close its side without another byte. */
  async expectEnd(): Promise<void> {
    expectNone(await this.rest());
    if (this.#rest.length > 0)
      throw new Error(`an incomplete line before the end: ${show(Buffer.concat(this.#rest).toString())}`);
  }

  /** All lines until the server closes its side. */
  async rest(): Promise<string[]> {
    await this.#until(() => this.#ended);
    return this.lines.splice(0);
  }

  /** Stops reading: the socket buffers fill up. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Sends FIN after all output, and continues to read. */
  async finish(): Promise<void> {
    await this.#until(() => this.#unsent.length === 0 || this.#closed);
    this.#socket.shutdown();
  }

  /** Closes with a reset (RST). */
  cut(): void {
    if (!this.#closed) this.#socket.terminate();
  }

  #flush(): void {
    while (this.#unsent.length > 0 && !this.#closed) {
      const next = this.#unsent[0]!;
      const taken = this.#socket.write(next);
      if (taken < 0) return void this.#change(() => (this.#unsent.length = 0));
      if (taken < next.length) return void (this.#unsent[0] = next.subarray(taken));
      this.#unsent.shift();
    }
    this.#change(() => {});
  }

  #data(chunk: Buffer): void {
    let start = 0;
    for (let lf = chunk.indexOf(10); lf >= 0; lf = chunk.indexOf(10, start)) {
      this.lines.push(Buffer.concat([...this.#rest, chunk.subarray(start, lf)]).toString("latin1"));
      this.#rest = [];
      start = lf + 1;
    }
    if (start < chunk.length) this.#rest.push(chunk.subarray(start));
    this.#change(() => {});
  }

  #change(how: () => void): void {
    how();
    this.#changes.dispatchEvent(new Event("change"));
  }

  async #until(is: () => boolean): Promise<void> {
    while (!is()) await once(this.#changes, "change");
  }
}

function show(line: string): string {
  return JSON.stringify(line.length > 300 ? `${line.slice(0, 300)}...` : line);
}

function expectNone(lines: readonly string[]): void {
  if (lines.length > 0) throw new Error(`unexpected lines: ${lines.slice(0, 5).map(show).join(", ")}`);
}

/** Settings that differ from the defaults. */
export type Overrides = Partial<Omit<Config, "limits">> & { limits?: Partial<Limits> };

/** A real server in this process, at a free port, in memory by default; and all its clients. */
export class WireServer {
  readonly port: number;
  /** 0 when there is no TLS port next to the plain port. */
  readonly tlsPort: number;
  /** 0 without `web`. */
  readonly webPort: number;
  /** Of the server itself, where a gateway is in between. */
  readonly directPort: number;
  /** Log lines, and those of them that are errors; `stop` throws when there are any. */
  readonly logged: string[] = [];
  readonly faults: string[] = [];
  readonly #server: Server | null;
  /** Several shards with a gateway in front of them; null for one server. */
  readonly cluster: WireCluster | null;
  /** Clients connect to it, and it relays them to the server; null: they connect to the server. */
  readonly gateway: WireGateway | null;
  readonly #config: Config;
  readonly #names: readonly string[];
  /** The exit code, after a drain. */
  readonly exited: Promise<number>;
  readonly #clients: WireClient[] = [];
  #stopped = false;

  /** `relay`: clients connect to a gateway. `page`: what `web` serves. */
  constructor(
    overrides: Overrides = {},
    names: readonly string[] = NAMES,
    relay: GatewayChoices | null = SHARDS === 1 ? {} : null,
    page: Page = null,
    newOwnership: (log: BoundedLog) => Ownership | null = () => null,
  ) {
    const defaults = parseConfig([])!;
    this.#config = withOverrides({ ...defaults, host: "127.0.0.1", port: 0, data: ":memory:" }, overrides);
    this.#names = names;
    const write = (line: string): void => {
      this.logged.push(line);
      if (JSON.parse(line).level >= pino.levels.values.error!) this.faults.push(line);
    };
    const log = new BoundedLog(pino({ base: null, level: "trace" }, { write }), CLOCK.nowMs);
    const exited = Promise.withResolvers<number>();
    this.exited = exited.promise;
    const users = credentialsOf(names);
    this.cluster = SHARDS > 1 && relay === null ? new WireCluster(SHARDS, this.#config, users, log) : null;
    if (this.cluster !== null) {
      void this.cluster.exited.then(exited.resolve);
      ({ port: this.port, tlsPort: this.tlsPort } = this.cluster);
      this.directPort = this.webPort = 0;
      this.#server = this.gateway = null;
      return;
    }
    const { data, durability, salvage } = this.#config;
    const { store } = openStore(data, durability, { salvage, unixMs: Date.now(), progress: () => {} });
    const exit = async (code: number): Promise<void> => {
      this.#stopped = true;
      exited.resolve(code);
    };
    const webPort =
      this.#config.web === null ? null : new WebPort(this.#config.tls !== null, page, () => performance.now());
    const own = relay !== null ? { ...this.#config, port: 0, web: null } : this.#config;
    this.#server = new Server(own, store, log, exit, undefined, newOwnership(log));
    atOnce(this.server.load(credentialsOf(names)));
    const ports = this.server.listen(new ClientPorts(undefined, relay === null ? webPort : null));
    const { plain, encrypted } = ports;
    this.directPort = (plain ?? encrypted)!.port;
    this.gateway = relay === null ? null : new WireGateway(this.server, this.#config, log, relay, webPort);
    this.webPort = (this.gateway?.ports ?? ports).web?.port ?? 0;
    this.port = this.gateway?.port ?? (plain ?? encrypted)!.port;
    this.tlsPort = this.gateway?.tlsPort ?? (plain === null ? 0 : (encrypted?.port ?? 0));
  }

  get server(): Server {
    if (this.#server === null) throw new Error("a cluster has several servers");
    return this.#server;
  }

  /** Clients may connect; only a cluster takes a while. */
  async ready(): Promise<void> {
    await this.cluster?.ready;
  }

  /** Ends the sessions one after another, then the server; see `exited`. */
  drain(seconds: number): void {
    (this.cluster ?? this.server).drain(seconds);
  }

  /** Reloads with other settings or users. Throws when the certificate is invalid. */
  reload(...what: Parameters<WireServer["reloading"]>): void {
    atOnce(this.reloading(...what));
  }

  /** The same in steps. */
  reloading(overrides: Overrides = {}, names = this.#names, password = PASSWORD): Generator<void, void> {
    const config = withOverrides(this.#config, overrides);
    return this.server.applying(config, credentialsOf(names, password), this.server.newCertificate(config.tls));
  }

  /** A connection without a session; over TLS when an authority is given. */
  async connect(authority?: string): Promise<WireClient> {
    await this.ready();
    const port = authority === undefined ? this.port : this.tlsPort;
    const client = await WireClient.connect(port, "127.0.0.1", authority);
    this.#clients.push(client);
    return client;
  }

  /** A new connection with a plain session of that user. */
  async login(name: string, authority?: string): Promise<WireClient> {
    const client = await this.connect(authority);
    await client.expectReply(`login ${name} ${PASSWORD}`, "ok <token> 35");
    return client;
  }

  /** New plain sessions of these users; the events `joined` are consumed. */
  async online(...names: string[]): Promise<WireClient[]> {
    const clients: WireClient[] = [];
    for (const name of names) {
      const client = await this.login(name);
      await Promise.all(clients.map((other) => other.expectLines(`joined ${name}`)));
      clients.push(client);
    }
    return clients;
  }

  /** Stops the server and closes its store. Throws when it has logged errors. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    await (this.cluster ?? this.server).stop();
    this.gateway?.stop();
    this.cut();
    if (this.faults.length > 0) throw new Error(`the server logged errors: ${this.faults.join("")}`);
  }

  /** Resets the connections of all clients. */
  cut(): void {
    for (const client of this.#clients) client.cut();
  }
}

function withOverrides(config: Config, overrides: Overrides): Config {
  return { ...config, ...overrides, limits: { ...config.limits, ...overrides.limits } };
}

function credentialsOf(names: readonly string[], password = PASSWORD): Credentials {
  return { users: names.map((name) => ({ name, password })), sample: false };
}

/** A PROXY v2 header for this address (dotted IPv4, or IPv6 as eight groups), with `more` after the addresses. */
export function proxyHeader(address: string, more = Buffer.alloc(0)): Buffer {
  const isIpv4 = address.includes(".");
  const groups = address.split(isIpv4 ? "." : ":").map((group) => Number.parseInt(group, isIpv4 ? 10 : 16));
  const from = Buffer.from(isIpv4 ? groups : groups.flatMap((group) => [group >> 8, group & 255]));
  const body = Buffer.concat([from, Buffer.alloc(from.length), Buffer.from([4, 1, 23, 113]), more]);
  const head = Buffer.from("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0", "latin1");
  if (!isIpv4) head[13] = 0x21;
  head.writeUInt16BE(body.length, 14);
  return Buffer.concat([head, body]);
}
