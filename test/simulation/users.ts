import type { SessionKind } from "../../src/chat/session.ts";
import type { Random } from "../support/random.ts";
import { PASSWORD } from "./host.ts";
import { type Ledger, type ObservedSession, Violation, show } from "./ledger.ts";
import type { ClientEnd, Link } from "./network.ts";

export type Verb =
  | "message"
  | "broadcast"
  | "online"
  | "block"
  | "unblock"
  | "alive"
  | "logout"
  | "nonsense"
  | "getaddress"
  | "private_answer";

/** One request, from its creation until its reply is received. */
export interface Request {
  verb: Verb;
  /** As it is sent, with its end of line. */
  line: string;
  /** The text of a message or broadcast; for `nonsense` the expected error code. */
  text: string;
  /** The position that it acknowledges; -1 for none. */
  acks: number;
  /** Position in the client's stream after it. */
  end: number;
}

/** The state of a session that a client saves for its next login: docs/protocol.md, Sessions, `after=`. */
export interface SavedState {
  readonly kind: SessionKind;
  readonly token: string;
  readonly received: number;
  readonly unanswered: readonly Request[];
}

/** The simulation as a user's programs see it. */
export interface Environment {
  readonly ledger: Ledger;
  readonly random: Random;
  /** No more faults: all users log in again and read everything. */
  readonly calm: boolean;
  /** The number of attempts for which a client's output takes nothing. */
  outputStalls(): number;
  /** A new connection; null while the server does not listen. */
  connect(client: ClientEnd): Link | null;
}

/** A running client program. */
export interface Program extends ClientEnd {
  readonly kind: SessionKind;
  /** It is logged in and can send requests. */
  readonly ready: boolean;
  /** Every request has its reply. */
  readonly idle: boolean;
  ask(request: Request): void;
  /** Its position in the server's stream; -1 for a plain session. */
  readonly position: number;
  /** Connects when it needs to and can. */
  act(): void;
  /** Its process is killed. */
  kill(): void;
  /** The current connection; null when there is none. */
  readonly link: Link | null;
  /** Closes the connection, without knowing which of its last lines arrived. */
  abandon(silently: boolean): void;
}

/** A user over all programs and sessions: what was requested, and what was shown. */
export class User {
  readonly name: string;
  readonly environment: Environment;
  readonly port: number;
  program: Program | null = null;
  /** The state file: the last session with positions. */
  saved: SavedState | null = null;
  /** Logins since the last one with a reply. The server remembers only the last eight sessions. */
  lostLogins = 0;
  /** Blocks and unblocks with the reply `ok`, and those without a reply. */
  blocksDone = 0;
  blocksUnknown = 0;

  constructor(name: string, port: number, around: Environment) {
    this.name = name;
    this.port = port;
    this.environment = around;
  }

  loginLine(option: string): string {
    const { saved } = this;
    this.lostLogins++;
    const after = saved === null ? "" : ` after=${saved.token}:${saved.received}`;
    const listen = this.environment.ledger.hasNeighbours ? " listen=5000" : "";
    return `login ${this.name} ${PASSWORD}${option}${listen}${after}\n`;
  }

  /** The connection was refused, or the disk was full, so that no resumable or callback session can begin. */
  isRefused(line: string): boolean {
    if (!isRefusedConnection(line) && !(isRefused(line) && this.environment.ledger.hasRefused)) return false;
    // The reply to a later login may have come before this one.
    this.lostLogins = Math.max(0, this.lostLogins - 1);
    return true;
  }

  /** The reply to a login: the session, and the requests of the earlier session that must be repeated. */
  loggedIn(line: string, program: SavedState | null): { observed: ObservedSession; words: string[]; again: Request[] } {
    const [ok, token = "", silence, ...words] = line.split(" ");
    const observed = this.environment.ledger.sessions.get(token);
    if (ok !== "ok" || observed?.user !== this.name || !(Number(silence) > 0)) {
      throw new Violation(`${this.name}'s login got: ${show(line)}`);
    }
    this.lostLogins = 0;
    const again: Request[] = [];
    const option = words.find((word) => word.startsWith("received="));
    const { saved } = this;
    if ((option !== undefined) !== (saved?.kind === "resumable")) {
      throw new Violation(`${this.name}'s login after a ${saved?.kind} session got: ${show(line)}`);
    }
    const received = option === undefined ? Number.POSITIVE_INFINITY : Number(option.slice("received=".length));
    for (const request of saved?.unanswered ?? []) {
      if (request.end <= received && option !== undefined) this.#expectProcessed(request);
      if (request.end <= received) this.unknown(request);
      else if (request.end - request.line.length < received)
        throw new Violation(`received=${received} is within a line`);
      else if (request.verb !== "alive" && request.verb !== "logout") again.push(request);
    }
    this.saved = program;
    return { observed, words, again };
  }

