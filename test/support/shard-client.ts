/** A client of a cluster that uses a resumable session, and keeps what docs/protocol.md tells it to keep. */
import { PASSWORD } from "./chat.ts";

/** A connection of a client. */
export interface ClientWire {
  /** Sends bytes. */
  feed(bytes: string): void;
  /** All that has arrived since the last call. */
  take(): string;
}

/** What a client needs of a cluster. */
export interface ShardServers<Server> {
  /** The owners, by shard. */
  readonly nodes: readonly Server[];
  connect(to: Server): ClientWire;
  /** What was sent arrives, where time is simulated. */
  later(): Promise<void>;
}

interface SentRequest {
  line: string;
  /** Position in the client's stream after the line. */
  end: number;
  /** Null while there is none; UNKNOWN: it was acted on, and the reply is lost. */
  reply: string | null;
}

export const UNKNOWN = "unknown";

export class ShardClient<Server extends object = object> {
  readonly name: string;
  readonly requests: SentRequest[] = [];
  /** Events without those of presence, in the order of their arrival, without times. */
  readonly events: string[] = [];
  readonly #cluster: ShardServers<Server>;
  readonly #shard: number;
  #node: Server | null = null;
  wire: ClientWire | null = null;
  #token = "";
  /** Takes the reply to the `login` or `resume`; null when it has come. Meanwhile no request is sent. */
  #greeted: ((words: string[]) => void) | null = null;
  #sent = 0;
  /** Position in the server's stream up to which the events are known. */
  received = 0;

  constructor(cluster: ShardServers<Server>, shard: number, name: string) {
    this.#cluster = cluster;
    this.#shard = shard;
    this.name = name;
  }

  /** Sends requests in one piece. */
  send(...lines: string[]): void {
    for (const line of lines) this.requests.push({ line, end: (this.#sent += line.length + 1), reply: null });
    if (this.#greeted === null) this.wire!.feed(lines.map((line) => `${line}\n`).join(""));
  }

  /** Connects to the owner of the shard: resumes the session, or begins a new one that continues it. */
  async connect(): Promise<void> {
    const node = this.#cluster.nodes[this.#shard]!;
    const isResumed = node === this.#node;
    const wire = (this.wire = this.#cluster.connect(node));
    const after = this.#token === "" ? "" : ` after=${this.#token}:${this.received}`;
    this.#greeted = (words) => {
      this.#node = node;
      this.#begin(words, isResumed);
    };
    wire.feed(`${isResumed ? this.#resume : `login ${this.name} ${PASSWORD} resumable${after}`}\n`);
    await this.#cluster.later();
    this.read();
  }

  /** The reply to the `login` or `resume` has come. */
  get isConnected(): boolean {
    return this.#greeted === null;
  }

  get #resume(): string {
    return `resume ${this.#token} ${this.received}`;
  }

  /** The words after the `ok` to a `login` or `resume`. */
  #begin(words: string[], isResumed: boolean): void {
    let acted = Number(words[0]);
    if (!isResumed) {
      acted = Number(words.find((word) => word.startsWith("received="))?.slice("received=".length) ?? 0);
      this.#token = words[0]!;
      this.received = this.#sent = 0;
    }
    this.#repeat(acted, isResumed);
  }

  /** What the server has not acted on is sent again. */
  #repeat(acted: number, isResumed: boolean): void {
    const open = this.requests.filter(({ reply }) => reply === null);
    const again = open.filter(({ end }) => end > acted);
    for (const request of open) {
      if (isResumed) continue;
      if (request.end <= acted) request.reply = UNKNOWN;
      else request.end = this.#sent += request.line.length + 1;
    }
    if (again.length > 0) this.wire!.feed(again.map(({ line }) => `${line}\n`).join(""));
  }

  /** Reads what has arrived. */
  read(): void {
    if (this.wire !== null) this.#take(this.wire.take());
  }

  #take(text: string): void {
    for (const line of text.split("\n").slice(0, -1)) {
      const greeted = this.#greeted;
      if (greeted !== null) {
        this.#greeted = null;
        const [ok, ...words] = line.split(" ");
        if (ok !== "ok") throw new Error(`${this.name}: ${line}`);
        greeted(words);
        continue;
      }
      this.received += line.length + 1;
      if (/^(ok|err)\b/.test(line)) this.requests.find(({ reply }) => reply === null)!.reply = line;
      else if (!/^(joined|left|waiting)\b/.test(line))
        this.events.push(line.replace(/^stored (\S+) \d+/, "message $1"));
    }
  }

  /** Of the first request with that line. */
  reply(line: string): string | null {
    return this.requests.find((request) => request.line === line)!.reply;
  }
}
