import fc from "fast-check";
import type { Caller, Session } from "../../src/chat/session.ts";
import { LINE_BYTES_MAX, LINE_BYTES_MIN, SERVER_LINE_BYTES_MAX } from "../../src/limits.ts";
import { SILENCE_MS, type TestPeer, World } from "../support/chat.ts";
import { NAMES, line, longLine } from "./grammar.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

/** docs/protocol.md: every event there is, and every code behind `err`. */
const EVENT =
  /^(message|stored|broadcast|joined|left|private_request|address|expect|denied|goodbye) [^ ]|^(message|broadcast) /;
const REFUSAL = new RegExp(
  `^err (${[
    "line_too_long",
    "unknown_command",
    "not_logged_in",
    "already_logged_in",
    "bad_request",
    "busy",
    "unknown_session( replaced)?",
    "unknown_user",
    "locked_out \\d+",
    "wrong_password [12]",
    "blocked",
    "mailbox_full",
    "already_blocked",
    "not_blocked",
    "offline",
    "not_listening",
    "already_asked",
    "no_request",
  ].join("|")})( .+)?$`,
  "s",
);
/** What may stand behind `ok`, by verb. */
const OK: Record<string, RegExp> = {
  login: /^ok [\w-]{22,64} 35( secret=[\w-]{22,64})?( received=\d+)?$/,
  resume: /^ok \d+$/,
  message: /^ok (sent|stored)$/,
  broadcast: /^ok \d+$/,
  online: /^ok( [A-Za-z0-9][\w.-]*)*$/,
  block: /^ok$/,
  unblock: /^ok$/,
  getaddress: /^ok asked$/,
  private_answer: /^ok$/,
  alive: /^ok( \d+)?$/,
  logout: /^ok$/,
};

const PEERS = 3;
const peer = fc.nat({ max: PEERS - 1 });

const step = fc.oneof(
  { weight: 20, arbitrary: fc.record({ peer, line }) },
  { weight: 1, arbitrary: fc.record({ peer, line: longLine }) },
  { weight: 2, arbitrary: fc.record({ hangsUp: peer }) },
  { weight: 1, arbitrary: fc.record({ passMs: fc.constantFrom(100, 1_000, 30_000, 70_000) }) },
);

/** The client of a callback session: it takes what is safe, and says nothing. */
class Called implements Caller {
  taken = "";
  readonly #session: Session;

  constructor(session: Session) {
    this.#session = session;
  }

  flush(): void {
    const { outbox } = this.#session;
    while (outbox.peek()) {
      this.taken += outbox.piece.toString("latin1", outbox.pieceStart, outbox.pieceEnd);
      outbox.advance(outbox.pieceEnd - outbox.pieceStart);
    }
  }

  retry(): void {
    this.flush();
  }

  giveUp(): void {}
}

/** Three connections to a chat: whenever one is gone, another takes its place. */
class Room {
  readonly world = new World(NAMES);
  readonly called: Called[] = [];
  readonly #peers: TestPeer[] = [];
  readonly #lineBytesMax: number;

  constructor(lineBytesMax: number, late: boolean) {
    this.#lineBytesMax = lineBytesMax;
    this.world.newCaller = (session) => {
      const called = new Called(session);
      this.called.push(called);
      return called;
    };
    for (let i = 0; i < PEERS; i++) this.#peers.push(this.#connect());
    // So that there is something to talk about from the start.
    for (const [i, name] of NAMES.slice(0, PEERS - 1).entries()) {
      this.world.say(this.#peers[i]!, `login ${name} secret listen=4242${i === 0 ? " resumable" : ""}`);
      this.#peers[i]!.read();
    }
    const { verify } = this.world;
    if (late) this.world.verify = async (account, password) => (await verify(account, password)) === true;
  }

  #connect(): TestPeer {
    return this.world.connect(`192.0.2.${this.#peers.length + 1}`, this.#lineBytesMax);
  }

  /** What everybody hears is well-formed: one reply to who has spoken, if anybody has, and none to others. */
  #hear(speaker: TestPeer | null, line: string): void {
    for (const peer of this.#peers) {
      expectAlike(peer.begun, "", "what came behind the last whole line");
      const lines = peer.read();
      for (const heard of lines) {
        expectThat(heard.length < SERVER_LINE_BYTES_MAX, () => `a line of ${heard.length + 1} bytes`);
      }
      const replies = lines.filter((heard) => /^(ok|err)( |$)/.test(heard));
      // From there on comes what a resumed session had said before, from any position of it.
      if (peer === speaker && line.startsWith("resume ") && replies[0] === lines[0] && /^ok/.test(lines[0] ?? ""))
        continue;
      const others = lines.filter((heard) => !/^(ok|err)( |$)/.test(heard));
      expectAlike(
        others.filter((heard) => !EVENT.test(heard)),
        [],
        "lines that are no events",
      );
      expectThat(
        replies.length === (peer === speaker ? 1 : 0),
        () => `${replies.length} replies to ${peer === speaker ? JSON.stringify(line.slice(0, 200)) : "nobody"}`,
      );
      const [reply] = replies;
      if (reply !== undefined) this.#judge(reply, line);
    }
  }

  #judge(reply: string, line: string): void {
    const [verb = "", , inner = ""] = line.replace(/\r$/, "").split(" ");
    const pattern = OK[verb === "as" ? inner : verb];
    expectThat(
      REFUSAL.test(reply) || pattern?.test(reply) === true,
      () => `${JSON.stringify(line.slice(0, 200))} is answered ${JSON.stringify(reply.slice(0, 200))}`,
    );
  }

  async say(index: number, line: string, sizes: readonly number[]): Promise<void> {
    const { world } = this;
    let peer = this.#peers[index]!;
    if (peer.isClosed || peer.closing) peer = this.#peers[index] = this.#connect();
    world.begin();
    for (const chunk of cut(latin1(`${line}\n`), sizes)) peer.feed(chunk);
    world.endTurns();
    while (peer.paused) await world.later();
    this.#hear(peer, line);
  }

  hangUp(index: number): void {
    this.#peers[index]!.hangUp();
    this.#hear(null, "");
  }

  pass(ms: number): void {
    this.world.pass(ms);
    this.world.announce();
    this.#hear(null, "");
  }
}

export const chat = target(
  {
    name: "chat",
    holds: "whatever clients say, each line gets one reply, all that is heard is well-formed, and nothing is a fault",
    batch: 20,
  },
  fc.record({
    steps: fc.array(step, { maxLength: 40, size: "max" }),
    cuts,
    lineBytesMax: fc.constantFrom(4096, LINE_BYTES_MIN, LINE_BYTES_MAX),
    late: fc.boolean(),
  }),
  async ({ steps, cuts, lineBytesMax, late }) => {
    const room = new Room(lineBytesMax, late);
    for (const step of steps) {
      if ("line" in step) await room.say(step.peer, step.line, cuts);
      else if ("hangsUp" in step) room.hangUp(step.hangsUp);
      else room.pass(step.passMs);
      expectAlike(room.world.faults.map(String), [], "faults");
    }
    room.pass(2 * SILENCE_MS);
    expectAlike(room.world.chat.presence.online.length, 0, "sessions in the end");
    for (const { taken } of room.called) {
      const lines = taken.split("\n");
      expectAlike(lines.pop(), "", "what a callback brought behind its last whole line");
      expectAlike(
        lines.filter((heard) => !EVENT.test(heard)),
        [],
        "lines of callbacks that are no events",
      );
    }
    expectAlike(room.world.faults.map(String), [], "faults");
    room.world.store.close();
  },
);
