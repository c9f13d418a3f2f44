/**
 * Commands that concern other shards of a cluster: they go to the owners of these, to their cluster ports, and the
 * lines of their replies come back. An owner runs them as those of its own operator (connection.ts).
 */
import { ADMIN_REMOTE_BYTES_MAX, ADMIN_REMOTE_MS, LINE_BYTES_MAX } from "../limits.ts";
import type { Directory } from "../net/directory.ts";
import { type DialOwner, type LinkFailure, type LinkEvents, OwnerLink } from "../net/owner-link.ts";
import type { Transport } from "../net/transport.ts";
import type { AdminErrorCode } from "../protocol/admin.ts";
import { encode } from "../protocol/ascii.ts";
import { LineReader } from "../protocol/line-reader.ts";
import { shardOf } from "../protocol/shard.ts";
import { AdminError } from "./commands.ts";

export class ShardAdmin {
  readonly #directory: Directory;
  readonly #secret: Uint8Array;
  readonly #dial: DialOwner;

  constructor(directory: Directory, secret: Uint8Array, dial: DialOwner) {
    this.#directory = directory;
    this.#secret = secret;
    this.#dial = dial;
  }

  /** The shard of a user; null when this server owns it. */
  elsewhere(user: string): number | null {
    const { shards, home } = this.#directory;
    const bytes = encode(user);
    const shard = shardOf(bytes, 0, bytes.length, shards);
    return shard === home ? null : shard;
  }

  /** The shards that this server does not own. */
  get others(): number[] {
    return this.#directory.except(this.#directory.home);
  }

  /** Whether this server owns a shard. */
  get isOwner(): boolean {
    return this.#directory.home !== null;
  }

  /**
   * Sends a request (latin1, without LF) to the owner of a shard. Yields the lines before the last one of the reply,
   * and returns the words after `ok`. Throws AdminError.
   */
  async *ask(shard: number, request: string): AsyncGenerator<string, string> {
    const owner = this.#directory.ownerOf(shard);
    if (owner === null) throw new AdminError("busy", `no server owns shard ${shard} at the moment; try again`);
    const reply = new RemoteReply(shard, request);
    const link = new OwnerLink(owner, { secret: this.#secret, dial: this.#dial, self: "admin" }, reply, () => {});
    try {
      for (;;) {
        const line = await reply.next();
        const [, code, words = ""] = /^(ok|err)(?: (.*))?$/.exec(line) ?? [];
        if (code === "ok") return words;
        if (code === undefined) yield line;
        else {
          const space = `${words} `.indexOf(" ");
          throw new AdminError(words.slice(0, space) as AdminErrorCode, words.slice(space + 1));
        }
      }
    } finally {
      link.hangUp();
    }
  }
}

/** The lines of one reply, which are read as fast as they are taken. */
class RemoteReply implements LinkEvents {
  readonly #shard: number;
  readonly #request: string;
  readonly #reader = new LineReader(LINE_BYTES_MAX);
  readonly #lines: string[] = [];
  #bytes = 0;
  #transport: Transport | null = null;
  #isPaused = false;
  #failure: string | null = null;
  #wake: (() => void) | null = null;

  constructor(shard: number, request: string) {
    this.#shard = shard;
    this.#request = request;
  }

  /** Throws AdminError when the connection is over, or silent for ADMIN_REMOTE_MS. */
  async next(): Promise<string> {
    while (this.#lines.length === 0) {
      if (this.#failure !== null) throw new AdminError("failed", `shard ${this.#shard}: ${this.#failure}`);
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = setTimeout(() => this.#fail("its owner does not answer"), ADMIN_REMOTE_MS);
      await promise;
      clearTimeout(timer);
    }
    const line = this.#lines.shift()!;
    this.#bytes -= line.length;
    if (this.#isPaused && this.#bytes === 0) {
      this.#isPaused = false;
      this.#transport!.resume();
    }
    return line;
  }

  ready(transport: Transport, _epoch: number, proof: string): void {
    this.#transport = transport;
    const lines = Buffer.from(`proof ${proof}\n${this.#request}\n`, "latin1");
    // Both lines fit into the buffer of a new socket.
    transport.write(lines, 0, lines.length);
  }

  failed(_reason: LinkFailure, why: string): void {
    this.#fail(why);
  }

  data(chunk: Buffer): void {
    this.#reader.feed(chunk);
    while (this.#reader.next()) {
      const { bytes, start, end } = this.#reader;
      this.#lines.push(Buffer.from(bytes.subarray(start, end)).toString("latin1"));
      this.#bytes += end - start;
    }
    if (this.#bytes > ADMIN_REMOTE_BYTES_MAX && !this.#isPaused) {
      this.#isPaused = true;
      this.#transport!.pause();
    }
    this.#wake?.();
  }

  drain(): void {}

  end(): void {
    this.#fail("its owner closes the connection");
  }

  closed(): void {
    this.#fail("its owner closes the connection");
  }

  hangUp(): void {
    this.#fail("this server stops");
  }

  #fail(why: string): void {
    this.#failure ??= why;
    this.#wake?.();
  }
}
