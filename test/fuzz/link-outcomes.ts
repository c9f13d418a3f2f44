import fc from "fast-check";
import { numberOf } from "../../src/net/cluster-handshake.ts";
import type { TestPeer } from "../support/chat.ts";
import { Shard, TestLink } from "../support/shards.ts";
import { Wire } from "../support/simulated-transport.ts";
import { DAY_MS, IS_REPLY, number, numbered, passMs, repliesIn, textsIn, withMistakes, words } from "./link-lines.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

const reply = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom("ok sent", "ok stored", "ok", "err blocked", "err busy later, please") },
  fc.constantFrom("", "okay", "err", "message eve hello", "goodbye kicked", "\xff"),
);

const told = fc.constantFrom(
  "denied bob",
  "address bob 192.0.2.1 5000 x",
  "denied",
  "ok asked",
  "message bob hello",
  "",
);

/** The shard of alice, whose requests go to a neighbour that is faulty. */
class Requests {
  readonly p = new Shard(1, 1, { limits: { requestsPerSecondMax: 0 }, idleTimeoutMs: DAY_MS });
  readonly #alice: TestPeer;
  #link: Wire | null = null;
  readonly #requests: string[] = [];
  readonly #replies: string[] = [];
  /** The neighbour has said that it knows requests that this shard does not know. */
  #hasLost = false;

  constructor() {
    [this.#alice] = this.p.online("alice") as [TestPeer];
  }

  get #numbers(): Record<string, number> {
    const { lastNumber, ackedNumber, slots } = this.p.neighbour;
    const [oldest = lastNumber] = slots.keys();
    return { last: lastNumber, oldest, heard: ackedNumber };
  }

  connect(heard: string): void {
    const { p } = this;
    const link = new Wire({}, p);
    const number = numberOf(numbered(heard, this.#numbers));
    if (Number.isNaN(number)) return; // The handshake refuses it.
    if (number > p.neighbour.lastNumber) this.#hasLost = true;
    this.#read();
    link.event(() => p.chat.neighbours!.connected(link.connection, 0, 1, number));
    if (p.neighbour.session?.peer === link.connection) this.#link = link; // Otherwise it was refused.
    this.#read();
  }

  request(line: string): void {
    const text = `${line} text ${this.#requests.length}`;
    this.#requests.push(text);
    this.p.say(this.#alice, /^message/.test(line) ? text : line);
    this.#read();
  }

  say(line: string, sizes: readonly number[]): void {
    const link = this.#link;
    if (link === null || this.p.neighbour.session === null) return;
    this.#read();
    link.event(() => {
      for (const chunk of cut(latin1(`${numbered(line, this.#numbers)}\n`), sizes)) link.receiver.data(chunk);
    });
    const replies = this.#read();
    const isOver = this.p.neighbour.session === null;
    const expected = line.startsWith("tell ") ? 0 : 1;
    expectThat(isOver || replies === expected, () => `${replies} replies to ${JSON.stringify(line.slice(0, 200))}`);
  }

  cut(): void {
    this.#link?.event(() => this.#link!.connection.closed());
    this.#link = null;
    this.#read();
  }

  pass(ms: number): void {
    this.p.pass(ms);
    this.#read();
  }

  /** Checks what was written. The number of replies on the link. */
  #read(): number {
    this.#replies.push(...repliesIn(this.#alice.read()));
    expectThat(this.#replies.length <= this.#requests.length, () => "more replies than requests");
    expectAlike(this.p.faults.map(String), [], "faults");
    const lines = this.#link?.read() ?? [];
    const others = /^(message|stored|broadcast|joined|left|present|tell|gone|goodbye|refused)( |$)/;
    expectAlike(
      lines.filter((line) => !IS_REPLY.test(line) && !others.test(line)),
      [],
      "lines that no neighbour takes",
    );
    return lines.filter((line) => IS_REPLY.test(line)).length;
  }

  /** A shard without faults takes over: each request gets its reply, and what it accepts arrives once and in order. */
  heal(): void {
    const { p } = this;
    const q = new Shard(0, 1000);
    const [bob] = q.online("bob") as [TestPeer];
    const before = this.#replies.length;
    for (let links = 0; p.neighbour.slots.size > 0 || p.neighbour.account.waiting > 0 || links === 0; links++) {
      expectThat(links < 10, () => `${p.neighbour.slots.size} requests have no outcome`);
      const link = new TestLink(p, q);
      link.greet();
      link.carry();
      this.#read();
      link.cut();
    }
    expectAlike(q.faults.map(String), [], "faults of the other shard");
    expectAlike(this.#replies.length, this.#requests.length, "replies");
    const unknown = this.#replies.slice(before).filter((reply) => reply.startsWith("err internal"));
    if (!this.#hasLost) expectAlike(unknown, [], "replies to requests that were not acted on");
    const carol = q.login("carol");
    for (const [name, peer] of [
      ["bob", bob],
      ["carol", carol],
    ] as const) {
      const texts = textsIn(peer.read());
      const all = this.#requests.map((line) => new RegExp(`^message ${name} (text \\d+)$`).exec(line)?.[1] ?? "");
      const accepted = all.filter((text, i) => text !== "" && i >= before && this.#replies[i]!.startsWith("ok "));
      expectAlike(
        texts.filter((text) => accepted.includes(text)),
        accepted,
        "messages that were accepted",
      );
      expectAlike(
        texts,
        all.filter((text) => texts.includes(text)),
        "messages that arrived",
      );
    }
    for (const { store } of [p, q]) store.close();
  }
}

export const linkOutcomes = target(
  {
    name: "link-outcomes",
    holds: "whatever a neighbour sends on its link, each request gets one reply, and the next link loses nothing",
    batch: 20,
  },
  fc.record({
    steps: fc.array(
      fc.oneof(
        {
          weight: 6,
          arbitrary: fc.record({
            request: fc.constantFrom("message bob", "message carol", "block bob", "unblock bob", "getaddress bob"),
          }),
        },
        {
          weight: 12,
          arbitrary: fc.record({
            line: withMistakes(
              fc.oneof(
                { weight: 4, arbitrary: words("outcome", number, reply) },
                words("alive", number),
                words("tell", number, told),
                fc.constant("alive"),
              ),
            ),
          }),
        },
        { weight: 3, arbitrary: fc.record({ heard: number }) },
        { weight: 1, arbitrary: fc.record({ passMs }) },
        { weight: 1, arbitrary: fc.constant({ isCut: true as const }) },
      ),
      { maxLength: 40, size: "max" },
    ),
    cuts,
  }),
  ({ steps, cuts }) => {
    const requests = new Requests();
    requests.connect("0");
    for (const step of steps) {
      if ("request" in step) requests.request(step.request);
      else if ("line" in step) requests.say(step.line, cuts);
      else if ("heard" in step) requests.connect(step.heard);
      else if ("passMs" in step) requests.pass(step.passMs);
      else requests.cut();
    }
    requests.heal();
  },
);
