import { afterEach, expect, test } from "bun:test";
import { PASSWORD, type TestPeer } from "../support/chat.ts";
import { removeFolders } from "../support/folders.ts";
import { type Shard, ShardDisk, TestLink } from "../support/shards.ts";

afterEach(removeFolders);

/** A client with a resumable session, which continues after a crash of its server as docs/protocol.md describes. */
class Client {
  readonly name: string;
  #world: Shard;
  #peer: TestPeer;
  /** Its session, and the bytes of the lines that it has received in it. */
  #token = "";
  #received = 0;
  /** Requests of the session without a reply, with the position after each. */
  #pending: { line: string; end: number }[] = [];
  #sent = 0;
  readonly texts: string[] = [];
  readonly replies = new Map<string, string>();

  constructor(name: string, world: Shard) {
    this.name = name;
    this.#world = world;
    this.#peer = world.connect();
    this.login(world);
  }

  /** Logs in at the next owner, and sends again what the last one has not acted on. */
  login(world: Shard): void {
    const after = this.#token === "" ? "" : ` after=${this.#token}:${this.#received}`;
    this.#world = world;
    this.#peer = world.connect();
    world.say(this.#peer, `login ${this.name} ${PASSWORD} resumable${after}`);
    const [reply = "", ...events] = this.#peer.read();
    expect(reply).toMatch(/^ok /);
    this.#token = reply.split(" ")[1]!;
    const acted = Number(/ received=(\d+)/.exec(reply)?.[1] ?? 0);
    const again = this.#pending.filter(({ end }) => end > acted).map(({ line }) => line);
    this.#pending = [];
    this.#received = this.#sent = 0;
    for (const line of events) this.#line(line);
    for (const line of again) this.say(line);
  }

  say(line: string): void {
    this.#sent += line.length + 1;
    this.#pending.push({ line, end: this.#sent });
    this.#world.say(this.#peer, line);
  }

  read(): void {
    for (const line of this.#peer.read()) this.#line(line);
  }

  #line(line: string): void {
    this.#received += line.length + 1;
    const [verb, ...words] = line.split(" ");
    if (verb === "ok" || verb === "err") this.replies.set(this.#pending.shift()!.line, line);
    else if (verb === "message") this.texts.push(words.slice(1).join(" "));
    else if (verb === "stored") this.texts.push(words.slice(2).join(" "));
  }
}

/** What happens to the turn of the shard that is killed: it is lost, only its output is lost, or nothing is. */
const LOSSES = ["turn", "output", "nothing"] as const;
type Loss = (typeof LOSSES)[number];
type Fault = "p" | "q" | "both" | "link";

const MESSAGES = 3;

class Scenario {
  readonly #disks = { p: new ShardDisk(1), q: new ShardDisk(0) };
  #p = this.#disks.p.start();
  #q = this.#disks.q.start();
  #link = this.#connect();
  readonly alice = new Client("alice", this.#p);
  readonly bob = new Client("bob", this.#q);
  readonly #fault: Fault;
  readonly #loss: Loss;
  /** Steps that are left until the fault. */
  #left: number;

  constructor(fault: Fault, loss: Loss, step: number) {
    this.#fault = fault;
    this.#loss = loss;
    this.#left = step;
  }

  #connect(): TestLink {
    const link = new TestLink(this.#p, this.#q);
    link.greet();
    return link;
  }

  /** True when the fault came, so that a later step may have one, too. */
  run(): boolean {
    for (let sent = 1; sent <= MESSAGES; sent++) {
      this.#step(() => void this.alice.say(`message ${sent % 2 === 0 ? "bob" : "carol"} ${sent}`));
      // From the second message on, one more is on its way.
      if (sent > 1) this.#carry(4);
    }
    this.#carry(100);
    expect(this.#link.refusals).toEqual([]);
    expect([...this.#p.warnings, ...this.#q.warnings, ...this.#p.faults, ...this.#q.faults]).toEqual([]);
    return this.#left < 0;
  }

  #carry(steps: number): void {
    for (let i = 0; i < steps; i++) {
      let isIdle = true;
      this.#step(() => void (isIdle = !this.#link.stepQ()));
      this.#step(() => void (this.#link.stepP() && (isIdle = false)));
      this.alice.read();
      this.bob.read();
      if (isIdle) return;
    }
  }

  #step(act: () => void): void {
    if (this.#left-- !== 0) return act();
    for (const world of this.#killed) {
      const save = world.saves;
      world.saves = () => {
        if (this.#loss === "turn") return false;
        const saved = save();
        return this.#loss === "output" ? new Promise(() => {}) : saved;
      };
    }
    act();
    if (this.#loss === "nothing") {
      this.alice.read();
      this.bob.read();
    }
    this.#link.cut();
    if (this.#fault === "p" || this.#fault === "both") this.#p = this.#disks.p.start();
    if (this.#fault === "q" || this.#fault === "both") this.#q = this.#disks.q.start();
    this.#link = this.#connect();
    if (this.#fault === "p" || this.#fault === "both") this.alice.login(this.#p);
    if (this.#fault === "q" || this.#fault === "both") this.bob.login(this.#q);
  }

  get #killed(): Shard[] {
    return { p: [this.#p], q: [this.#q], both: [this.#p, this.#q], link: [] }[this.#fault];
  }

  /** What carol finds in her mailbox. */
  carol(): string[] {
    const carol = new Client("carol", this.#q);
    return carol.texts;
  }
}

for (const [fault, losses] of [
  ["p", LOSSES],
  ["q", LOSSES],
  ["both", LOSSES],
  ["link", ["nothing"]],
] as const)
  for (const loss of losses) {
    const name = fault === "link" ? "the link is cut" : `${fault} is killed and ${loss} is lost`;
    test(`at any step ${name}: each message arrives once and in order, and no reply is wrong`, () => {
      let step = 0;
      for (let hasFault = true; hasFault; step++) {
        const scenario = new Scenario(fault, loss, step);
        hasFault = scenario.run();
        const { alice, bob } = scenario;
        expect([step, bob.texts]).toEqual([step, ["2"]]);
        expect([step, scenario.carol()]).toEqual([step, ["1", "3"]]);
        for (const [request, reply] of alice.replies)
          expect([step, request, reply]).toEqual([step, request, request.includes("bob") ? "ok sent" : "ok stored"]);
        if (fault === "link" || fault === "q") expect([step, alice.replies.size]).toEqual([step, MESSAGES]);
        removeFolders();
      }
      expect(step).toBeGreaterThan(MESSAGES * 4);
    });
  }
