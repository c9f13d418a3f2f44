import { expect, test } from "bun:test";
import { PASSWORD, SILENCE_MS, TestPeer, World } from "../support/chat.ts";
import { Random, seedFor } from "../support/random.ts";

const NAMES = ["a", "b", "c", "d", "e"];

/** One user's device: its connection, and the replies that it still expects. */
class Device {
  readonly expected: string[] = [];
  constructor(
    readonly name: string,
    readonly peer: TestPeer,
  ) {}
}

/**
 * Users who come and go, speak, block, read late or little, and are cut off. What each one heard is held against what
 * was accepted: every message once and in order, replies as the rules say, nothing from whom one blocks.
 */
class Simulation {
  readonly world = new World(NAMES, { clockMs: 12_345 });
  readonly #random: Random;
  readonly #devices = new Map<string, Device>();
  readonly #blocks = new Set<string>();
  readonly #accepted = new Map<string, string[]>();
  readonly #heard = new Map<string, string[]>();
  #texts = 0;

  constructor(random: Random) {
    this.#random = random;
    for (const from of NAMES) {
      for (const to of NAMES) {
        this.#accepted.set(`${from} ${to}`, []);
        this.#heard.set(`${from} ${to}`, []);
      }
    }
  }

  step(): void {
    const random = this.#random;
    const [name, other] = [random.pick(NAMES), random.pick(NAMES)];
    const device = this.#devices.get(name);
    const what = random.below(100);
    if (device === undefined || device.peer.isClosed || what < 2) this.login(name);
    else if (what < 4) this.#cut(device);
    else if (what < 5) this.#say(device, "logout", "ok");
    else if (what < 15) device.peer.room = random.below(3) * random.below(100);
    else if (what < 30) device.peer.take(random.pick([50, 1000, 100_000, Number.POSITIVE_INFINITY]));
    else if (what < 34) this.world.pass(random.below(SILENCE_MS / 2));
    else if (what < 50) this.world.pass(random.below(500));
    else if (what < 60) this.#broadcast(device);
    else if (what < 65) this.#say(device, "online", this.#online(name));
    else if (what < 68) this.#block(device, other);
    else if (what < 73) this.#unblock(device, other);
    else this.#message(device, other);
    for (const each of this.#devices.values()) this.#read(each);
  }

  /** All users log in and read everything; then each accepted message has arrived, in order. */
  finish(): void {
    for (const name of NAMES) this.login(name);
    for (const device of this.#devices.values()) this.#read(device);
    expect(Object.fromEntries(this.#heard)).toEqual(Object.fromEntries(this.#accepted));
    expect([...this.#accepted.values()].flat().length).toBeGreaterThan(100);
    for (const name of NAMES) expect(this.world.account(name)).toMatchObject({ waiting: 0, waitingBytes: 0 });
    expect(this.world.faults).toEqual([]);
  }

  /**
   * On a new connection; the older one, if there is one, is taken over and reads nothing more: the line that it had
   * begun to read would be completed there and come here too.
   */
  login(name: string): void {
    const old = this.#devices.get(name);
    if (old !== undefined) old.peer.room = 0;
    const device = new Device(name, this.world.connect());
    device.expected.push(`ok token <n> ${SILENCE_MS / 1000}`);
    this.#devices.set(name, device);
    this.world.say(device.peer, `login ${name} ${PASSWORD}`);
    if (old === undefined) return;
    this.#read(old);
    old.peer.hangUp();
  }

  #cut(device: Device): void {
    device.peer.hangUp();
    this.#read(device);
  }

  #message(device: Device, to: string): void {
    const text = `${++this.#texts} ${"x".repeat(this.#random.below(10) === 0 ? 4000 : this.#random.below(50))}`;
    const blocked = this.#blocks.has(`${to} ${device.name}`);
    if (this.#say(device, `message ${to} ${text}`, blocked ? "err blocked" : "ok sent|ok stored") && !blocked) {
      this.#accepted.get(`${device.name} ${to}`)!.push(text);
    }
  }

  #broadcast(device: Device): void {
    const others = NAMES.filter((name) => name !== device.name && this.#isOnline(name));
    const count = others.filter((name) => !this.#blocks.has(`${name} ${device.name}`)).length;
    this.#say(device, `broadcast ${"y".repeat(1 + this.#random.below(2000))}`, `ok ${count}`);
  }

  #block(device: Device, other: string): void {
    const key = `${device.name} ${other}`;
    const reply = this.#blocks.has(key) ? "err already_blocked" : other === device.name ? "err bad_request" : "ok";
    if (this.#say(device, `block ${other}`, reply) && reply === "ok") this.#blocks.add(key);
  }

  #unblock(device: Device, other: string): void {
    const reply = this.#blocks.has(`${device.name} ${other}`) ? "ok" : "err not_blocked";
    if (this.#say(device, `unblock ${other}`, reply)) this.#blocks.delete(`${device.name} ${other}`);
  }

  #online(asker: string): string {
    const seen = NAMES.filter(
      (name) => name !== asker && this.#isOnline(name) && !this.#blocks.has(`${name} ${asker}`),
    );
    return ["ok", ...seen].join(" ");
  }

  #isOnline(name: string): boolean {
    return this.world.account(name).session !== null;
  }

  /** False when the session has ended and the line is not read. */
  #say(device: Device, line: string, reply: string): boolean {
    if (device.peer.closing) return false;
    device.expected.push(reply);
    this.world.say(device.peer, line);
    return true;
  }

  #read({ name, peer, expected }: Device): void {
    for (const line of peer.read()) {
      const [verb, from, ...rest] = line.split(" ");
      if (verb === "message") this.#heard.get(`${from} ${name}`)!.push(rest.join(" "));
      else if (verb === "stored") this.#heard.get(`${from} ${name}`)!.push(rest.slice(1).join(" "));
      else if (verb === "ok" || verb === "err") this.#reply(line, expected.shift());
      else expect(line).toMatch(/^(broadcast [a-e] y+|(joined|left) [a-e]( \w+)?|goodbye (replaced|slow|expired))$/);
    }
  }

  #reply(line: string, expected = "nothing"): void {
    const said = line.replace(/token\d+/, "token <n>").replace(/(bad_request).*/, "$1");
    if (!expected.split("|").includes(said)) expect(said).toBe(expected);
  }
}

test("in any series of requests, accepted messages arrive once and in order, and replies follow the rules", () => {
  const random = new Random(seedFor("chat"));
  for (let round = 0; round < 20; round++) {
    const simulation = new Simulation(random);
    for (const name of NAMES) simulation.login(name);
    for (let steps = 0; steps < 1500; steps++) simulation.step();
    simulation.finish();
  }
});
