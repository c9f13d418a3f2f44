import { closeSync, openSync, readSync } from "node:fs";
import { mayBlock } from "./blocks.ts";
import { isCallback, logOf, nameOf } from "./clients.ts";

/** What came of the messages, and how much happened to the sessions that carried them. */
export interface DeliveryTally {
  /** With an `ok`; shown at all; refused; without a known outcome. */
  accepted: number;
  received: number;
  refused: number;
  unknown: number;
  /** Broadcasts with an `ok`, and shown, by everybody together; blocks made and taken back. */
  broadcasts: number;
  broadcastsReceived: number;
  blocks: number;
  resumes: number;
  logins: number;
  saves: number;
  /** Examples of whatever must not be, and how often it was. */
  lost: string[];
  twice: string[];
  disordered: string[];
  faults: string[];
  repeated: number;
  /** Messages of senders that were killed before any state knew of them, and which nobody got. */
  neverSaved: number;
  /** Overtaken by a later one of a sender without a connection, which had given up waiting for their answer. */
  overtaken: number;
}

/** A refusal that says for sure that nothing was acted on; any other one must not come. Talkers judge `blocked`. */
const REFUSALS = ["not_sent", "unknown_session", "blocked", "busy"];

interface Message {
  outcome: "o" | "u" | "n" | "";
  /** Some saved state of the sender knew of it: the sender's next run must see to it. */
  saved: boolean;
  shown: boolean;
}

/** One user's log, as far as it was read. */
class Log {
  readonly user: string;
  /** Messages by `<to> <number>`, broadcasts by `* <number>`. */
  readonly sent = new Map<string, Message>();
  /**
   * What was shown, as `<from> <number>` or `*<from> <number>`, with `s` where everything before was saved, and `run`
   * at a start.
   */
  readonly shown: string[] = [];
  readonly faults: string[] = [];
  accepted = 0;
  broadcasts = 0;
  blocks = 0;
  resumes = 0;
  logins = 0;
  saves = 0;
  #isNew = false;
  #rest = "";
  #at = 0;
  readonly #file: string;

  constructor(folder: string, user: string) {
    this.user = user;
    this.#file = logOf(folder, user);
  }

