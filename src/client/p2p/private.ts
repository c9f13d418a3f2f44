import { type Certificate, newCertificate, safetyNumber } from "./certificate.ts";
import type { IntroductionEvent, PrivateEvent } from "../event.ts";
import { type ConnectionAuthorizer, Listener } from "./listener.ts";
import { PeerConnection } from "./peer-connection.ts";
import { ChatError } from "../errors.ts";
import { Backoff } from "../retry.ts";
import { PRIVATE_AUTH_MS } from "../../limits.ts";
import { connect } from "node:tls";

/** How often in a row a call may fail, or a connection break soon, before it is not tried again by itself. */
const FAILURES_MAX = 4;
const SOON_MS = 5_000;

/** Two clients that the server has introduced to each other, for as long as it does not take that back. */
interface Introduction {
  user: string;
  ticket: string;
  /** The other's certificate, as base64. */
  key: string;
  /** Where to call; null when it is the other who calls. */
  address: { host: string; port: number } | null;
  line: PeerConnection | null;
  /** Calls that failed, or did not last, since the last one that did. */
  failures: number;
  /** A call under way. */
  call: Promise<PeerConnection> | null;
}

/**
 * Private chats of one client: asks for addresses, answers those who ask, calls and is called (docs/protocol.md,
 * Private chat). The server introduces; what is said goes from machine to machine, and only to who has shown the key of
 * the certificate that came with the introduction.
 */
export class PrivateChats implements ConnectionAuthorizer {
  readonly #request: (line: string) => Promise<string>;
  readonly #tell: (event: PrivateEvent) => void;
  readonly #reach: (address: string) => string;
  #user = "";
  #listener: Listener | null = null;
  /** Made when it is first needed, and kept for as long as the program runs. */
  #certificate: Certificate | null = null;
  #making: Promise<Certificate> | null = null;
  /** Questions that wait for the other's answer. */
  readonly #questions = new Map<string, PromiseWithResolvers<void>>();
  /** Those who were told yes, and may call before the server's word of that is here. */
  readonly #invited = new Map<string, PromiseWithResolvers<void>>();
  /** Whom this client calls, and who calls it. */
  readonly #callees = new Map<string, Introduction>();
  readonly #callers = new Map<string, Introduction>();

  /** `reach`: an address that the server gave, as it is reached from here. */
  constructor(
    request: (line: string) => Promise<string>,
    tell: (event: PrivateEvent) => void,
    reach = (address: string): string => address,
  ) {
    this.#request = request;
    this.#tell = tell;
    this.#reach = reach;
  }

  get certificate(): Certificate | null {
    return this.#invited.size + this.#callers.size > 0 ? this.#certificate : null;
  }

  /** Listens for callers at that port, 0 for a free one; returns which. Rejects with the system's error. */
  async listen(port: number): Promise<number> {
    this.#listener ??= await Listener.open(port, this);
    return this.#listener.port;
  }

  /** Nobody can call any more. */
  stopListening(): void {
    this.#listener?.close();
    this.#listener = null;
  }

