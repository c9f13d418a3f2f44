import { afterEach, beforeEach, expect, test } from "bun:test";
import { PASSWORD, type WireClient, WireServer } from "../support/wire.ts";

let server: WireServer;
const phones: Phone[] = [];

beforeEach(() => {
  server = new WireServer();
});

afterEach(async () => {
  await server.stop();
  for (const phone of phones.splice(0)) phone.hangUp();
});

/** What a call does to a phone: the answers it gets to `callback ...` and, once the bytes are there, to those. */
interface Manners {
  ready?: string;
  received?: (position: number) => string;
}

/** A callback client: it listens, logs in, says each request on a connection of its own, and takes calls. */
class Phone {
  token = "";
  secret = "";
  received = 0;
  /** Lines that calls delivered, each once. */
  readonly lines: string[] = [];
  /** What calls began with: `<position> <bytes>`. */
  readonly calls: string[] = [];
  manners: Manners = {};
  #listener: Bun.TCPSocketListener<{ text: string }> | null = null;
  #changed = (): void => {};

  static async login(name: string, options = ""): Promise<Phone> {
    const phone = new Phone();
    phones.push(phone);
    phone.#listen(0);
    const wire = await server.connect();
    wire.say(`login ${name} ${PASSWORD} callback=${phone.port}${options}`);
    const [ok, token, silence, secret] = (await wire.line()).split(" ");
    expect([ok, silence]).toEqual(["ok", "35"]);
    phone.token = token!;
    phone.secret = secret!.replace("secret=", "");
    await wire.ends();
    return phone;
  }

  get port(): number {
    return this.#listener!.port;
  }

  #listen(port: number): void {
    this.#listener = Bun.listen<{ text: string }>({
      hostname: "127.0.0.1",
      port,
      socket: {
        open: (socket) => void (socket.data = { text: "" }),
        data: (socket, chunk) => {
          socket.data.text += chunk.toString("latin1");
          this.#hear(socket.data.text, (answer) => socket.write(answer));
        },
      },
    });
  }

  #hear(text: string, answer: (line: string) => void): void {
    const lf = text.indexOf("\n");
    const [verb, secret, position, bytes] = text.slice(0, lf).split(" ");
    expect(verb).toBe("callback");
    if (secret !== this.secret) return; // The login's reply is still on its way, or it is a stranger.
    if (text.length === lf + 1) {
      this.calls.push(`${position} ${bytes}`);
      answer(`${this.manners.ready ?? `ready ${this.token}`}\n`);
    }
    if (text.length !== lf + 1 + Number(bytes)) return this.#changed();
    const news = text.slice(lf + 1).slice(this.received - Number(position));
    this.lines.push(...news.split("\n").slice(0, -1));
    this.received = Number(position) + Number(bytes);
    answer(`${this.manners.received?.(this.received) ?? `received ${this.received}`}\n`);
    this.#changed();
  }

  /** One request on a connection of its own. */
  async asks(request: string, reply: string): Promise<void> {
    const wire = await server.connect();
    await wire.asks(`as ${this.token} ${request}`, reply);
    await wire.ends();
  }

  async hears(...expected: string[]): Promise<void> {
    while (this.lines.length < expected.length) await new Promise<void>((resolve) => (this.#changed = resolve));
    const heard = this.lines.splice(0, expected.length).map((line) => line.replace(/^(stored \S+) \d{13}/, "$1 <ms>"));
    expect(heard).toEqual(expected);
  }

  async called(times: number): Promise<void> {
    while (this.calls.length < times) await new Promise<void>((resolve) => (this.#changed = resolve));
  }

  hangUp(): void {
    this.#listener!.stop(true);
  }

  /** Listens at the port that it had, or at a free one. */
  pickUp(): void {
    this.#listen(this.#listener?.port ?? 0);
  }
}

test("the first call comes right after the login, even with nothing to deliver", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  expect(alice.calls).toEqual(["0 0"]);
});

test("everything in the chat works as in other sessions", async () => {
  const bob = await server.login("bob");
  const alice = await Phone.login("alice");
  await bob.hears("joined alice");
  await alice.asks("online", "ok bob");
  await alice.asks("message bob hi", "ok sent");
  await bob.hears("message alice hi");
  await alice.asks("broadcast to all", "ok 1");
  await bob.hears("broadcast alice to all");
  await bob.asks("message alice you too", "ok sent");
  await alice.hears("message bob you too");
  await bob.asks("broadcast everybody", "ok 1");
  await alice.hears("broadcast bob everybody");
  await alice.asks("block bob", "ok");
  await bob.asks("message alice again", "err blocked");
  await alice.asks("unblock bob", "ok");
  await alice.asks("message carol later", "ok stored");
  await alice.asks("alive", "ok 0");
  await alice.asks("dance", "err unknown_command");
  await alice.asks("message bob", "err bad_request message <user> <text>");
  await alice.asks("logout", "ok");
  await bob.hears("left alice logout");
  const late = await server.connect();
  await late.asks(`as ${alice.token} online`, "err unknown_session");
});

test("a user's callback and another's are two ends of a chat; a message to oneself comes by a call", async () => {
  const alice = await Phone.login("alice");
  const bob = await Phone.login("bob");
  await alice.hears("joined bob");
  await alice.asks("message bob hi", "ok sent");
  await bob.hears("message alice hi");
  await bob.asks("message bob me", "ok sent");
  await bob.hears("message bob me");
});

test("as cannot log in, resume or nest, and needs a token of a callback session", async () => {
  const alice = await Phone.login("alice");
  for (const inner of ["login alice x", `resume ${alice.token} 0`, `as ${alice.token} online`]) {
    const wire = await server.connect();
    wire.say(`as ${alice.token} ${inner}`);
    expect(await wire.line()).toBe("err bad_request as <token> <request>");
  }
  const wire = await server.connect();
  await wire.asks(`as AAAAAAAAAAAAAAAAAAAAAA online`, "err unknown_session");
});

test("a stranger at the port learns nothing and confirms nothing", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  alice.manners = { ready: "ready AAAAAAAAAAAAAAAAAAAAAA" };
  const bob = await server.login("bob");
  await bob.asks("message alice secret", "ok sent");
  await alice.called(2);
  expect(alice.lines).toEqual([]);
  alice.manners = { ready: "received 1000" };
  await alice.asks("alive", "ok 0");
  await alice.called(3);
  expect(alice.lines).toEqual([]);
  alice.manners = {};
  await alice.asks("alive", "ok 0");
  await alice.hears("joined bob", "message bob secret");
});

test("a delivery that is not confirmed, or beyond what was sent, is made again from the same position", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  alice.manners = { received: () => "received 1000000" };
  await alice.asks("message alice one", "ok sent");
  await alice.hears("message alice one");
  alice.manners = {};
  await alice.asks("alive", "ok 0");
  await alice.asks("message alice two", "ok sent");
  await alice.hears("message alice two");
  expect(alice.calls[1]).toBe("0 18");
  expect(alice.calls[2]).toBe("0 18");
});

