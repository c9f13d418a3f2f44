/**
 * Clients of the backup test: each sender numbers its messages to one recipient who is online and acknowledges, and to
 * one who comes and goes. It knows how far each flow of messages was accepted and acknowledged.
 */
import type { Socket } from "bun";

export const PASSWORD = "secret";
const SENDERS = 8;
/** Recipients who come and go, and share the senders. */
const GUESTS = 2;
/** One message of this many goes to the guest. */
const GUEST_EACH = 10;
const TICK_MS = 5;
const ACK_MS = 50;
const AWAY_MS = 700;
const STAY_MS = 400;
/** A sender waits while this many requests have no reply. */
const UNANSWERED_MAX = 4_000;
const PADDING = "x".repeat(24);

/** Messages of one sender to one recipient are numbered from 1. */
export interface Bounds {
  from: string;
  to: string;
  /** Every message up to this number had its `ok`. */
  accepted: number;
  /** The server has confirmed the acknowledgement of every message up to this number. */
  acked: number;
  /** No message above this number was acknowledged. */
  ackedMax: number;
}

export const USERS = [
  ...Array.from({ length: SENDERS }, (_, index) => `s${index}`),
  ...Array.from({ length: SENDERS }, (_, index) => `r${index}`),
  ...Array.from({ length: GUESTS }, (_, index) => `g${index}`),
];

/** A connection that calls `onLine` for each line. */
class Connection {
  #socket!: Socket<undefined>;
  #rest = "";
  #unsent = Buffer.alloc(0);

  static async open(port: number, onLine: (line: string) => void, onEnd: () => void): Promise<Connection> {
    const connection = new Connection();
    await Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        open: (socket) => void (connection.#socket = socket),
        data: (_socket, chunk) => {
          const lines = (connection.#rest + chunk.toString("latin1")).split("\n");
          connection.#rest = lines.pop()!;
          for (const line of lines) onLine(line);
        },
        drain: () => connection.#flush(),
        close: onEnd,
      },
    });
    return connection;
  }

  send(text: string): void {
    this.#unsent = Buffer.concat([this.#unsent, Buffer.from(text, "latin1")]);
    this.#flush();
  }

  #flush(): void {
    const written = this.#socket.write(this.#unsent);
    this.#unsent = this.#unsent.subarray(Math.max(0, written));
  }

  close(): void {
    this.#socket.end();
  }
}

/** Sends to its recipient and its guest in turn. Replies come in the order of the requests. */
class Sender {
  readonly name: string;
  readonly #to: string;
  readonly #guest: string;
  #connection!: Connection;
  #sent = 0;
  accepted = 0;

  constructor(index: number) {
    this.name = `s${index}`;
    this.#to = `r${index}`;
    this.#guest = `g${index % GUESTS}`;
  }

  async login(port: number, fail: (why: string) => void): Promise<void> {
    const ready = Promise.withResolvers<void>();
    const onLine = (line: string): void => {
      if (line === "ok sent" || line === "ok stored") this.accepted++;
      else if (line.startsWith("ok ")) ready.resolve();
      else if (line.startsWith("err ")) fail(`${this.name} received ${line}`);
    };
    this.#connection = await Connection.open(port, onLine, () => fail(`${this.name} was disconnected`));
    this.#connection.send(`login ${this.name} ${PASSWORD}\n`);
    await ready.promise;
  }

