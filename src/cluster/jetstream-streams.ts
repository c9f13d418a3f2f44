/**
 * The connection to NATS and the few operations on JetStream streams that the shared log is made of. Every answer comes
 * from the leader of a stream: appends compare the last sequence number when they are applied, and reads use the API
 * that only leaders serve (never direct get, which followers serve; ADR-31).
 *
 * Errors: ClusterError when repeating cannot help, those of jetstream-errors.ts, and Error for everything whose outcome
 * is unknown.
 */
import {
  jetstream,
  jetstreamManager,
  type JetStreamClient,
  type JetStreamManager,
  type StreamConfig,
} from "@nats-io/jetstream";
import {
  connect,
  createInbox,
  headers as createHeaders,
  type Msg,
  type NatsConnection,
  nanos,
} from "@nats-io/transport-node";
import { StreamEnds } from "./jetstream-ends.ts";
import { checkVersion, connectionError, Refused, StreamMissing, translate, Unserved } from "./jetstream-errors.ts";
import { ClusterError } from "./shared-log.ts";
import type { NatsUrl } from "./nats-url.ts";

export interface StoredMessage {
  sequence: number;
  subject: string;
  data: Uint8Array;
  /** The value of the header `INFO_HEADER`; empty without one. */
  info: string;
}

/** `last` is the sequence number of the last message, as a refused append found it. */
export type PublishResult = { stored: true } | { stored: false; last: number };

/** A text that an append carries besides its data. */
const INFO_HEADER = "Heartline-Info";

/**
 * Time after which the outcome of a call counts as unknown. A call to a stream that elects a leader (4 to 9 s after the
 * death of the old one) is lost, so the next one must not be late; a single server may only be slow.
 */
const CALL_MS = 3000;
const CALL_REPLICATED_MS = 1000;
/** The same for calls that create and delete. */
const CHANGE_MS = 5000;
/** The same for a connection to one of the servers. */
const CONNECT_MS = 3000;
/** A pause after an answer of a server that is starting, which repeats would only keep busy. */
const STARTING_MS = 250;
/** A server that does not answer a ping within twice this time is left for the next one. */
const PING_MS = 2000;
/** Bytes of one request for messages, and the time in which the server collects them. */
const PULL_BYTES = 8 << 20;
const PULL_MS = 2000;
/** The server forgets a reader after this time. */
const CONSUMER_MS = 60_000;
/** Up to this number of messages are read one by one, without a consumer. */
const FEW = 8;
/** No stream has so many messages: an append that expects it is refused. */
const NEVER = Number.MAX_SAFE_INTEGER;
/** For headers of a message: expectation, name of the stream, information. */
const HEADER_BYTES = 1024;
const MESSAGE_BYTES_MAX = 1 << 20;

export class Streams {
  readonly engine: string;
  readonly recordBytesMax: number;
  /** What an operator should change, one line each. */
  readonly warnings: string[];
  /** Copies of each stream that `create` makes. */
  replicas = 1;
  readonly isClustered: boolean;
  readonly #connection: NatsConnection;
  readonly #manager: JetStreamManager;
  readonly #client: JetStreamClient;
  readonly #isProtected: boolean;
  readonly #ends = new StreamEnds();
  /** What rejects the calls that wait for an answer. */
  readonly #calls = new Set<(error: Error) => void>();
  #state: "connected" | "reconnecting" | "closed" = "connected";

  private constructor(connection: NatsConnection, manager: JetStreamManager, isProtected: boolean) {
    const { version, max_payload } = connection.info!;
    this.engine = `NATS JetStream ${version}`;
    this.recordBytesMax = Math.min(max_payload, MESSAGE_BYTES_MAX) - HEADER_BYTES;
    // It is in the answer of clustered servers only, and the library's type lacks it.
    this.isClustered = (connection.info as { cluster?: string }).cluster !== undefined;
    this.warnings = checkVersion(version);
    this.#connection = connection;
    this.#manager = manager;
    this.#client = jetstream(connection, { timeout: CHANGE_MS });
    this.#isProtected = isProtected;
    void this.#watch();
  }

  /** `isProtected` false: tests may delete single messages. */
  static async connect({ servers, user, password }: NatsUrl, isProtected = true): Promise<Streams> {
    const login = password === undefined ? { token: user } : { user, pass: password };
    let connection: NatsConnection;
    try {
      connection = await connect({
        servers,
        ...(user === undefined ? {} : login),
        name: "heartline",
        timeout: CONNECT_MS,
        pingInterval: PING_MS,
        maxPingOut: 2,
        maxReconnectAttempts: -1,
        reconnectTimeWait: 200,
        reconnectJitter: 100,
        ignoreAuthErrorAbort: true,
        // Addresses that servers tell are seldom in their certificates, and that error would hide the real one.
        ignoreClusterUpdates: true,
        noAsyncTraces: true,
      });
    } catch (error) {
      throw connectionError(error, servers);
    }
    try {
      const manager = await jetstreamManager(connection, { timeout: CHANGE_MS, checkAPI: false });
      return new Streams(connection, manager, isProtected);
    } catch (error) {
      await connection.close();
      throw error;
    }
  }

