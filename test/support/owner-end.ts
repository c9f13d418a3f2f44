import type { Waited } from "../../src/chat/session.ts";
import { type HandshakeFields, newNonce, proofOf } from "../../src/net/cluster-handshake.ts";
import type { DialEvents, Owner } from "../../src/net/owner-link.ts";
import { parseProxyHeader } from "../../src/net/proxy-header.ts";
import type { Transport } from "../../src/net/transport.ts";
import type { World } from "./chat.ts";

export const SECRET = Buffer.from("the secret of the cluster");

/** What the owner knows and says. */
interface Greeting {
  secret: Buffer;
  shard: number;
  epoch: number;
}

/** The owner's end of one connection of a gateway or of another owner, played by a test. */
export class OwnerEnd {
  readonly owner: Owner;
  readonly events: DialEvents;
  readonly #world: World;
  #output = Buffer.alloc(0);
  room = Number.POSITIVE_INFINITY;
  reading = true;
  shut = false;
  ended = false;
  wasReset = false;

  constructor(owner: Owner, events: DialEvents, world: World) {
    this.owner = owner;
    this.events = events;
    this.#world = world;
  }

  event(happen: () => void): void {
    this.#world.begin();
    happen();
    this.#world.endTurns();
  }

  connected(): void {
    const transport: Transport = {
      isEncrypted: false,
      isWebSocket: false,
      write: (bytes, start, count) => {
        const taken = Math.min(this.room, count);
        this.room -= taken;
        this.#output = Buffer.concat([this.#output, bytes.subarray(start, start + taken)]);
        return taken;
      },
      send: () => 0,
      pause: () => void (this.reading = false),
      resume: () => void (this.reading = true),
      shutdown: () => void (this.shut = true),
      end: () => {
        this.shut = this.ended = true;
        this.events.closed();
      },
      reset: () => {
        this.wasReset = this.shut = this.ended = true;
        this.events.closed();
      },
      handOver: () => {},
      closed: () => {},
      release: () => {},
    };
    this.event(() => this.events.connected(transport));
  }

  failed(): void {
    this.event(() => this.events.failed("unreachable", "connection refused"));
  }

  say(bytes: string): void {
    this.event(() => this.events.data(Buffer.from(bytes, "latin1")));
  }

  drain(): void {
    this.room = Number.POSITIVE_INFINITY;
    this.event(() => this.events.drain());
  }

  end(): void {
    this.event(() => this.events.end());
  }

  closed(isReset = false): void {
    this.event(() => this.events.closed(isReset));
  }

  read(): Buffer {
    const output = this.#output;
    this.#output = Buffer.alloc(0);
    return output;
  }

  /** Proves what it is; what it and the other side have said. */
  #prove({ secret, shard, epoch }: Greeting): HandshakeFields {
    if (this.#output.length === 0) this.connected();
    const [first = "", ...more] = this.read().toString().split("\n");
    const said = { first, shard, epoch, ownerNonce: newNonce() };
    if (more.join() === "") this.say(`owner ${shard} ${epoch} ${said.ownerNonce} ${proofOf("owner", secret, said)}\n`);
    return said;
  }

  /** The handshake of a link: its first line without the nonce, and the lines after a right proof. */
  greetLink({ secret = SECRET, shard = this.owner.shard, epoch = this.owner.epoch }: Partial<Greeting> = {}): string[] {
    const said = this.#prove({ secret, shard, epoch });
    const proof = proofOf("dialer", SECRET, said);
    const lines = this.lines().map((line) => (line === `proof ${proof}` ? "the right proof" : line));
    return [said.first.replace(/ \S{22} /, " <nonce> "), ...lines];
  }

  /** Complete lines that were written since the last call. */
  lines(): string[] {
    const lines = this.#output.toString("latin1").split("\n");
    this.#output = Buffer.from(lines.pop()!, "latin1");
    return lines;
  }

  /** The handshake, and the bytes after it without the PROXY header, which names the client. */
  greet({ secret = SECRET, shard = this.owner.shard, epoch = this.owner.epoch }: Partial<Greeting> = {}): {
    proof: string;
    address: string | null;
    isEncrypted: boolean;
    waited: Waited | null;
    bytes: string;
  } {
    const said = this.#prove({ secret, shard, epoch });
    const output = this.read();
    const lf = output.indexOf(10);
    const expected = `proof ${proofOf("dialer", SECRET, said)}`;
    const header = lf < 0 ? null : parseProxyHeader(output.subarray(lf + 1));
    return {
      proof: lf >= 0 && output.toString("latin1", 0, lf) === expected ? "right" : output.toString("latin1"),
      address: header?.address ?? null,
      isEncrypted: header?.isEncrypted ?? false,
      waited: header?.waited ?? null,
      bytes: header === null ? "" : output.toString("latin1", lf + 1 + header.bytes),
    };
  }
}
