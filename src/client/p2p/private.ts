import { type Certificate, newCertificate, safetyNumber } from "./certificate.ts";
import type { IntroductionEvent, PrivateEvent } from "../event.ts";
import { type ConnectionAuthorizer, Listener } from "./listener.ts";
import { PeerConnection } from "./peer-connection.ts";
import { ChatError, warnOnFailure } from "../errors.ts";
import { emitWarning } from "../warning.ts";
import { Backoff } from "../retry.ts";
import { PRIVATE_AUTH_MS } from "../../limits.ts";
import { connect } from "node:tls";

/** Consecutive failures after which the client stops connecting by itself. */
const FAILURES_MAX = 4;
/** A connection that breaks sooner than this counts as a failure. */
const STABLE_MS = 5_000;

/** The server's introduction of another client. It holds until the server sends `denied` or the session ends. */
interface Introduction {
  user: string;
  ticket: string;
  /** Certificate of the user, as base64. */
  key: string;
  /** Where this client connects to; null when the other client connects. */
  address: { host: string; port: number } | null;
  connection: PeerConnection | null;
  /** Connections that failed, or broke within STABLE_MS, since the last stable one. */
  failures: number;
  /** The connection attempt in progress. */
  connecting: Promise<PeerConnection> | null;
}

/**
 * The private chats of one client (docs/protocol.md, Private chat): requests and answers, and the connections in both
 * directions. The server introduces two clients and gives each the certificate of the other. Texts go directly between
 * the clients, and only over a connection whose peer has that certificate's key.
 */
export class PrivateChats implements ConnectionAuthorizer {
  readonly #request: (line: string) => Promise<string>;
  readonly #emit: (event: PrivateEvent) => unknown;
  readonly #report: (event: PrivateEvent) => void;
  readonly #reachableAddress: (address: string) => string;
  #user = "";
  #listener: Listener | null = null;
  /** Created when it is first needed, and kept until the program ends. */
  #certificate: Certificate | null = null;
  #newCertificate: Promise<Certificate> | null = null;
  /** Requests of this client without an answer, by user. */
  readonly #unanswered = new Map<string, PromiseWithResolvers<void>>();
  /** Users whose request was accepted, until `expect` arrives. They may connect before it does. */
  readonly #accepted = new Map<string, PromiseWithResolvers<void>>();
  /** Introductions to users that this client connects to, and to users that connect to it. */
  readonly #outgoing = new Map<string, Introduction>();
  readonly #incoming = new Map<string, Introduction>();

  /**
   * `request` sends a request to the server. `emit` gives the application an event of the server, `report` one that
   * is not the server's: nothing waits for its acknowledgement, so a failure is only a warning. `reachableAddress`
   * turns an address of the server's into one that can be reached from here.
   */
  constructor(
    request: (line: string) => Promise<string>,
    emit: (event: PrivateEvent) => unknown,
    report = (event: PrivateEvent): void => warnOnFailure(() => emit(event), emitWarning),
    reachableAddress = (address: string): string => address,
  ) {
    this.#request = request;
    this.#emit = emit;
    this.#report = report;
    this.#reachableAddress = reachableAddress;
  }

  /** The certificate of this client; null while no caller is expected. */
  get certificate(): Certificate | null {
    return this.#accepted.size + this.#incoming.size > 0 ? this.#certificate : null;
  }

  /** Listens on a port; 0 takes a free one. Resolves with the port. Rejects with the system's error. */
  async listen(port: number): Promise<number> {
    this.#listener ??= await Listener.open(port, this);
    return this.#listener.port;
  }

  /** Closes the port for incoming private chats. */
  stopListening(): void {
    this.#listener?.close();
    this.#listener = null;
  }