  /** A session of that user begins: what the server had arranged in an earlier one is over. */
  begin(user: string): void {
    this.#user = user;
    for (const asked of [...this.#questions.keys()]) this.handle({ kind: "denied", user: asked });
    for (const { user: other } of this.#introductions()) this.handle({ kind: "denied", user: other });
    this.#invited.clear();
  }

  /** Asks for that user's address; their answer comes as an event. */
  async ask(user: string): Promise<void> {
    const question = Promise.withResolvers<void>();
    question.promise.catch(() => {}); // Whoever does not wait for it hears the event.
    // Before the server's reply: in a callback session the answer may overtake it.
    if (!this.#questions.has(user)) this.#questions.set(user, question);
    try {
      await this.#request(`getaddress ${user} ${await this.#key()}`);
    } catch (error) {
      if (this.#questions.get(user) === question) this.#questions.delete(user);
      question.reject(error);
      throw error;
    }
  }

  /** Answers that user's question. */
  async answer(user: string, yes: boolean): Promise<void> {
    if (!yes) return void (await this.#request(`private_answer ${user} no`));
    const key = await this.#key();
    if (!this.#invited.has(user)) this.#invited.set(user, Promise.withResolvers());
    try {
      await this.#request(`private_answer ${user} yes ${key}`);
    } catch (error) {
      this.#invited.get(user)?.resolve();
      this.#invited.delete(user);
      throw error;
    }
  }

  /**
   * Says something to that user directly, when they have answered if they were asked. Rejects with `not_introduced`,
   * `denied`, `wrong_certificate`, or `gone` when they cannot be reached.
   */
  async send(user: string, text: string): Promise<void> {
    if (!this.#callees.has(user) && !this.#callers.get(user)?.line) await this.#questions.get(user)?.promise;
    const [called, caller] = [this.#callees.get(user), this.#callers.get(user)];
    if (called === undefined && caller === undefined) throw new ChatError("not_introduced");
    const line = called?.line ?? caller?.line ?? (called === undefined ? null : await this.#call(called));
    if (line === null) throw new ChatError("gone"); // Only they can call.
    await line.send(`message ${text}`);
  }

  /** The number that both sides of a chat must have alike; `not_introduced` when there is none. */
  safetyNumber(user: string): string {
    const introduction = this.#callees.get(user) ?? this.#callers.get(user);
    if (introduction === undefined || this.#certificate === null) throw new ChatError("not_introduced");
    return safetyNumber(this.#certificate.base64, introduction.key);
  }

  /** What the server says of private chats. */
  handle(event: IntroductionEvent): void {
    const { user } = event;
    switch (event.kind) {
      case "private_request": {
        // Without a key on the other side there would be no telling who calls, and no secrecy.
        if (event.key === "") void this.answer(user, false).catch(() => {});
        return this.#tell({ kind: "asked", user, encrypted: event.key !== "" });
      }
      case "address": {
        const { key, ticket, host, port } = event;
        const question = this.#questions.get(user);
        this.#questions.delete(user);
        this.#tell({ kind: "agreed", user, host, port, encrypted: key !== "" });
        if (key === "") return question?.reject(new ChatError("denied"));
        this.#introduce(this.#callees, user, ticket, key, { host, port });
        return question?.resolve();
      }
      case "expect": {
        const { key, ticket } = event;
        if (key !== "" && this.#invited.has(user)) {
          this.#introduce(this.#callers, user, ticket, key, null);
          this.#tell({ kind: "invited", user });
        }
        this.#invited.get(user)?.resolve();
        return void this.#invited.delete(user);
      }
      case "denied": {
        const question = this.#questions.get(user);
        if (question !== undefined) {
          this.#questions.delete(user);
          question.reject(new ChatError("denied"));
          return this.#tell({ kind: "denied", user });
        }
        const ended = this.#introductions().filter((introduction) => introduction.user === user);
        for (const introduction of ended) this.#part(introduction);
        if (ended.length > 0) this.#tell({ kind: "parted", user });
      }
    }
  }

  /** A caller's first line: `private <name> <ticket>`, and then their certificate must be the one that we know. */
  async admit(line: PeerConnection, greeting: string): Promise<boolean> {
    const [verb = "", user = "", ticket = "", ...more] = greeting.split(" ");
    if (verb !== "private" || more.length > 0) return false;
    await this.#invited.get(user)?.promise;
    const introduction = this.#callers.get(user);
    if (introduction === undefined || introduction.key !== line.key || introduction.ticket !== ticket) return false;
    introduction.line?.cut(); // They would not call again if they still had it.
    await line.send("ok");
    if (!this.#isValid(introduction)) return false;
    void this.#follow(introduction, line);
    return true;
  }

  /** Ends all chats in good order, and is reached by nobody any more. */
  async end(): Promise<void> {
    this.stopListening();
    for (const introduction of this.#introductions()) introduction.failures = FAILURES_MAX;
    await Promise.all(this.#introductions().map(({ line }) => line?.end()));
    this.#callees.clear();
    this.#callers.clear();
  }

  async #key(): Promise<string> {
    this.#certificate ??= await (this.#making ??= newCertificate(this.#user));
    return this.#certificate.base64;
  }

  #introductions(): Introduction[] {
    return [...this.#callees.values(), ...this.#callers.values()];
  }

  /** A newer introduction takes the place of an older one of the same kind: the ticket is for calls from now on. */
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
      if (address !== null && earlier.line === null) void this.#keepOpen(earlier);
      return;
    }
    void earlier?.line?.end();
    const introduction = { user, ticket, key, address, line: null, failures: 0, call: null };
    to.set(user, introduction);
    if (address !== null) void this.#keepOpen(introduction);
  }

  #part(introduction: Introduction): void {
    this.#alike(introduction).delete(introduction.user);
    void introduction.line?.end();
  }

  #isValid(introduction: Introduction): boolean {
    return this.#alike(introduction).get(introduction.user) === introduction;
  }

  #alike({ address }: Introduction): Map<string, Introduction> {
    return address === null ? this.#callers : this.#callees;
  }

  /** Calls at once, so that both may speak first, and again when the connection breaks. */
  async #keepOpen(introduction: Introduction): Promise<void> {
    const { user } = introduction;
    for (const pauses = new Backoff(Math.max(0, introduction.failures - 1)); introduction.failures < FAILURES_MAX;) {
      if (introduction.failures > 0) await pauses.next();
      if (!this.#isValid(introduction) || introduction.line !== null) return;
      try {
        return void (await this.#call(introduction));
      } catch (error) {
        if ((error as ChatError).code === "wrong_certificate") return this.#tell({ kind: "impostor", user });
        introduction.failures++;
      }
    }
    if (this.#isValid(introduction)) this.#tell({ kind: "unreachable", user });
  }

  #call(introduction: Introduction): Promise<PeerConnection> {
    introduction.call ??= this.#dial(introduction).finally(() => (introduction.call = null));
    return introduction.call;
  }

  async #dial(introduction: Introduction): Promise<PeerConnection> {
    const { key, pem: cert } = this.#certificate!;
    const options = { rejectUnauthorized: false, minVersion: "TLSv1.3", key, cert } as const;
    const { host, port } = introduction.address!;
    const socket = connect({ host: this.#reach(host), port, ...options });
    const line = new PeerConnection(socket);
    const deadline = setTimeout(() => line.cut(), PRIVATE_AUTH_MS);
    try {
      const secured = new Promise((resolve) => socket.once("secureConnect", resolve));
      await Promise.race([secured, line.closed]);
      if (line.key === "") throw new ChatError("gone");
      if (line.key !== introduction.key) throw new ChatError("wrong_certificate");
      await line.send(`private ${this.#user} ${introduction.ticket}`);
      const { value } = await line.lines.next();
      if (value !== "ok" || !this.#isValid(introduction)) throw new ChatError("gone");
      void this.#follow(introduction, line);
      return line;
    } catch (error) {
      line.cut();
      throw error;
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Tells what comes on a connection, until it ends. */
  async #follow(introduction: Introduction, line: PeerConnection): Promise<void> {
    introduction.line = line;
    const sinceMs = performance.now();
    for await (const words of line.lines) {
      if (!this.#isValid(introduction)) continue;
      if (words.startsWith("message ") && words.length > "message ".length) {
        this.#tell({ kind: "private", from: introduction.user, text: words.slice("message ".length) });
      }
    }
    line.cut();
    if (introduction.line !== line) return;
    introduction.line = null;
    introduction.failures = performance.now() - sinceMs > SOON_MS ? 0 : introduction.failures + 1;
    if (this.#isValid(introduction) && introduction.address !== null) void this.#keepOpen(introduction);
  }
}
