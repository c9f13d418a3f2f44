import fc from "fast-check";
import pino from "pino";
import { LINK_RETRY_MAX_MS } from "../../src/limits.ts";
import { Directory } from "../../src/net/directory.ts";
import { NeighbourLinks } from "../../src/net/neighbour-links.ts";
import { OwnerEnd, SECRET } from "../support/owner-end.ts";
import { Shard } from "../support/shards.ts";
import { DAY_MS, noise, number, numbered, passMs, repliesIn, textsIn, withMistakes, words } from "./link-lines.ts";
import { cut, cuts, expectAlike, expectThat, latin1, target } from "./target.ts";

const user = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom("alice", "dave") },
  fc.constantFrom("bob", "#0", "#1", "nobody", "", "a".repeat(33)),
);

/** The shard of bob and carol, with a link to a neighbour that is faulty. */
class Forwards {
  readonly q = new Shard(0, 1, { idleTimeoutMs: DAY_MS });
  readonly #bob = this.q.connect();
  readonly #links: NeighbourLinks;
  readonly #ends: OwnerEnd[] = [];
  /** Those that are not connected yet. */
  readonly #dialing = new Set<OwnerEnd>();
  #texts = 0;
  /** Texts that bob must receive, and those that wait for carol. */
  readonly #accepted: Record<string, string[]> = { bob: [], carol: [] };
  readonly #received: string[] = [];

