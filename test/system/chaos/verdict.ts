/** Compares the logs of all users: what each one sent, and what each one was shown. */
import { closeSync, openSync, readSync } from "node:fs";
import { shardOf } from "../../../src/protocol/shard.ts";
import { mayBlock } from "./blocks.ts";
import { type ClientsSpec, isCallback, isPlain, logOf, nameOf } from "./clients.ts";

/** How the messages were delivered, and what happened to the sessions. */
export interface DeliveryTally {
  /** Messages with the reply `ok`. */
  accepted: number;
  /** Messages shown, each counted once. */
  received: number;
  refused: number;
  /** Of these, how many because a limit protects others, or a server is away. */
  busy: number;
  /** Messages without a known outcome. */
  unknown: number;
  /** Broadcasts with the reply `ok`, and deliveries of broadcasts. */
  broadcasts: number;
  broadcastsReceived: number;
  /** Completed `block` and `unblock` requests. */
  blocks: number;
  resumes: number;
  logins: number;
  saves: number;
  /** The errors, one line each. */
  lost: string[];
  twice: string[];
  disordered: string[];
  faults: string[];
  /** Messages shown again after a kill, because the state that contained them was not saved. */
  repeated: number;
  /** Messages that were not delivered and are not lost: their sender was killed before it saved them. */
  neverSaved: number;
  /** Messages of callback senders with an unknown outcome that arrived after a later one. */
  overtaken: number;
  /**
   * Messages to plain sessions, which are promised only up to the kernel of the server: lost after that, and received
   * again after the server was killed.
   */
  plainLost: number;
  plainRepeated: number;
}

/** The refusals that may occur; none of them was acted on. ChaosUser checks whether `blocked` is right. */
const REFUSALS = ["not_sent", "unknown_session", "blocked", "busy"];

interface Message {
  /** As in the log: accepted, unknown, refused; empty without a reply. */
  outcome: "o" | "u" | "n" | "";
  /** A saved state of the sender contains it, so the next run of the sender must send it again. */
  saved: boolean;
  shown: boolean;
}

/** The log of one user, as far as it was read. See clients.ts for its lines. */
class Log {
  readonly user: string;
  /** Messages by `<to> <number>`, broadcasts by `* <number>`. */
  readonly sent = new Map<string, Message>();
  /**
   * What was shown, as `<from> <number>` or `*<from> <number>`. `s` means that everything before it was saved; `run` is
   * a start of the process.
   */
  readonly shown: string[] = [];
  readonly faults: string[] = [];
  accepted = 0;
  busy = 0;
  broadcasts = 0;
  blocks = 0;
  resumes = 0;
  logins = 0;
  saves = 0;
  /** The session was begun by a login, not by a resume. */
  #isNew = false;
  /** An incomplete last line. */
  #rest = "";
  /** Position in the file. */
  #at = 0;
  readonly #file: string;

  constructor(folder: string, user: string) {
    this.user = user;
    this.#file = logOf(folder, user);
  }

  /** Reads what was added since the last call. Returns whether there was anything. */
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
    this.faults.push(`${this.user} has an outcome for ${key}, which it never sent`);
    return { outcome: "", saved: false, shown: false };
  }

  #setOutcome(outcome: "o" | "u" | "n", key: string, code: string): void {
    const message = this.#message(key);
    if (outcome === "n" && !REFUSALS.includes(code)) this.faults.push(`${this.user} got ${code} for ${key}`);
    // An accepted message stays accepted: the state of an earlier run may not contain the reply.
    if (message.outcome === "o") return;
    if (code === "busy") this.busy++;
    message.outcome = outcome;
    if (outcome !== "o") return;
    if (key.startsWith("*")) this.broadcasts++;
    else this.accepted++;
  }
}

/** The logs of all users, and their comparison. */
export class Verdict {
  readonly #logs: Map<string, Log>;
  readonly #callback: ReadonlySet<string>;
  readonly #plain: ReadonlySet<string>;
  readonly #shards: number;
  readonly #buffer = Buffer.alloc(256 << 10);

  constructor(folder: string, users: number, shards: number, sessions: ClientsSpec["sessions"] = "all") {
    this.#shards = shards;
    const all = Array.from({ length: users }, (_, index) => index);
    this.#logs = new Map(all.map((index) => [nameOf(index), new Log(folder, nameOf(index))]));
    const is = (kind: typeof isPlain) => (index: number) => sessions === "all" && kind(index, users);
    this.#callback = new Set(all.filter(is(isCallback)).map(nameOf));
    this.#plain = new Set(all.filter(is(isPlain)).map(nameOf));
  }

  #shardOf(user: string): number {
    return shardOf(Buffer.from(user), 0, user.length, this.#shards);
  }