  #expectProcessed({ verb, line, text }: Request): void {
    if (verb === "message") this.environment.ledger.checkActed(this.name, line.split(" ")[1]!, text);
  }

  /** It is unknown whether the request was processed. */
  unknown({ verb }: Request): void {
    if (verb === "block" || verb === "unblock") this.blocksUnknown++;
  }

  /** An event of a session. Returns false when it was the last one. */
  event(observed: ObservedSession, line: string, repeats = false): boolean {
    const { ledger } = this.environment;
    this.#expectNotOver(observed, line);
    const [verb = "", from = "", third = ""] = line.split(" ");
    const text = line.slice(verb.length + from.length + 2);
    if (verb === "message") {
      if (repeats) return true;
      ledger.checkDurable(text);
      ledger.received(observed, from, `message ${text}`);
      ledger.shown(observed, from, text);
    } else if (verb === "stored") {
      const message = text.slice(third.length + 1);
      if (!repeats) ledger.shown(observed, from, message, Number(third));
    } else if (verb === "broadcast") ledger.received(observed, from, `broadcast ${text}`);
    else if (verb === "joined") ledger.received(observed, from, "joined");
    else if (verb === "left") ledger.received(observed, from, `left ${text}`);
    else if (verb === "goodbye") {
      if (observed.reason !== from)
        throw new Violation(`${this.name} received "${line}", but its session ended as "${observed.reason}"`);
      observed.isOver = true;
      return false;
    } else if (!ledger.hasNeighbours || (line !== "waiting" && !observed.introductions.event(verb, from)))
      throw new Violation(`${this.name} received an unknown line: ${show(line)}`);
    return true;
  }

  #expectNotOver(observed: ObservedSession, line: string): void {
    if (observed.isOver) throw new Violation(`${this.name} received something after the last line: ${show(line)}`);
  }

  /** Checks a reply against its request. */
  reply(observed: ObservedSession, request: Request, line: string): void {
    // The reply to a request of a callback session is not part of its stream.
    if (observed.kind !== "callback") this.#expectNotOver(observed, line);
    if (!this.#fits(observed, request, line)) {
      throw new Violation(`${this.name}: "${show(request.line.trimEnd())}" at ${request.end} got "${show(line)}"`);
    }
    if (line === "ok asked") {
      const other = request.line.split(/\s/)[1]!;
      observed.introductions.accepted(other);
    }
    if (request.verb === "message" && isOk(line)) this.environment.ledger.checkDurable(request.text);
    if (request.verb === "logout" && observed.kind !== "callback") observed.isOver = true;
    if ((request.verb === "block" || request.verb === "unblock") && line === "ok") this.blocksDone++;
  }

  #fits({ kind, session }: ObservedSession, { verb, text, acks, end }: Request, line: string): boolean {
    const { ledger } = this.environment;
    if (isRefused(line) && ["message", "broadcast", "block", "unblock"].includes(verb)) {
      return ledger.hasRefused && !ledger.isAccepted(text) && !ledger.broadcasts.has(text);
    }
    if (isBusy(line) && ["message", "block", "unblock", "getaddress"].includes(verb)) {
      return ledger.hasNeighbours && !ledger.isAccepted(text);
    }
    switch (verb) {
      case "message":
        return line === "err blocked" ? !ledger.isAccepted(text) : isOk(line) && ledger.isAccepted(text);
      case "broadcast":
        return line === `ok ${ledger.broadcasts.get(text)}`;
      case "online":
        return line === "ok" || line.startsWith("ok ");
      case "block":
        return ["ok", "err already_blocked", "err bad_request nobody blocks themselves"].includes(line);
      case "unblock":
        return line === "ok" || line === "err not_blocked";
      case "getaddress":
        return (
          line === "ok asked" || /^err (blocked|offline|not_listening|already_asked|busy|bad_request)\b/.test(line)
        );
      case "private_answer":
        return line === "ok" || line === "err no_request";
      case "logout":
        return line === "ok";
      case "nonsense":
        if (kind === "callback" && text === "already_logged_in") return line.startsWith("err bad_request");
        return line.startsWith(`err ${text}`);
      case "alive":
        if (acks === Number.MAX_SAFE_INTEGER && kind !== "plain") return line.startsWith("err bad_request");
        if (kind !== "plain" && !session.ended && session.outbox.acked < acks) {
          throw new Violation(`${this.name} acknowledged ${acks}, and the server has ${session.outbox.acked}`);
        }
        return line === (kind === "plain" ? "ok" : `ok ${kind === "callback" ? 0 : end}`);
    }
  }
}

/** The disk is full. */
export function isRefused(line: string): boolean {
  return line.startsWith("err internal the disk refuses");
}

/** The shard of the user whom the request names cannot be reached, or takes no more. */
function isBusy(line: string): boolean {
  return line.startsWith("err busy the server of that user") || line.startsWith("err busy too many requests wait");
}

/** The server refused the connection, or a login because it drains, and has not processed a request of it. */
export function isRefusedConnection(line: string): boolean {
  return line === CONNECTION_REFUSALS[0] || line === CONNECTION_REFUSALS[1] || line === LOGIN_REFUSED_AT_END;
}

/** The line of this server, and of older ones. */
export const CONNECTION_REFUSALS = ["err busy too many connections", "busy too many connections"] as const;

const LOGIN_REFUSED_AT_END = "err busy the server is shutting down; try again in a moment";

function isOk(line: string): boolean {
  return line === "ok sent" || line === "ok stored";
}
