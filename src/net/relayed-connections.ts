/**
 * What the owner of a shard does with the connections of gateways: after the handshake (cluster-handshake.ts) and the
 * PROXY header each is an ordinary connection of the client that the header names. relay.ts is the other side.
 */
import { CLUSTER_HANDSHAKES_MAX, CLUSTER_HANDSHAKE_MS, CLUSTER_LINE_BYTES_MAX } from "../limits.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { type Admission, PendingConnection, type RefusalReason } from "./admission.ts";
import { CLUSTER_PORT_VERSION, isNonce, isProof, newNonce, proofOf, wordsOf } from "./cluster-handshake.ts";
import { Connection } from "./connection.ts";
import { type ProxyHeader, parseProxyHeader } from "./proxy-header.ts";
import type { ServerHandlers, SocketHandlers } from "./socket-handlers.ts";
import { type AcceptedSocket, TcpTransport } from "./tcp-transport.ts";

const TOO_LATE = `no handshake of a server within ${CLUSTER_HANDSHAKE_MS / 1000} seconds`;

/** What the owner proves, and checks. */
export interface OwnerIdentity {
  secret: Uint8Array;
  epoch: number;
}

/** Connections of gateways to the owner. */
export class RelayedConnections {
  readonly admission: Admission;
  readonly identity: OwnerIdentity;
  readonly isTls: boolean;
  /** Those in the handshake, the oldest first. */
  readonly pending = new Set<AwaitingRelay>();

  constructor(admission: Admission, identity: OwnerIdentity, isTls: boolean) {
    this.admission = admission;
    this.identity = identity;
    this.isTls = isTls;
  }

  /** The handlers of the cluster port. `handlers` are those of client ports. */
  handlers({ plain, tls, beginTurn }: ServerHandlers): SocketHandlers {
    const open = (socket: AcceptedSocket): void => {
      beginTurn();
      const { remoteAddress } = socket;
      if (remoteAddress === undefined) return void socket.end(); // The peer has closed it already.
      const [oldest] = this.pending;
      if (this.pending.size >= CLUSTER_HANDSHAKES_MAX) oldest!.hangUp();
      socket.data = new AwaitingRelay(this, socket, remoteAddress);
    };
    if (!this.isTls) return { ...plain, open };
    const handshake: SocketHandlers["handshake"] = (socket, isWell, error) =>
      // Only a server with a certificate of the cluster is authorized.
      tls.handshake!(socket, isWell && socket.authorized, error ?? new Error("no valid certificate"));
    return { ...tls, open, handshake };
  }
}

/**
 * - `first`: waits for the first line, which has the gateway's nonce.
 * - `proof`: waits for the gateway's proof.
 * - `header`: waits for the PROXY header.
 */
type AwaitingState = "first" | "proof" | "header";

/** A connection in the handshake. */
class AwaitingRelay extends PendingConnection {
  protected refusal: RefusalReason = "relay_handshake";
  readonly #all: RelayedConnections;
  readonly #reader = new LineReader(CLUSTER_LINE_BYTES_MAX);
  #state: AwaitingState = "first";
  #expectedProof = "";
  #header = Buffer.alloc(0);

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
      const words = wordsOf(this.#reader);
      if (this.#state === "first") this.#greet(words ?? []);
      else return this.#check(words ?? []);
    }
    if (this.#reader.takeSkipped() > 0) this.reject("no first line of a server: it is too long");
  }

  #greet([verb, version, nonce, ...more]: string[]): void {
    if (verb !== "relay" || version === undefined) return this.reject("no first line of a server");
    if (version !== `${CLUSTER_PORT_VERSION}`)
      return this.#refuse(`version ${CLUSTER_PORT_VERSION} of the cluster port is needed, and not ${Number(version)}`);
    if (!isNonce(nonce) || more.length > 0) return this.reject("no first line of a server");
    const { secret, epoch } = this.#all.identity;
    const said = { epoch, gatewayNonce: nonce, ownerNonce: newNonce() };
    this.#expectedProof = proofOf("gateway", secret, said);
    this.socket.write(`owner ${epoch} ${said.ownerNonce} ${proofOf("owner", secret, said)}\n`);
    this.#state = "proof";
  }

  #check([verb, proof, ...more]: string[]): void {
    if (verb !== "proof" || proof === undefined || more.length > 0 || !isProof(proof, this.#expectedProof)) {
      this.refusal = "relay_secret";
      return this.#refuse("the secret of the cluster is wrong");
    }
    this.#state = "header";
    for (const chunk of this.#reader.takeUnread()) this.#read(chunk);
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
    this.leave();
    const { address, isEncrypted, isWebSocket } = header;
    const transport = new TcpTransport(this.socket, isEncrypted, this.#all.isTls, isWebSocket);
    const connection = new Connection(this.admission.connections, transport, address, false);
    this.socket.data = connection;
    if (this.#header.length > header.bytes) connection.data(this.#header.subarray(header.bytes));
  }

  protected override leave(): void {
    super.leave();
    this.#all.pending.delete(this);
  }
}
