import type { DialEvents, DialOwner, Owner } from "../../src/net/owner-link.ts";
import type { AcceptedSocket } from "../../src/net/tcp-transport.ts";
import type { SocketEvents, Transport } from "../../src/net/transport.ts";
import type { Random } from "../support/random.ts";
import type { ClusterProcess } from "./cluster-process.ts";
import { Link } from "./network.ts";

/**
 * The connection of an owner (Q) to the owner of another shard (P), which has the side of the server. Both have send
 * buffers of the size `room`.
 */
export class ShardLink extends Link {
  readonly q: ClusterProcess;
  readonly p: ClusterProcess;
  readonly #events: DialEvents;
  #reading = true;
  /** Bytes in the send buffer of Q that P never acknowledges. */
  #unacked = 0;
  /** That buffer did not take everything. */
  #isFull = false;

  constructor(q: ClusterProcess, p: ClusterProcess, events: DialEvents, room: number) {
    const data = (_link: Link, bytes: string): void => events.data(Buffer.from(bytes, "latin1"));
    super({ data, closed: () => events.closed() }, room, p);
    this.q = q;
    this.p = p;
    this.#events = events;
    this.clientReads = () => this.#reading && q.isRunning;
  }

  /** The connection is established. */
  connected(): void {
    const hangUp = (): void => {
      if (!this.q.isGone) this.hangUp();
    };
    const transport: Transport = {
      isEncrypted: false,
      isWebSocket: false,
      write: (bytes, start, count) => (this.q.isGone ? count : this.#send(bytes, start, count)),
      send: () => 0,
      pause: () => void (this.#reading = false),
      resume: () => void (this.#reading = true),
      shutdown: hangUp,
      end: hangUp,
      reset: hangUp,
      handOver: () => {},
      closed: () => {},
      release: () => {},
    };
    this.#events.connected(transport);
  }

  /** Returns how many bytes the send buffer of Q has taken. */
  #send(bytes: Buffer, start: number, count: number): number {
    const taken = Math.max(0, Math.min(count, this.#room));
    if (this.isCut || this.lost === "up") this.#unacked += taken;
    else this.say(bytes.toString("latin1", start, start + taken));
    this.#isFull = taken < count;
    return taken;
  }

  get #room(): number {
    return this.room - this.up.length - this.#unacked;
  }

  /** Q will be told that its buffer has room again. */
  get #drains(): boolean {
    return this.#isFull && this.#room > 0 && !this.isCut && this.lost !== "up" && this.q.isRunning;
  }

  override get busy(): boolean {
    return super.busy || this.#drains;
  }

  override deliverUp(count: number): void {
    const before = this.up.length;
    super.deliverUp(count);
    if (this.lost === "down") this.#unacked += Math.max(0, before - this.up.length);
    if (!this.#drains) return;
    this.#isFull = false;
    this.#events.drain();
  }

  /** P's end, as its runtime would hand it to `handlers`. */
  accepted({ open, data, drain, end, close }: Bun.SocketHandler<SocketEvents | null>): void {
    const socket = {
      data: null,
      remoteAddress: "127.0.0.1",
      localAddress: "127.0.0.1",
      write: (bytes: string | Buffer, start = 0, count = bytes.length): number =>
        this.write(Buffer.from(bytes), start, count),
      end: () => this.end(),
      terminate: () => this.end(),
      shutdown: () => this.shutdown(),
      pause: () => this.pause(),
      resume: () => this.resume(),
    } as unknown as AcceptedSocket;
    this.server = {
      data: (chunk) => void data!(socket, chunk),
      drain: () => void drain!(socket),
      end: () => void end!(socket),
      closed: () => void close!(socket),
    };
    void open!(socket);
  }
}

interface Dial {
  from: ClusterProcess;
  owner: Owner;
  events: DialEvents;
}

/** Attempts of owners to connect to each other. */
export class ShardNetwork {
  readonly #random: Random;
  #dials: Dial[] = [];

  constructor(random: Random) {
    this.#random = random;
  }

  dialerOf(from: ClusterProcess): DialOwner {
    return (owner, events) => void this.#dials.push({ from, owner, events });
  }

  /** Some attempts succeed or fail, or all of them when nothing fails any more. Returns the new links. */
  step(processes: readonly ClusterProcess[], calm: boolean): ShardLink[] {
    const links: ShardLink[] = [];
    const dials = this.#dials;
    this.#dials = [];
    for (const dial of dials) {
      const { from, owner, events } = dial;
      if (from.isDead) continue;
      if (from.isPaused || (!calm && this.#random.oneIn(3))) {
        this.#dials.push(dial);
        continue;
      }
      const to = processes.find(({ name, accepts }) => accepts && name === owner.host);
      if (to === undefined || (!calm && this.#random.oneIn(8))) {
        from.host!.turn(() => events.failed("unreachable", "connection refused"));
        continue;
      }
      const link = new ShardLink(from, to, events, this.#random.between(300, 3000));
      links.push(link);
      from.host!.turn(() => link.connected());
    }
    return links;
  }
}