  /** Reads what was added since the last time. */
  read(buffer: Buffer): boolean {
    const file = openSync(this.#file, "a+");
    let count = 0;
    const from = this.#at;
    while ((count = readSync(file, buffer, 0, buffer.length, this.#at)) > 0) {
      this.#at += count;
      const lines = (this.#rest + buffer.toString("latin1", 0, count)).split("\n");
      this.#rest = lines.pop()!;
      for (const line of lines) this.#parse(line);
    }
    closeSync(file);
    return this.#at > from;
  }

  #parse(line: string): void {
    const [what = "", other = "", number = "", code = ""] = line.split(" ");
    const key = `${other} ${number}`;
    if (what === "i") this.sent.set(key, { outcome: "", saved: false, shown: false });
    else if (what === "o" || what === "u" || what === "n") this.#setOutcome(what, key, code);
    else if (what === "k") this.#message(key).saved = true;
    else if (what === "r") this.shown.push(key);
    else if (what === "run") this.shown.push(what);
    else if (what === "s") {
      this.saves++;
      if (/^[u*]/.test(this.shown.at(-1) ?? "")) this.shown.push(what);
    } else if (what === "b") this.blocks += Number(number !== "unknown");
    else if (what === "login") {
      this.#isNew = true;
      this.logins++;
    } else if (what === "lost") this.#isNew = false;
    else if (what === "back" && !this.#isNew) this.resumes++;
    else if (what === "fault" || what === "ended") this.faults.push(`${this.user} ${line}`);
  }

  #message(key: string): Message {
    const message = this.sent.get(key);
    if (message !== undefined) return message;
    this.faults.push(`${this.user} knows of ${key} and never said it`);
    return { outcome: "", saved: false, shown: false };
  }

  #setOutcome(outcome: "o" | "u" | "n", key: string, code: string): void {
    const message = this.#message(key);
    if (outcome === "n" && !REFUSALS.includes(code)) this.faults.push(`${this.user} got ${code} for ${key}`);
    // What is known stays known; an earlier run's state may not have been told.
    if (message.outcome === "o") return;
    message.outcome = outcome;
    if (outcome !== "o") return;
    if (key.startsWith("*")) this.broadcasts++;
    else this.accepted++;
  }
}

/** Compares what everybody said with what everybody was shown. */
export class Verdict {
  readonly #logs: Map<string, Log>;
  readonly #callback: ReadonlySet<string>;
  readonly #buffer = Buffer.alloc(256 << 10);

  constructor(folder: string, users: number) {
    const all = Array.from({ length: users }, (_, index) => index);
    this.#logs = new Map(all.map((index) => [nameOf(index), new Log(folder, nameOf(index))]));
    this.#callback = new Set(all.filter(isCallback).map(nameOf));
  }

  /** Reads on in the logs; returns whether there was anything. */
  read(): boolean {
    return [...this.#logs.values()].filter((log) => log.read(this.#buffer)).length > 0;
  }

  /** Messages accepted so far, and shown. */
  get accepted(): number {
    return this.#logs.values().reduce((sum, log) => sum + log.accepted, 0);
  }

  tally(): DeliveryTally {
    const tally: DeliveryTally = {
      accepted: 0,
      received: 0,
      refused: 0,
      unknown: 0,
      broadcasts: 0,
      broadcastsReceived: 0,
      blocks: 0,
      resumes: 0,
      logins: 0,
      saves: 0,
      lost: [],
      twice: [],
      disordered: [],
      faults: [],
      repeated: 0,
      neverSaved: 0,
      overtaken: 0,
    };
    for (const { sent } of this.#logs.values()) for (const message of sent.values()) message.shown = false;
    for (const log of this.#logs.values()) this.#judgeShown(log, tally);
    for (const log of this.#logs.values()) this.#judgeSent(log, tally);
    return tally;
  }

  /** What one user was shown: once, in the order of each sender, and nothing that nobody said. */
  #judgeShown({ user, shown }: Log, tally: DeliveryTally): void {
    /** The last number of each sender, now and in what was last saved. */
    let last = new Map<string, number>();
    let saved = new Map<string, number>();
    let unsaved: string[] = [];
    const mayRepeat = new Set<string>();
    const seen = new Set<string>();
    for (const entry of shown) {
      if (entry === "s") {
        saved = new Map(last);
        unsaved = [];
        continue;
      }
      if (entry === "run") {
        // Killed: what it showed after its last saved state may be shown again, and in that order.
        for (const key of unsaved) mayRepeat.add(key);
        last = new Map(saved);
        unsaved = [];
        continue;
      }
      const [from = "", text = ""] = entry.split(" ");
      const number = Number(text);
      const isBroadcast = from.startsWith("*");
      const sender = isBroadcast ? from.slice(1) : from;
      const message = this.#logs.get(sender)?.sent.get(`${isBroadcast ? "*" : user} ${number}`);
      if (message === undefined) {
        tally.faults.push(`${user} was shown ${entry}, which was never said`);
        continue;
      }
      const isTwice = seen.has(entry) && !mayRepeat.delete(entry);
      if (isTwice) tally.twice.push(`${from} > ${user} ${number}`);
      else if (isBroadcast) tally.broadcastsReceived++;
      else if (seen.has(entry)) tally.repeated++;
      else tally.received++;
      seen.add(entry);
      message.shown = true;
      const before = last.get(from) ?? 0;
      if (number > before) last.set(from, number);
      else if (this.#callback.has(sender) && message.outcome !== "o") tally.overtaken++;
      else if (!isTwice) tally.disordered.push(`${from} > ${user} ${number} after ${before}`);
      // No session carries a broadcast of an earlier one: it has no second time.
      if (isBroadcast) saved.set(from, last.get(from)!);
      else unsaved.push(entry);
    }
  }

  #judgeSent(log: Log, tally: DeliveryTally): void {
    const { user, sent } = log;
    for (const count of ["resumes", "logins", "saves", "accepted", "broadcasts", "blocks"] as const) {
      tally[count] += log[count];
    }
    tally.faults.push(...log.faults);
    for (const [key, { outcome, saved: kept, shown }] of sent) {
      if (outcome === "n" && shown) tally.faults.push(`${user} > ${key} was refused, and shown`);
      if (key.startsWith("*")) continue;
      // What was acted on, or will be, and may not be refused.
      const isSure = kept && outcome !== "n" && !this.#callback.has(user) && !mayBlock(key.split(" ", 1)[0]!, user);
      const mustCome = outcome === "o" || isSure;
      if (mustCome && !shown) tally.lost.push(`${user} > ${key} (${outcome || "no outcome"}${kept ? ", kept" : ""})`);
      if (outcome === "n") tally.refused++;
      if (outcome === "u" || outcome === "") tally.unknown++;
      if (outcome === "" && !kept && !shown) tally.neverSaved++;
    }
  }
}

/** What the harness did, beside what came of it. */
export interface FaultCounts {
  cuts: number;
  outages: number;
  stalls: number;
  kills: number;
  /** Of the server, and those of them before it listened again. */
  serverKills: number;
  killsInStart: number;
  /** Logins that were told `received=`, and held to it. */
  continued: number;
  /** Calls to callback clients that reached the proxy before them. */
  calls: number;
  users: number;
  /** Runs of a client that fetches through a pipe, those whose reader went away, and the messages that came through. */
  fetches: number;
  fetchesAbandoned: number;
  fetched: number;
}

export function isClean({ lost, twice, disordered, faults }: DeliveryTally): boolean {
  return lost.length + twice.length + disordered.length + faults.length === 0;
}

/** A short table, and examples of what went wrong. */
export function describe(all: DeliveryTally & FaultCounts): string {
  const rows = {
    messages: all.accepted,
    "  received": all.received,
    "  refused": all.refused,
    "  outcome unknown": all.unknown,
    broadcasts: all.broadcasts,
    "  heard": all.broadcastsReceived,
    "blocks, unblocks": all.blocks,
    cuts: all.cuts,
    outages: all.outages,
    stalls: all.stalls,
    kills: all.kills,
    "server kills": all.serverKills,
    "  before it listened again": all.killsInStart,
    resumes: all.resumes,
    "logins with after=": Math.max(0, all.logins - all.users),
    "  that needed received=": all.continued,
    callbacks: all.calls,
    "states saved": all.saves,
    "fetches through a pipe": all.fetches,
    "  left in the middle": all.fetchesAbandoned,
    "  messages": all.fetched,
    lost: all.lost.length,
    twice: all.twice.length,
    disordered: all.disordered.length,
    "shown again after a kill": all.repeated,
    "never kept before a kill": all.neverSaved,
    "overtaken, outcome unknown": all.overtaken,
    "other faults": all.faults.length,
  };
  let text = "";
  for (const [name, count] of Object.entries(rows)) text += `${name.padEnd(28)} ${count}\n`;
  const { lost, twice, disordered, faults } = all;
  for (const [what, examples] of Object.entries({ lost, twice, disordered, fault: faults })) {
    for (const example of examples.slice(0, 10)) text += `${what}: ${example}\n`;
  }
  return text;
}
