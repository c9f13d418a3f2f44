import type { SessionKind } from "../../src/chat/session.ts";
import type { Random } from "../support/random.ts";
import { PASSWORD } from "./host.ts";
import { type Ledger, type Stay, Violation, show } from "./ledger.ts";
import type { ClientEnd, Link } from "./network.ts";

export type Verb = "message" | "broadcast" | "online" | "block" | "unblock" | "alive" | "logout" | "nonsense";

/** One request, from when a user makes it until its reply is seen. */
export interface Request {
  verb: Verb;
  /** As it goes over the wire, its end included. */
  line: string;
  /** What is said; whom it blocks; what a nonsense is refused with. */
  text: string;
  /** The position that it confirms; -1 when none. */
  confirms: number;
  /** The client's stream's position behind it. */
  end: number;
}

/** What a client keeps for good of a session, to go on after it: protocol.md, Sessions, `after=`. */
export interface Left {
  readonly kind: SessionKind;
  readonly token: string;
  readonly received: number;
  readonly unanswered: readonly Request[];
}

/** What a user's programs find around them. */
export interface Surroundings {
  readonly ledger: Ledger;
  readonly random: Random;
  /** Nobody misbehaves any more: everybody comes back and reads everything. */
  readonly calm: boolean;
  /** How many attempts a client's output takes nothing from now on. */
  outputStalls(): number;
  /** A new connection; null while the server does not listen. */
  connect(client: ClientEnd): Link | null;
}

/** A running client program. */
export interface Program extends ClientEnd {
  readonly kind: SessionKind;
  /** It is logged in, and takes requests. */
  readonly ready: boolean;
  /** Every request has its reply. */
  readonly idle: boolean;
  ask(request: Request): void;
  /** How far it has the server's stream; -1 when it has no positions. */
  readonly position: number;
  /** Connects when it has to and can. */
  act(): void;
  /** It, or its machine, is gone without a word to anybody. */
  kill(): void;
  /** The connection in use, if there is one. */
  readonly link: Link | null;
  /** Its side lets go of the connection, and does not know what of its last lines arrived. */
  abandon(silently: boolean): void;
}

/** A person at a client: what they said, and what they were shown, over all their programs and sessions. */
export class User {
  readonly name: string;
  readonly around: Surroundings;
  readonly port: number;
  program: Program | null = null;
  /** The state file: the last session that had positions. */
  left: Left | null = null;
  /** Logins since the last one whose reply was seen: the server remembers eight sessions, no more. */
  lostLogins = 0;
  /** Blocks and unblocks that were answered `ok`, and those whose reply is not known. */
  blocksDone = 0;
  blocksUnknown = 0;

  constructor(name: string, port: number, around: Surroundings) {
    this.name = name;
    this.port = port;
    this.around = around;
  }

  loginLine(option: string): string {
    const { left } = this;
    this.lostLogins++;
    const after = left === null ? "" : ` after=${left.token}:${left.received}`;
    return `login ${this.name} ${PASSWORD}${option}${after}\n`;
  }

  /** There is no room, or the disk takes nothing, so nobody gets a session that must be remembered. */
  isRefused(line: string): boolean {
    if (!isRefusedAtDoor(line) && !(isRefused(line) && this.around.ledger.hasRefused)) return false;
    // The reply to a later login may have come before it.
    this.lostLogins = Math.max(0, this.lostLogins - 1);
    return true;
  }

  /** The reply to a login: the session, and what of the one before is to be asked again. */
  loggedIn(line: string, program: Left | null): { stay: Stay; words: string[]; again: Request[] } {
    const [ok, token = "", silence, ...words] = line.split(" ");
    const stay = this.around.ledger.stays.get(token);
    if (ok !== "ok" || stay?.user !== this.name || !(Number(silence) > 0)) {
      throw new Violation(`${this.name}'s login got: ${show(line)}`);
    }
    this.lostLogins = 0;
    const again: Request[] = [];
    const said = words.find((word) => word.startsWith("received="));
    const { left } = this;
    if ((said !== undefined) !== (left?.kind === "resumable")) {
      throw new Violation(`${this.name}'s login after a ${left?.kind} session got: ${show(line)}`);
    }
    const received = said === undefined ? Number.POSITIVE_INFINITY : Number(said.slice("received=".length));
    for (const request of left?.unanswered ?? []) {
      if (request.end <= received && said !== undefined) this.#acted(request);
      if (request.end <= received) this.unknown(request);
      else if (request.end - request.line.length < received) throw new Violation(`received=${received} is in a line`);
      else if (request.verb !== "alive" && request.verb !== "logout") again.push(request);
    }
    this.left = program;
    return { stay, words, again };
  }