test("a client that cannot be reached for a while gets everything when it can", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  alice.hangUp();
  const bob = await server.login("bob");
  for (const text of ["one", "two"]) await bob.asks(`message alice ${text}`, "ok sent");
  alice.pickUp();
  await alice.hears("joined bob", "message bob one", "message bob two");
});

test("a takeover and the server's stop are told by one more call", async () => {
  const alice = await Phone.login("alice");
  const young = await Phone.login("alice");
  await alice.hears("goodbye replaced");
  const late = await server.connect();
  await late.asks(`as ${alice.token} online`, "err unknown_session replaced");
  await young.called(1);
  const stopped = server.stop();
  await young.hears("goodbye shutdown");
  await stopped;
});

test("a silent callback session expires and is told; calls that are answered count as heard", async () => {
  await server.stop();
  server = new WireServer({ silenceMs: 300 });
  const phone = new Phone();
  phones.push(phone);
  const wire: WireClient = await server.connect();
  wire.say(`login alice ${PASSWORD} callback=${listenFor(phone)}`);
  const [, token, , secret] = (await wire.line()).split(" ");
  phone.token = token!;
  phone.secret = secret!.replace("secret=", "");
  await phone.hears("goodbye expired");
});

test("what an ended session had carried does not come again with after=, nor what its last call confirmed", async () => {
  const alice = await Phone.login("alice");
  await alice.called(1);
  await alice.asks("message alice one", "ok sent");
  await alice.hears("message alice one");
  alice.hangUp();
  await alice.asks("message alice two", "ok sent");
  const wire = await server.connect();
  wire.say(`login alice ${PASSWORD} after=${alice.token}:${alice.received}`);
  await wire.hears("ok <token> 35", "stored alice <ms> two");
  await wire.asks("alive", "ok");
});

function listenFor(phone: Phone): number {
  phone.pickUp();
  return phone.port;
}