  send(count: number): void {
    if (this.#sent - this.accepted > UNANSWERED_MAX) return;
    let lines = "";
    for (let i = 0; i < count; i++) {
      const toGuest = this.#sent % GUEST_EACH === GUEST_EACH - 1;
      this.#sent++;
      const guestMessages = Math.floor(this.#sent / GUEST_EACH);
      const [to, number] = toGuest ? [this.#guest, guestMessages] : [this.#to, this.#sent - guestMessages];
      lines += `message ${to} ${number} ${PADDING}\n`;
    }
    this.#connection.send(lines);
  }

  /** The flows, without what their recipients have acknowledged. */
  get flows(): Omit<Bounds, "acked" | "ackedMax">[] {
    const guestMessages = Math.floor(this.accepted / GUEST_EACH);
    return [
      { from: this.name, to: this.#to, accepted: this.accepted - guestMessages },
      { from: this.name, to: this.#guest, accepted: guestMessages },
    ];
  }
}

/** Acknowledges what it receives in resumable sessions, one after another. */
class Recipient {
  readonly name: string;
  readonly #fail: (why: string) => void;
  #connection: Connection | null = null;
  #isClosed = false;
  /** Position in the server's stream; -1 before the reply to the login. */
  #position = -1;
  /** By sender: the last message that was received, acknowledged, confirmed as acknowledged. */
  readonly #received = new Map<string, number>();
  readonly ackedMax = new Map<string, number>();
  readonly acked = new Map<string, number>();
  /** What each `alive` or `logout` without a reply has acknowledged. */
  readonly #unanswered: Map<string, number>[] = [];

  constructor(name: string, fail: (why: string) => void) {
    this.name = name;
    this.#fail = fail;
  }

  async login(port: number): Promise<void> {
    const ready = Promise.withResolvers<void>();
    this.#position = -1;
    this.#isClosed = false;
    const onLine = (line: string): void => {
      if (this.#position < 0) {
        if (!line.startsWith("ok ")) return this.#fail(`${this.name} received ${line}`);
        this.#position = 0;
        return ready.resolve();
      }
      this.#position += line.length + 1;
      this.#take(line);
    };
    this.#connection = await Connection.open(port, onLine, () => this.#closed());
    this.#connection.send(`login ${this.name} ${PASSWORD} resumable\n`);
    await ready.promise;
  }

  #take(line: string): void {
    const [verb, from = "", ...words] = line.split(" ");
    if (verb === "ok") {
      for (const [sender, number] of this.#unanswered.shift() ?? []) this.acked.set(sender, number);
    } else if (verb === "message" || verb === "stored") {
      const number = Number(words[verb === "stored" ? 1 : 0]);
      const last = this.#received.get(from) ?? 0;
      if (number !== last + 1) this.#fail(`${this.name} received message ${number} of ${from} after ${last}`);
      this.#received.set(from, number);
    } else if (verb === "err" || verb === "goodbye") this.#fail(`${this.name} received ${line}`);
  }

  #closed(): void {
    this.#isClosed = true;
    if (this.#connection !== null) this.#fail(`${this.name} was disconnected`);
  }

  /** Acknowledges with `alive`, or at the end with `logout`. */
  ack(verb: "alive" | "logout" = "alive"): void {
    if (this.#connection === null || this.#position < 0) return;
    const all = new Map(this.#received);
    for (const [sender, number] of all) this.ackedMax.set(sender, number);
    this.#unanswered.push(all);
    this.#connection.send(`${verb} ${this.#position}\n`);
  }

  async logout(): Promise<void> {
    const connection = this.#connection!;
    this.ack("logout");
    this.#connection = null;
    while (this.#unanswered.length > 0 && !this.#isClosed) await Bun.sleep(TICK_MS);
    connection.close();
    for (const [sender, number] of this.acked) this.#received.set(sender, number);
  }
}

/** All clients. `failed` rejects at the first error. */
export class Load {
  readonly failed: Promise<never>;
  readonly #fail: (why: string) => void;
  readonly #senders: Sender[];
  readonly #recipients: Recipient[];
  readonly #guests: Recipient[];
  #timers: Timer[] = [];
  #isOver = false;

  constructor() {
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.failed = promise;
    this.#fail = (why) => void (this.#isOver || reject(new Error(why)));
    this.#senders = Array.from({ length: SENDERS }, (_, index) => new Sender(index));
    this.#recipients = this.#senders.map((_, index) => new Recipient(`r${index}`, this.#fail));
    this.#guests = Array.from({ length: GUESTS }, (_, index) => new Recipient(`g${index}`, this.#fail));
  }

  /** Logs in, and sends `rate` messages per second from then on. */
  async start(port: number, rate: number): Promise<void> {
    for (const recipient of this.#recipients) await recipient.login(port);
    for (const sender of this.#senders) await sender.login(port, this.#fail);
    const beganMs = performance.now();
    let sent = 0;
    const send = (): void => {
      const due = Math.floor(((performance.now() - beganMs) / 1000) * (rate / SENDERS)) - sent;
      sent += due;
      for (const sender of this.#senders) sender.send(due);
    };
    const ack = (): void => {
      for (const recipient of [...this.#recipients, ...this.#guests]) recipient.ack();
    };
    this.#timers = [setInterval(send, TICK_MS), setInterval(ack, ACK_MS)];
    for (const guest of this.#guests) void this.#comeAndGo(guest, port).catch((error) => this.#fail(String(error)));
  }

  async #comeAndGo(guest: Recipient, port: number): Promise<void> {
    for (;;) {
      await Bun.sleep(AWAY_MS);
      if (this.#isOver) return;
      await guest.login(port);
      await Bun.sleep(STAY_MS);
      await guest.logout();
    }
  }

  get bounds(): Bounds[] {
    const recipients = new Map([...this.#recipients, ...this.#guests].map((each) => [each.name, each]));
    return this.#senders.flatMap(({ flows }) =>
      flows.map((flow) => {
        const { acked, ackedMax } = recipients.get(flow.to)!;
        return { ...flow, acked: acked.get(flow.from) ?? 0, ackedMax: ackedMax.get(flow.from) ?? 0 };
      }),
    );
  }

  get accepted(): number {
    return this.#senders.reduce((sum, { accepted }) => sum + accepted, 0);
  }

  stop(): void {
    this.#isOver = true;
    this.#timers.forEach(clearInterval);
  }
}