  constructor() {
    const { q } = this;
    const directory = new Directory(2);
    q.say(this.#bob, "login bob secret listen=4242");
    this.#links = new NeighbourLinks({
      connections: q.connections,
      requests: q.foreignRequests,
      others: q.neighbourEvents!,
      secret: SECRET,
      dial: (owner, events) => {
        const end = new OwnerEnd(owner, events, q);
        this.#ends.push(end);
        this.#dialing.add(end);
      },
      self: { shard: 0, epoch: 1 },
      directory,
      log: pino({ level: "silent" }),
    });
    q.begin();
    directory.set(1, { shard: 1, host: "10.0.0.1", port: 6010, epoch: 5 }, 5);
    this.#links.start();
    q.endTurns();
  }

  get #heard(): number {
    return this.q.foreignRequests.heard(1);
  }

  /** The end of the present link, after its handshake with `ok <answered>`; null while none is dialed. */
  #end(answered: string): OwnerEnd | null {
    const end = this.#ends.at(-1)!;
    if (end.ended) return null;
    if (this.#dialing.delete(end)) {
      end.greetLink();
      end.say(`ok ${numbered(answered, this.#numbers)}\n`);
    }
    return end.ended ? null : end;
  }

  get #numbers(): Record<string, number> {
    const [first = [this.#heard, null]] = this.q.foreignRequests.kept(1);
    return { heard: this.#heard, last: this.#heard, oldest: first[0] as number };
  }

  say(line: string, answered: string, sizes: readonly number[]): void {
    const end = this.#end(answered);
    this.#read(end);
    if (end === null) return;
    const text = `text ${this.#texts++}`;
    const said = numbered(line, this.#numbers).replace("<text>", text);
    const before = this.#heard;
    end.event(() => {
      for (const chunk of cut(latin1(`${said}\n`), sizes)) if (!end.ended) end.events.data(chunk);
    });
    const outcomes = this.#read(end);
    if (this.#heard === before || !outcomes.some((outcome) => /^outcome \d+ ok (sent|stored)$/.test(outcome))) return;
    const [, to] = new RegExp(`message (bob|carol) ${text}$`).exec(said) ?? [];
    if (to !== undefined) this.#accepted[to]!.push(text);
  }

  close(): void {
    const end = this.#end("0");
    if (end === null) return;
    this.#read(end);
    end.closed(true);
    end.ended = true;
  }

  pass(ms: number): void {
    this.q.pass(ms);
    for (const end of this.#dialing) {
      if (end === this.#ends.at(-1)) continue;
      this.#dialing.delete(end);
      end.failed(); // No attempt hangs for longer.
    }
    this.#read(this.#ends.at(-1)!);
  }

  /** Checks what was written. The outcomes. */
  #read(end: OwnerEnd | null): string[] {
    const lines = this.#bob.read();
    repliesIn(lines);
    this.#received.push(...textsIn(lines));
    expectAlike(this.q.faults.map(String), [], "faults");
    const { up } = this.#links;
    expectThat(end === null || !end.ended || up === 0, () => "a link that has ended is up");
    if (end === null || this.#dialing.has(end)) return [];
    const written = end.lines();
    const valid = /^(outcome \d+ (ok|err)( .*)?|tell \d+ (address|denied) .*|alive \d+|proof .*|heard \d+)$/s;
    expectAlike(
      written.filter((line) => !valid.test(line)),
      [],
      "lines that no owner takes",
    );
    return written.filter((line) => line.startsWith("outcome "));
  }

  /** A neighbour without faults gets a link, on which requests are acted on; everything accepted has arrived once. */
  heal(): void {
    const { q } = this;
    this.close();
    for (let i = 0; this.#ends.at(-1)!.ended; i++) {
      expectThat(i < 100, () => "no link is dialed any more");
      q.pass(LINK_RETRY_MAX_MS / 10);
    }
    for (const line of ["message alice <heard+1> <heard+0> message bob <text>", "present alice", "present"])
      this.say(line, "<heard+0>", []);
    expectAlike(this.#accepted.bob!.at(-1), `text ${this.#texts - 3}`, "the message after the last link");
    const carol = textsIn(q.login("carol").read());
    expectAlike([this.#received, carol], [this.#accepted.bob, this.#accepted.carol], "messages that arrived");
    q.store.close();
  }
}

const forward = fc.oneof(
  {
    weight: 6,
    arbitrary: words("message", user, number, number, fc.constantFrom("message bob <text>", "message carol <text>")),
  },
  {
    weight: 6,
    arbitrary: words("message alice <heard+1> <heard+0> message", fc.constantFrom("bob", "carol"), "<text>"),
  },
  { weight: 1, arbitrary: words("stored", user, number, number, number, "message bob <text>") },
  { weight: 1, arbitrary: words("message alice <heard+1> <heard+0>", fc.oneof(words("block", user), noise)) },
  {
    weight: 1,
    arbitrary: words(
      "message alice <heard+1> <heard+0> getaddress bob",
      fc.constantFrom("-", "QUJD", "?"),
      number,
      noise,
    ),
  },
);
const event = fc.oneof(
  words(fc.constantFrom("joined", "present"), user),
  fc.constantFrom("present", "ok", "ok 0", "ok 20", "err internal"),
  words("left", user, fc.constantFrom("logout", "disconnected", "bored")),
  words("broadcast", user, noise),
  words("tell", number, noise),
  words("gone", number),
);

export const linkRequests = target(
  {
    name: "link-requests",
    holds: "whatever a neighbour sends on a link to it, each request is acted on once, and clients get valid events",
    batch: 20,
  },
  fc.record({
    steps: fc.array(
      fc.oneof(
        {
          weight: 14,
          arbitrary: fc.record({
            line: withMistakes(fc.oneof({ weight: 3, arbitrary: forward }, { weight: 2, arbitrary: event })),
            answered: fc.oneof({ weight: 3, arbitrary: fc.constant("<oldest-1>") }, number),
          }),
        },
        { weight: 2, arbitrary: fc.record({ passMs }) },
        { weight: 1, arbitrary: fc.constant({ isClosed: true as const }) },
      ),
      { maxLength: 40, size: "max" },
    ),
    cuts,
  }),
  ({ steps, cuts }) => {
    const forwards = new Forwards();
    for (const step of steps) {
      if ("line" in step) forwards.say(step.line, step.answered, cuts);
      else if ("passMs" in step) forwards.pass(step.passMs);
      else forwards.close();
    }
    forwards.heal();
  },
);