  /** Rejects with ClusterError when the server has no JetStream for this user. */
  async checkJetStream(): Promise<void> {
    try {
      await this.#call("", () => this.#manager.getAccountInfo());
    } catch (error) {
      if (!(error instanceof Unserved)) throw error;
      throw new ClusterError(
        `NATS at ${this.#connection.getServer()} has no JetStream for this user: it is not enabled; ` +
          "start nats-server with jetstream, and enable it for the account",
      );
    }
  }

  /** Creates a stream with messages of these subjects. Nothing changes when it exists already. */
  async create(name: string, subjects: string, settings: Partial<StreamConfig> = {}): Promise<void> {
    const isProtected = this.#isProtected ? { deny_delete: true, deny_purge: true } : {};
    const config = {
      name,
      subjects: [subjects],
      storage: "file",
      discard: "new",
      num_replicas: this.replicas,
      ...isProtected,
      ...settings,
    };
    await this.#call(name, () => this.#manager.streams.add(config as StreamConfig), CHANGE_MS);
  }

  /** Deletes a stream; one that does not exist is no error. */
  async delete(name: string): Promise<void> {
    try {
      await this.#call(name, () => this.#manager.streams.delete(name), CHANGE_MS);
    } catch (error) {
      if (!(error instanceof StreamMissing)) throw error;
    }
    this.#ends.forget(name);
  }

  /** The names of all streams with these subjects. */
  async names(subjects: string): Promise<string[]> {
    const found: string[] = [];
    const lister = this.#manager.streams.names(subjects);
    for (;;) {
      const page = await this.#call(subjects, () => lister.next(), CHANGE_MS);
      if (page.length === 0) return found;
      found.push(...page);
    }
  }

  /** Appends a message if the last one has the sequence number `expected`, and resolves when it is stored. */
  async publish(
    stream: string,
    subject: string,
    expected: number,
    data: Uint8Array,
    info?: string,
  ): Promise<PublishResult> {
    if (data.length > this.recordBytesMax)
      throw new ClusterError(`a record has ${data.length} bytes: more than ${this.recordBytesMax} cannot be stored`);
    const before = this.#ends.of(stream);
    const headers = createHeaders();
    if (info !== undefined) headers.set(INFO_HEADER, info);
    const expect = { streamName: stream, lastSequence: expected };
    try {
      const ack = await this.#call(stream, () => this.#client.publish(subject, data, { headers, expect }));
      if (ack.stream !== stream || ack.seq !== expected + 1)
        throw new Error(`NATS acknowledged message ${ack.seq} of ${ack.stream}, not ${expected + 1} of ${stream}`);
      this.#note(stream, ack.seq, before);
      return { stored: true };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.#note(stream, error.last, before);
      return { stored: false, last: error.last };
    }
  }

  /** Rejects with ClusterError when the user may not publish to the subject. The stream need not exist. */
  async checkPublish(stream: string, subject: string): Promise<void> {
    try {
      await this.publish(stream, subject, NEVER, new Uint8Array());
    } catch (error) {
      if (!(error instanceof Unserved)) throw error;
    }
  }

  /** The sequence number of the last message, 0 for an empty stream, and the size of the stream. */
  async last(stream: string): Promise<{ last: number; bytes: number }> {
    const before = this.#ends.of(stream);
    const { state } = await this.#call(stream, () => this.#manager.streams.info(stream));
    this.#note(stream, state.last_seq, before);
    return { last: state.last_seq, bytes: state.bytes };
  }

  /** A message; null when there is none with this number. */
  async get(stream: string, sequence: number): Promise<StoredMessage | null> {
    return this.#get(stream, { seq: sequence });
  }

  /** The last message of a subject; null without one. */
  async latest(stream: string, subject: string): Promise<StoredMessage | null> {
    const before = this.#ends.of(stream);
    const message = await this.#get(stream, { last_by_subj: subject });
    this.#note(stream, message?.sequence ?? 0, before);
    return message;
  }

