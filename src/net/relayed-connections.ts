/**
 * What the owner of a shard does with the connections of other servers, after the handshake (cluster-handshake.ts).
 * One of a gateway is an ordinary connection of the client that its PROXY header names; relay.ts is the other side. One
 * of the owner of another shard is that of a neighbour; neighbour-link.ts is the other side. The others are not here.
 */
import { CLUSTER_HANDSHAKES_MAX, CLUSTER_HANDSHAKE_MS, CLUSTER_LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { isThisMachine } from "../runtime/host.ts";
import { type Admission, PendingConnection, type RefusalReason } from "./admission.ts";
import { CLUSTER_PORT_VERSION, PURPOSES, type Purpose, type ShardOwner, isNonce } from "./cluster-handshake.ts";
import { isProof, newNonce, numberOf, proofOf, wordsOf } from "./cluster-handshake.ts";
import { Connection } from "./connection.ts";
import { type ProxyHeader, parseProxyHeader } from "./proxy-header.ts";
import type { ServerHandlers, SocketHandlers } from "./socket-handlers.ts";
import { type AcceptedSocket, TcpTransport } from "./tcp-transport.ts";
import type { SocketEvents } from "./transport.ts";

const TOO_LATE = `no handshake of a server within ${CLUSTER_HANDSHAKE_MS / 1000} seconds`;

/** What the owner proves, and checks. */
export interface OwnerIdentity extends ShardOwner {
  secret: Uint8Array;
}

/** Connections of gateways to the owner. */
export class RelayedConnections {
  readonly admission: Admission;
  readonly identity: OwnerIdentity;
  readonly isTls: boolean;
  /** Serves a connection with a command of an operator, or of a spare; null when it is closed. */
  readonly accept: (purpose: Exclude<Purpose, "relay">, socket: AcceptedSocket) => SocketEvents | null;
  /** Those in the handshake, the oldest first. */
  readonly pending = new Set<AwaitingServer>();

  constructor(admission: Admission, identity: OwnerIdentity, isTls: boolean, accept: RelayedConnections["accept"]) {
    this.admission = admission;
    this.identity = identity;
    this.isTls = isTls;
    this.accept = accept;
  }

  /** The handlers of the cluster port. `handlers` are those of client ports. */
  handlers({ plain, tls, beginTurn }: ServerHandlers): SocketHandlers {
    const open = (socket: AcceptedSocket): void => {
      beginTurn();
      const { remoteAddress } = socket;
      if (remoteAddress === undefined) return void socket.end(); // The peer has closed it already.
      const [oldest] = this.pending;
      if (this.pending.size >= CLUSTER_HANDSHAKES_MAX) oldest!.hangUp();
      socket.data = new AwaitingServer(this, socket, remoteAddress);
    };
    if (!this.isTls) return { ...plain, open };
    const handshake: SocketHandlers["handshake"] = (socket, isWell, error) =>
      // Only a server with a certificate of the cluster is authorized.
      tls.handshake!(socket, isWell && socket.authorized, error ?? new Error("no valid certificate"));
    return { ...tls, open, handshake };
  }
}

/**
 * - `first`: waits for the first line, which has the nonce of the other server.
 * - `proof`: waits for its proof.
 * - `header`: waits for the PROXY header of a gateway.
 * - `heard`: waits for that line of the owner of another shard.
 */
type AwaitingState = "first" | "proof" | "header" | "heard";

/** A connection in the handshake. */
class AwaitingServer extends PendingConnection {
  protected refusal: RefusalReason = "relay_handshake";
  readonly #all: RelayedConnections;
  readonly #reader = new LineReader(CLUSTER_LINE_BYTES_MAX);
  #state: AwaitingState = "first";
  #expectedProof = "";
  #header = Buffer.alloc(0);
  /** The owner of another shard that connects, or what another server wants. */
  #from: ShardOwner | Purpose = "relay";

  constructor(all: RelayedConnections, socket: AcceptedSocket, address: string) {
    super(all.admission, socket, address, TOO_LATE, CLUSTER_HANDSHAKE_MS);
    this.#all = all;
    all.pending.add(this);
  }

  handshake(failure: Error | null): void {
    // The runtime reports a handshake that `hangUp` interrupted, too.
    if (failure !== null && this.#all.pending.has(this))
      this.reject(`the TLS handshake of a server failed: ${failure.message}`);
  }

  override data(chunk: Buffer): void {
    if (this.#state === "header") return this.#read(chunk);
    this.#reader.feed(chunk);
    while (this.#all.pending.has(this) && this.#reader.next()) {
      const words = wordsOf(this.#reader) ?? [];
      if (this.#state === "first") this.#greet(words);
      else if (this.#state === "heard") return this.#link(words);
      else if (!this.#check(words)) return;
    }
    if (this.#reader.takeSkipped() > 0) this.reject("no first line of a server: it is too long");
  }

  #greet(words: string[]): void {
    const [verb, version, nonce, ...numbers] = words;
    const isLink = verb === "link";
    const purpose = PURPOSES.find((each) => each === verb);
    if ((purpose === undefined && !isLink) || version === undefined) return this.reject("no first line of a server");
    if (version !== `${CLUSTER_PORT_VERSION}`)
      return this.#refuse(`version ${CLUSTER_PORT_VERSION} of the cluster port is needed, and not ${Number(version)}`);
    const [of = NaN, ofEpoch = NaN] = numbers.map(numberOf);
    const isComplete = isNonce(nonce) && !Number.isNaN(isLink ? of + ofEpoch : of);
    if (!isComplete || numbers.length !== (isLink ? 2 : 1)) return this.reject("no first line of a server");
    const { secret, shard, epoch } = this.#all.identity;
    if (!isLink && of !== shard) return this.#refuse(`it owns shard ${shard}, not shard ${of}`);
    this.#from = purpose ?? { shard: of, epoch: ofEpoch };
    const said = { first: words.join(" "), shard, epoch, ownerNonce: newNonce() };
    this.#expectedProof = proofOf("dialer", secret, said);
    this.socket.write(`owner ${shard} ${epoch} ${said.ownerNonce} ${proofOf("owner", secret, said)}\n`);
    this.#state = "proof";
  }

  /** True when another line follows. */
  #check([verb, proof, ...more]: string[]): boolean {
    if (verb !== "proof" || proof === undefined || more.length > 0 || !isProof(proof, this.#expectedProof)) {
      this.refusal = "relay_secret";
      this.#refuse("the secret of the cluster is wrong");
      return false;
    }
    if (typeof this.#from === "object") {
      this.#state = "heard";
      return true;
    }
    this.#state = "header";
    const unread = this.#reader.takeUnread();
    if (this.#from !== "relay") this.#accept(this.#from, unread);
    else for (const chunk of unread) this.#read(chunk);
    return false;
  }

  #link([verb, heard, ...more]: string[]): void {
    const number = numberOf(heard);
    if (verb !== "heard" || Number.isNaN(number) || more.length > 0) return this.reject("no heard <n> of a server");
    const { shard, epoch } = this.#from as ShardOwner;
    const { neighbours } = this.admission.connections.chat;
    if (neighbours?.all[shard] === undefined) return this.#refuse(`shard ${shard} is no neighbour of this one`);
    const unread = this.#reader.takeUnread();
    const connection = this.#open(this.address, this.#all.isTls, false, null);
    neighbours.connected(connection, shard, epoch, number);
    for (const chunk of unread) connection.data(chunk as Buffer);
  }

  #open(
    address: string,
    isEncrypted: boolean,
    isWebSocket: boolean,
    relayedFrom: "here" | "elsewhere" | null,
  ): Connection {
    this.leave();
    const transport = new TcpTransport(this.socket, isEncrypted, this.#all.isTls, isWebSocket);
    return (this.socket.data = new Connection(this.admission.connections, transport, address, false, relayedFrom));
  }

  #accept(purpose: Exclude<Purpose, "relay">, unread: readonly Uint8Array[]): void {
    this.leave();
    const accepted = this.#all.accept(purpose, this.socket);
    if (accepted === null) return void this.socket.end();
    this.socket.data = accepted;
    for (const chunk of unread) accepted.data(chunk as Buffer);
  }

  /** With a line for the log of the other server. */
  #refuse(why: string): void {
    this.socket.write(`refused ${why}\n`);
    this.reject(why);
  }

  #read(chunk: Uint8Array): void {
    this.#header = Buffer.concat([this.#header, chunk]);
    let header: ProxyHeader | null;
    try {
      header = parseProxyHeader(this.#header);
    } catch (error) {
      return this.reject((error as Error).message);
    }
    if (header === null) return;
    if (header.address === null) return this.reject("a PROXY header without the address of a client");
    const isHere = isThisMachine(this.socket.localAddress, this.address);
    const { isEncrypted, isWebSocket } = header;
    const connection = this.#open(header.address, isEncrypted, isWebSocket, isHere ? "here" : "elsewhere");
    connection.waited = header.waited;
    if (this.#header.length > header.bytes) connection.data(this.#header.subarray(header.bytes));
  }

  protected override leave(): void {
    super.leave();
    this.#all.pending.delete(this);
  }
}