  /** Reads what was added to the logs. Returns whether there was anything. */
  read(): boolean {
    return [...this.#logs.values()].filter((log) => log.read(this.#buffer)).length > 0;
  }

  /** Messages accepted so far. */
  get accepted(): number {
    return this.#logs.values().reduce((sum, log) => sum + log.accepted, 0);
  }

  /** Messages that got `ok`, as `<from> <to> <number>`. */
  get acceptedMessages(): string[] {
    return [...this.#logs].flatMap(([from, { sent }]) =>
      [...sent]
        .filter(([key, { outcome }]) => outcome === "o" && !key.startsWith("*"))
        .map(([key]) => `${from} ${key}`),
    );
  }

  tally(): DeliveryTally {
    const tally: DeliveryTally = {
      accepted: 0,
      received: 0,
      refused: 0,
      busy: 0,
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
      plainLost: 0,
      plainRepeated: 0,
    };
    for (const { sent } of this.#logs.values()) for (const message of sent.values()) message.shown = false;
    for (const log of this.#logs.values()) this.#judgeShown(log, tally);
    for (const log of this.#logs.values()) this.#judgeSent(log, tally);
    return tally;
  }

  /** Checks what one user was shown: each message once, in the order of its sender, and none that was never sent. */
  #judgeShown({ user, shown }: Log, tally: DeliveryTally): void {
    /** The last number of each sender; and that in what was last saved, of the senders for whom it is another one. */
    const last = new Map<string, number>();
    const saved = new Map<string, number>();
    let unsaved: string[] = [];
    const mayRepeat = new Set<string>();
    const seen = new Set<string>();
    for (const entry of shown) {
      if (entry === "s") {
        saved.clear();
        unsaved = [];
        continue;
      }
      if (entry === "run") {
        // After a kill, what was shown since the last saved state may be shown again, in the same order.
        for (const key of unsaved) mayRepeat.add(key);
        for (const [from, number] of saved) last.set(from, number);
        unsaved = [];
        continue;
      }
      const [from = "", text = ""] = entry.split(" ");
      const number = Number(text);
      const isBroadcast = from.startsWith("*");
      const sender = isBroadcast ? from.slice(1) : from;
      const message = this.#logs.get(sender)?.sent.get(`${isBroadcast ? "*" : user} ${number}`);
      if (message === undefined) {
        tally.faults.push(`${user} was shown ${entry}, which was never sent`);
        continue;
      }
      const isKnown = seen.has(entry);
      const isTwice = seen.has(entry) && !mayRepeat.delete(entry);
      const isPlainMessage = !isBroadcast && this.#plain.has(user);
      if (isPlainMessage && seen.has(entry)) tally.plainRepeated++;
      else if (isTwice) tally.twice.push(`${from} > ${user} ${number}`);
      else if (isBroadcast) tally.broadcastsReceived++;
      else if (seen.has(entry)) tally.repeated++;
      else tally.received++;
      seen.add(entry);
      message.shown = true;
      const before = last.get(from) ?? 0;
      // A broadcast of an earlier session is not delivered again.
      if (!isBroadcast && !saved.has(from)) saved.set(from, before);
      if (number > before) last.set(from, number);
      else if (this.#callback.has(sender) && message.outcome !== "o") tally.overtaken++;
      else if (!isTwice && !(isPlainMessage && isKnown))
        tally.disordered.push(`${from} > ${user} ${number} after ${before}`);
      if (!isBroadcast) unsaved.push(entry);
    }
  }

  #judgeSent(log: Log, tally: DeliveryTally): void {
    const { user, sent } = log;
    for (const count of ["resumes", "logins", "saves", "accepted", "busy", "broadcasts", "blocks"] as const) {
      tally[count] += log[count];
    }
    tally.faults.push(...log.faults);
    for (const [key, { outcome, saved: kept, shown }] of sent) {
      if (outcome === "n" && shown) tally.faults.push(`${user} > ${key} was refused, and shown`);
      if (key.startsWith("*")) continue;
      const [to = ""] = key.split(" ", 1);
      // It was or will be acted on, and cannot be refused as blocked, nor because another server is away.
      const isContinued = kept && !this.#callback.has(user) && !this.#plain.has(user);
      const isSure = isContinued && outcome !== "n" && !mayBlock(to, user) && this.#shardOf(to) === this.#shardOf(user);
      const mustCome = outcome === "o" || isSure;
      if (mustCome && !shown && this.#plain.has(to)) tally.plainLost++;
      else if (mustCome && !shown)
        tally.lost.push(`${user} > ${key} (${outcome || "no outcome"}${kept ? ", kept" : ""})`);
      if (outcome === "n") tally.refused++;
      if (outcome === "u" || outcome === "") tally.unknown++;
      if (outcome === "" && !kept && !shown) tally.neverSaved++;
    }
  }
}

/** What the harness did. */
export interface FaultCounts {
  cuts: number;
  outages: number;
  stalls: number;
  /** Kills of client processes. */
  kills: number;
  /** Kills of the server, and those of them before it listened again. */
  serverKills: number;
  killsInStart: number;
  /** Logins whose reply had to contain `received=`. */
  continued: number;
  /** Calls to callback clients that reached their proxy. */
  calls: number;
  users: number;
  /** Runs of a client that writes to a pipe; those whose reader closed it early, and those that reached no server; messages. */
  fetches: number;
  fetchesAbandoned: number;
  fetchesGivenUp: number;
  fetched: number;
  /** In a cluster: messages with `ok` whose records were looked for, those that a snapshot has, and those between shards. */
  recordsChecked: number;
  recordsUnchecked: number;
  crossed: number;
}

export function isClean({ lost, twice, disordered, faults }: DeliveryTally): boolean {
  return lost.length + twice.length + disordered.length + faults.length === 0;
}

/** A table, and up to ten examples of each kind of error. */
export function describe(all: DeliveryTally & FaultCounts): string {
  const rows = {
    messages: all.accepted,
    "  received": all.received,
    "  refused": all.refused,
    "    busy": all.busy,
    "  outcome unknown": all.unknown,
    broadcasts: all.broadcasts,
    "  delivered": all.broadcastsReceived,
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
    "  closed by the reader": all.fetchesAbandoned,
    "  given up after 30 s": all.fetchesGivenUp,
    "  messages": all.fetched,
    "records checked": all.recordsChecked,
    "  of messages between shards": all.crossed,
    "  not checked: in a snapshot": all.recordsUnchecked,
    "  lost by a plain session": all.plainLost,
    "  twice to a plain session": all.plainRepeated,
    lost: all.lost.length,
    twice: all.twice.length,
    disordered: all.disordered.length,
    "shown again after a kill": all.repeated,
    "unsaved before a kill": all.neverSaved,
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