  /** A session of this user begins. The server's introductions in an earlier session no longer hold. */
  sessionBegan(user: string): void {
    this.#user = user;
    const others = [...this.#unanswered.keys(), ...this.#introductions().map((introduction) => introduction.user)];
    for (const user of others) warnOnFailure(() => this.handle({ kind: "denied", user }), emitWarning);
    this.#accepted.clear();
  }

  /** Asks a user for a private chat. The answer arrives as an event. */
  async ask(user: string): Promise<void> {
    const question = Promise.withResolvers<void>();
    question.promise.catch(() => {}); // Only `send` waits for it; others get the event.
    // Added before the server's reply: in a callback session the answer may arrive first.
    if (!this.#unanswered.has(user)) this.#unanswered.set(user, question);
    try {
      await this.#request(`getaddress ${user} ${await this.#ownKey()}`);
    } catch (error) {
      if (this.#unanswered.get(user) === question) this.#unanswered.delete(user);
      question.reject(error);
      throw error;
    }
  }

  /** Answers the request of a user. */
  async answer(user: string, yes: boolean): Promise<void> {
    if (!yes) return void (await this.#request(`private_answer ${user} no`));
    const key = await this.#ownKey();
    if (!this.#accepted.has(user)) this.#accepted.set(user, Promise.withResolvers());
    try {
      await this.#request(`private_answer ${user} yes ${key}`);
    } catch (error) {
      this.#accepted.get(user)?.resolve();
      this.#accepted.delete(user);
      throw error;
    }
  }

  /**
   * Sends a text directly to a user. Waits for the answer to `ask` if there is none yet. Rejects with `not_introduced`,
   * `denied`, `wrong_certificate`, `line_too_long`, or `gone` when the user cannot be reached.
   */
  async send(user: string, text: string): Promise<void> {
    if (!this.#outgoing.has(user) && !this.#incoming.get(user)?.connection) await this.#unanswered.get(user)?.promise;
    const [outgoing, incoming] = [this.#outgoing.get(user), this.#incoming.get(user)];
    if (outgoing === undefined && incoming === undefined) throw new ChatError("not_introduced");
    let connection = outgoing?.connection ?? incoming?.connection ?? null;
    if (outgoing !== undefined) connection ??= await this.#connect(outgoing);
    if (connection === null) throw new ChatError("gone"); // Only the other client can connect.
    await connection.send(`message ${text}`);
  }

  /** The safety number of a private chat. Throws `not_introduced` when there is none. */
  safetyNumber(user: string): string {
    const introduction = this.#outgoing.get(user) ?? this.#incoming.get(user);
    if (introduction === undefined || this.#certificate === null) throw new ChatError("not_introduced");
    return safetyNumber(this.#certificate.base64, introduction.key);
  }

  /** Handles an event of the server about private chats. Returns what the event handler of the application returns. */
  handle(event: IntroductionEvent): unknown {
    const { user } = event;
    switch (event.kind) {
      case "private_request": {
        // Without the certificate of the other client, the caller could not be authenticated.
        if (event.key === "") void this.answer(user, false).catch(() => {});
        return this.#emit({ kind: "asked", user, encrypted: event.key !== "" });
      }
      case "address": {
        const { key, ticket, host, port } = event;
        const question = this.#unanswered.get(user);
        this.#unanswered.delete(user);
        const handled = this.#emit({ kind: "agreed", user, host, port, encrypted: key !== "" });
        if (key === "") question?.reject(new ChatError("denied"));
        else this.#introduce(this.#outgoing, user, ticket, key, { host, port });
        question?.resolve(); // No effect after the rejection.
        return handled;
      }
      case "expect": {
        const { key, ticket } = event;
        const accepted = this.#accepted.get(user);
        const isInvited = key !== "" && accepted !== undefined;
        if (isInvited) this.#introduce(this.#incoming, user, ticket, key, null);
        this.#accepted.delete(user);
        accepted?.resolve();
        return isInvited ? this.#emit({ kind: "invited", user }) : undefined;
      }
      case "denied": {
        const question = this.#unanswered.get(user);
        if (question !== undefined) {
          this.#unanswered.delete(user);
          question.reject(new ChatError("denied"));
          return this.#emit({ kind: "denied", user });
        }
        const ended = this.#introductions().filter((introduction) => introduction.user === user);
        for (const introduction of ended) this.#remove(introduction);
        return ended.length > 0 ? this.#emit({ kind: "parted", user }) : undefined;
      }
    }
  }

  /** Accepts a caller whose first line is `private <name> <ticket>` and who has the certificate of that user. */
  async admit(connection: PeerConnection, firstLine: string): Promise<boolean> {
    const [verb = "", user = "", ticket = "", ...more] = firstLine.split(" ");
    if (verb !== "private" || more.length > 0) return false;
    await this.#accepted.get(user)?.promise;
    const introduction = this.#incoming.get(user);
    const isInvited = introduction?.key === connection.key && introduction.ticket === ticket;
    if (introduction === undefined || !isInvited) return false;
    introduction.connection?.destroy(); // The caller has lost it, or it would not connect again.
    await connection.send("ok");
    if (!this.#isValid(introduction)) return false;
    void this.#receive(introduction, connection);
    return true;
  }

  /** Closes the port, and all connections after everything was sent. */
  async end(): Promise<void> {
    this.stopListening();
    for (const introduction of this.#introductions()) introduction.failures = FAILURES_MAX;
    await Promise.all(this.#introductions().map(({ connection }) => connection?.end()));
    this.#outgoing.clear();
    this.#incoming.clear();
  }

  async #ownKey(): Promise<string> {
    this.#certificate ??= await (this.#newCertificate ??= newCertificate(this.#user));
    return this.#certificate.base64;
  }

  #introductions(): Introduction[] {
    return [...this.#outgoing.values(), ...this.#incoming.values()];
  }

  /** A newer introduction in the same direction replaces an older one. A connection of the same user is kept. */
  #introduce(
    to: Map<string, Introduction>,
    user: string,
    ticket: string,
    key: string,
    address: Introduction["address"],
  ): void {
    const earlier = to.get(user);
    if (earlier?.key === key) {
      Object.assign(earlier, { ticket, address, failures: 0 });
      if (address !== null && earlier.connection === null) void this.#keepConnected(earlier);
      return;
    }
    void earlier?.connection?.end();
    const introduction = { user, ticket, key, address, connection: null, failures: 0, connecting: null };
    to.set(user, introduction);
    if (address !== null) void this.#keepConnected(introduction);
  }

  #remove(introduction: Introduction): void {
    this.#mapOf(introduction).delete(introduction.user);
    void introduction.connection?.end();
  }

  #isValid(introduction: Introduction): boolean {
    return this.#mapOf(introduction).get(introduction.user) === introduction;
  }

  #mapOf({ address }: Introduction): Map<string, Introduction> {
    return address === null ? this.#incoming : this.#outgoing;
  }

  /** Connects at once, so that both users can write first, and again when the connection breaks. */
  async #keepConnected(introduction: Introduction): Promise<void> {
    const { user } = introduction;
    const backoff = new Backoff(Math.max(0, introduction.failures - 1));
    while (introduction.failures < FAILURES_MAX) {
      if (introduction.failures > 0) await backoff.next();
      if (!this.#isValid(introduction) || introduction.connection !== null) return;
      try {
        return void (await this.#connect(introduction));
      } catch (error) {
        if ((error as ChatError).code === "wrong_certificate") return this.#report({ kind: "impostor", user });
        introduction.failures++;
      }
    }
    if (this.#isValid(introduction)) this.#report({ kind: "unreachable", user });
  }

  #connect(introduction: Introduction): Promise<PeerConnection> {
    introduction.connecting ??= this.#dial(introduction).finally(() => (introduction.connecting = null));
    return introduction.connecting;
  }

  async #dial(introduction: Introduction): Promise<PeerConnection> {
    const { key, pem: cert } = this.#certificate!;
    const options = { rejectUnauthorized: false, minVersion: "TLSv1.3", key, cert } as const;
    const { host, port } = introduction.address!;
    const socket = connect({ host: this.#reachableAddress(host), port, ...options });
    const connection = new PeerConnection(socket);
    const deadline = setTimeout(() => connection.destroy(), PRIVATE_AUTH_MS);
    try {
      const secured = new Promise((resolve) => socket.once("secureConnect", resolve));
      await Promise.race([secured, connection.closed]);
      if (connection.key === "") throw new ChatError("gone");
      if (connection.key !== introduction.key) throw new ChatError("wrong_certificate");
      await connection.send(`private ${this.#user} ${introduction.ticket}`);
      const { value } = await connection.lines.next();
      if (value !== "ok" || !this.#isValid(introduction)) throw new ChatError("gone");
      void this.#receive(introduction, connection);
      return connection;
    } catch (error) {
      connection.destroy();
      throw error;
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Emits the texts of a connection until it ends. */
  async #receive(introduction: Introduction, connection: PeerConnection): Promise<void> {
    introduction.connection = connection;
    const sinceMs = performance.now();
    for await (const line of connection.lines) {
      if (!this.#isValid(introduction)) continue;
      if (line.startsWith("message ") && line.length > "message ".length) {
        this.#report({ kind: "private", from: introduction.user, text: line.slice("message ".length) });
      }
    }
    connection.destroy();
    if (introduction.connection !== connection) return;
    introduction.connection = null;
    introduction.failures = performance.now() - sinceMs > STABLE_MS ? 0 : introduction.failures + 1;
    if (this.#isValid(introduction) && introduction.address !== null) void this.#keepConnected(introduction);
  }
}