  #acted({ verb, line, text }: Request): void {
    if (verb === "message") this.around.ledger.checkActed(this.name, line.split(" ")[1]!, text);
  }

  /** Whether a request was acted on will never be known. */
  unknown({ verb }: Request): void {
    if (verb === "block" || verb === "unblock") this.blocksUnknown++;
  }

  /** An event of a session. Returns false when it was the last one. */
  event(stay: Stay, line: string, repeats = false): boolean {
    const { ledger } = this.around;
    this.#expectNotOver(stay, line);
    const [verb = "", from = "", third = ""] = line.split(" ");
    const text = line.slice(verb.length + from.length + 2);
    if (verb === "message") {
      if (repeats) return true;
      ledger.hears(stay, from, `message ${text}`);
      ledger.shown(this.name, from, text, stay.kind === "plain");
    } else if (verb === "stored") {
      const said = text.slice(third.length + 1);
      if (!repeats) ledger.shown(this.name, from, said, stay.kind === "plain", Number(third));
    } else if (verb === "broadcast") ledger.hears(stay, from, `broadcast ${text}`);
    else if (verb === "joined") ledger.hears(stay, from, "joined");
    else if (verb === "left") ledger.hears(stay, from, `left ${text}`);
    else if (verb === "goodbye") {
      if (stay.reason !== from) throw new Violation(`${this.name} heard "${line}" of a session "${stay.reason}"`);
      stay.isOver = true;
      return false;
    } else throw new Violation(`${this.name} heard: ${show(line)}`);
    return true;
  }

  #expectNotOver(stay: Stay, line: string): void {
    if (stay.isOver) throw new Violation(`${this.name} heard something after the last line: ${show(line)}`);
  }

  /** A reply, held against its request. */
  reply(stay: Stay, request: Request, line: string): void {
    // The reply to a request of a callback session is not part of its stream.
    if (stay.kind !== "callback") this.#expectNotOver(stay, line);
    if (!this.#fits(stay, request, line)) {
      throw new Violation(`${this.name}: "${show(request.line.trimEnd())}" at ${request.end} got "${show(line)}"`);
    }
    if (request.verb === "logout" && stay.kind !== "callback") stay.isOver = true;
    if ((request.verb === "block" || request.verb === "unblock") && line === "ok") this.blocksDone++;
  }

  #fits({ kind, session }: Stay, { verb, text, confirms, end }: Request, line: string): boolean {
    const { ledger } = this.around;
    if (isRefused(line) && ["message", "broadcast", "block", "unblock"].includes(verb)) {
      return ledger.hasRefused && !ledger.accepted.has(text) && !ledger.broadcasts.has(text);
    }
    switch (verb) {
      case "message":
        return line === "err blocked" ? !ledger.accepted.has(text) : isOk(line) && ledger.accepted.has(text);
      case "broadcast":
        return line === `ok ${ledger.broadcasts.get(text)}`;
      case "online":
        return line === "ok" || line.startsWith("ok ");
      case "block":
        return ["ok", "err already_blocked", "err bad_request nobody blocks themselves"].includes(line);
      case "unblock":
        return line === "ok" || line === "err not_blocked";
      case "logout":
        return line === "ok";
      case "nonsense":
        if (kind === "callback" && text === "already_logged_in") return line.startsWith("err bad_request");
        return line.startsWith(`err ${text}`);
      case "alive":
        if (confirms === Number.MAX_SAFE_INTEGER && kind !== "plain") return line.startsWith("err bad_request");
        if (kind !== "plain" && !session.ended && session.outbox.acked < confirms) {
          throw new Violation(`${this.name} confirmed ${confirms}, and the server has ${session.outbox.acked}`);
        }
        return line === (kind === "plain" ? "ok" : `ok ${kind === "callback" ? 0 : end}`);
    }
  }
}

/** The disk takes nothing, so nothing is promised. */
export function isRefused(line: string): boolean {
  return line.startsWith("err internal the disk refuses");
}

/** A connection that the server did not take: what was said on it was not acted on. */
export function isRefusedAtDoor(line: string): boolean {
  return line === REFUSALS_AT_DOOR[0] || line === REFUSALS_AT_DOOR[1];
}

/** As this server says it, and as older ones do. */
export const REFUSALS_AT_DOOR = ["err busy too many connections", "busy too many connections"] as const;

function isOk(line: string): boolean {
  return line === "ok sent" || line === "ok stored";
}