  /** Messages `from` to `upTo`, which exist, in order. Rejects with ClusterError when one of them is missing. */
  async *read(stream: string, from: number, upTo: number): AsyncGenerator<StoredMessage> {
    if (upTo - from < FEW) {
      for (let next = from; next <= upTo; next++) {
        const message = await this.get(stream, next);
        if (message === null) throw await this.#missing(stream, next);
        yield message;
      }
      return;
    }
    const config = {
      ack_policy: "none",
      deliver_policy: "by_start_sequence",
      opt_start_seq: from,
      mem_storage: true,
      inactive_threshold: nanos(CONSUMER_MS),
    } as const;
    const consumer = await this.#call(stream, () => this.#manager.consumers.add(stream, config), CHANGE_MS);
    try {
      for (let next = from; next <= upTo;) {
        const begin = next;
        for await (const message of this.#pull(stream, consumer.name, upTo - next + 1)) {
          if (message.sequence !== next) throw await this.#missing(stream, next);
          yield message;
          next++;
        }
        if (next === begin) throw await this.#missing(stream, next);
      }
    } finally {
      this.#manager.consumers.delete(stream, consumer.name).catch(() => {}); // It ends by itself.
    }
  }

  get #callMs(): number {
    return this.replicas > 1 ? CALL_REPLICATED_MS : CALL_MS;
  }

  async close(): Promise<void> {
    this.#state = "closed";
    await this.#connection.close();
  }

  /** Up to `count` messages that the consumer delivers next, and not more than PULL_BYTES. */
  async *#pull(stream: string, consumer: string, count: number): AsyncGenerator<StoredMessage> {
    const inbox = createInbox();
    let arrived: Msg[] = [];
    let failure: Error | null = null;
    let notify = (): void => {};
    const subscription = this.#connection.subscribe(inbox, {
      callback: (error, message) => {
        failure = error;
        arrived.push(message);
        notify();
      },
    });
    const request = JSON.stringify({ batch: count, max_bytes: PULL_BYTES, expires: nanos(PULL_MS) });
    try {
      this.#connection.publish(`$JS.API.CONSUMER.MSG.NEXT.${stream}.${consumer}`, request, { reply: inbox });
      while (count > 0) {
        const messages = arrived;
        arrived = [];
        for (const message of messages) {
          if ((message.headers?.code ?? 0) >= 400) return; // The end of this request, for one of several reasons.
          yield received(message);
          count--;
        }
        if (count === 0 || arrived.length > 0) continue;
        const next = new Promise<void>((resolve) => (notify = resolve));
        await this.#call(stream, () => next, PULL_MS + CALL_MS);
        if (failure !== null) throw translate(failure, stream);
      }
    } finally {
      subscription.unsubscribe();
    }
  }

  async #get(stream: string, query: { seq: number } | { last_by_subj: string }): Promise<StoredMessage | null> {
    const message = await this.#call(stream, () => this.#manager.streams.getMessage(stream, query));
    if (message === null) return null;
    const { seq, subject, data, header } = message;
    return { sequence: seq, subject, data, info: header.get(INFO_HEADER) };
  }

  /** The error of a reader that did not get a message which should exist. */
  async #missing(stream: string, sequence: number): Promise<Error> {
    if ((await this.get(stream, sequence)) !== null) return new Error(`NATS did not deliver ${sequence} of ${stream}`);
    const { last } = await this.last(stream);
    return last < sequence && this.replicas > 1
      ? new Error(`message ${sequence} of stream ${stream} is not there yet`)
      : new ClusterError(`the log has a hole: message ${sequence} of stream ${stream} is missing; NATS has lost it`);
  }

  #note(stream: string, last: number, before: number): void {
    this.#ends.note(stream, last, before, this.replicas);
  }

  /** Runs a call of the library, and turns its errors into those of this class. */
  async #call<T>(stream: string, run: () => Promise<T>, ms = this.#callMs): Promise<T> {
    if (this.#state === "closed") throw new Error("the connection to NATS is closed");
    // The library would keep what is published now, and send it late.
    if (this.#state === "reconnecting") throw new Error("NATS cannot be reached");
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timer = setTimeout(() => reject(new Error(`no answer for ${ms} ms`)), ms);
    this.#calls.add(reject);
    run().then(resolve, reject);
    try {
      return await promise;
    } catch (error) {
      const translated = translate(error, stream);
      if (translated instanceof Unserved) await Bun.sleep(STARTING_MS);
      throw translated;
    } finally {
      clearTimeout(timer);
      this.#calls.delete(reject);
    }
  }

  /** The answers of calls that wait when the connection is lost do not arrive any more. */
  async #watch(): Promise<void> {
    for await (const { type } of this.#connection.status()) {
      if (this.#state === "closed") return;
      if (type === "reconnect") this.#state = "connected";
      if (type !== "disconnect") continue;
      this.#state = "reconnecting";
      for (const reject of this.#calls) reject(new Error("the connection was lost"));
    }
  }
}

/** The reply subject of a delivered message is $JS.ACK[.domain.account].stream.consumer.deliveries.sequence.… */
function received({ reply = "", subject, data, headers }: Msg): StoredMessage {
  const words = reply.split(".");
  return { sequence: Number(words[words.length > 9 ? 7 : 5]), subject, data, info: headers?.get(INFO_HEADER) ?? "" };
}
