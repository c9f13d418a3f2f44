import fc from "fast-check";
import type { Caller, Session } from "../../src/chat/session.ts";
import { LINE_BYTES_MAX, LINE_BYTES_MIN, SERVER_LINE_BYTES_MAX } from "../../src/limits.ts";
import { SILENCE_MS, type TestPeer, World } from "../support/chat.ts";
import { NAMES, line, longLine } from "./grammar.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

/** docs/protocol.md: the pattern of every event, and every error code after `err`. */
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
    "unknown_session( replaced| kicked)?",
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
/** The pattern of a reply with `ok`, by verb. */
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

/** The client of a callback session: takes all durable output at once, and acknowledges nothing. */
class TestCaller implements Caller {
  output = "";
  readonly #session: Session;

  constructor(session: Session) {
    this.#session = session;
  }

  flush(): void {
    const { outbox } = this.#session;
    while (outbox.peek()) {
      this.output += outbox.piece.toString("latin1", outbox.pieceStart, outbox.pieceEnd);
      outbox.advance(outbox.pieceEnd - outbox.pieceStart);
    }
  }

  retry(): void {
    this.flush();
  }

  giveUp(): void {}
}

/** Three connections to a chat. A closed one is replaced at its next turn. */
class ChatFixture {
  readonly world = new World(NAMES);
  readonly callers: TestCaller[] = [];
  readonly #peers: TestPeer[] = [];
  readonly #lineBytesMax: number;

  constructor(lineBytesMax: number, late: boolean) {
    this.#lineBytesMax = lineBytesMax;
    this.world.newCaller = (session) => {
      const called = new TestCaller(session);
      this.callers.push(called);
      return called;
    };
    for (let i = 0; i < PEERS; i++) this.#peers.push(this.#connect());
    // Two users are logged in from the start.
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

  /** Checks the output to all connections: valid events, one reply for the line of `sender`, none for the others. */
  #checkOutput(sender: TestPeer | null, line: string): void {
    for (const peer of this.#peers) {
      expectAlike(peer.begun, "", "bytes after the last complete line");
      const lines = peer.read();
      for (const text of lines) {
        expectThat(text.length < SERVER_LINE_BYTES_MAX, () => `a line of ${text.length + 1} bytes`);
      }
      const replies = lines.filter((text) => /^(ok|err)( |$)/.test(text));
      // After the reply to `resume`, the stream continues at any position, also in the middle of a line.
      if (peer === sender && line.startsWith("resume ") && replies[0] === lines[0] && /^ok/.test(lines[0] ?? ""))
        continue;
      const others = lines.filter((text) => !/^(ok|err)( |$)/.test(text));
      expectAlike(
        others.filter((text) => !EVENT.test(text)),
        [],
        "lines that are neither replies nor events",
      );
      expectThat(
        replies.length === (peer === sender ? 1 : 0),
        () => `${replies.length} replies to ${peer === sender ? JSON.stringify(line.slice(0, 200)) : "no line"}`,
      );
      const [reply] = replies;
      if (reply !== undefined) this.#checkReply(reply, line);
    }
  }

  #checkReply(reply: string, line: string): void {
    const [verb = "", , inner = ""] = line.replace(/\r$/, "").split(" ");
    const pattern = OK[verb === "as" ? inner : verb];
    expectThat(
      REFUSAL.test(reply) || pattern?.test(reply) === true,
      () => `${JSON.stringify(line.slice(0, 200))} is answered ${JSON.stringify(reply.slice(0, 200))}`,
    );
  }

  async send(index: number, line: string, sizes: readonly number[]): Promise<void> {
    const { world } = this;
    let peer = this.#peers[index]!;
    if (peer.isClosed || peer.closing) peer = this.#peers[index] = this.#connect();
    world.begin();
    for (const chunk of cut(latin1(`${line}\n`), sizes)) peer.feed(chunk);
    world.endTurns();
    while (peer.paused) await world.later();
    this.#checkOutput(peer, line);
  }

  disconnect(index: number): void {
    this.#peers[index]!.hangUp();
    this.#checkOutput(null, "");
  }

  pass(ms: number): void {
    this.world.pass(ms);
    this.world.announce();
    this.#checkOutput(null, "");
  }
}

export const chat = target(
  {
    name: "chat",
    holds: "each line of a client gets one reply, all output is valid, and no line causes a fault",
    batch: 20,
  },
  fc.record({
    steps: fc.array(step, { maxLength: 40, size: "max" }),
    cuts,
    lineBytesMax: fc.constantFrom(4096, LINE_BYTES_MIN, LINE_BYTES_MAX),
    late: fc.boolean(),
  }),
  async ({ steps, cuts, lineBytesMax, late }) => {
    const room = new ChatFixture(lineBytesMax, late);
    for (const step of steps) {
      if ("line" in step) await room.send(step.peer, step.line, cuts);
      else if ("hangsUp" in step) room.disconnect(step.hangsUp);
      else room.pass(step.passMs);
      expectAlike(room.world.faults.map(String), [], "faults");
    }
    room.pass(2 * SILENCE_MS);
    expectAlike(room.world.chat.presence.online.length, 0, "sessions in the end");
    for (const { output: taken } of room.callers) {
      const lines = taken.split("\n");
      expectAlike(lines.pop(), "", "bytes after the last complete line of a callback session");
      expectAlike(
        lines.filter((text) => !EVENT.test(text)),
        [],
        "lines of callback sessions that are not events",
      );
    }
    expectAlike(room.world.faults.map(String), [], "faults");
    room.world.store.close();
  },
);
