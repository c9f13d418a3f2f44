import { afterEach, beforeEach, expect, test } from "bun:test";
import { PASSWORD, type WireClient, WireServer } from "../support/wire.ts";

let server: WireServer;

beforeEach(async () => {
  server = new WireServer();
  await server.ready();
});

afterEach(() => server.stop());

/** The client of a resumable session: its connection, its token, and its position in the stream. */
class Resumable {
  received = 0;

  private constructor(
    public wire: WireClient,
    readonly token: string,
  ) {}

  static async login(name: string, options = ""): Promise<Resumable> {
    const wire = await server.connect();
    wire.sendLines(`login ${name} ${PASSWORD} resumable${options}`);
    const [ok, token] = (await wire.line()).split(" ");
    expect(ok).toBe("ok");
    return new Resumable(wire, token!);
  }

  async hears(...lines: string[]): Promise<void> {
    for (const line of lines) {
      await this.wire.expectLines(line);
      this.received += Buffer.byteLength(line, "latin1") + 1;
    }
  }

  /** Continues on another connection. The earlier one stays open. */
  async resume(received: number, serverReceived: number): Promise<void> {
    this.wire = await server.connect();
    await this.wire.expectReply(`resume ${this.token} ${received}`, `ok ${serverReceived}`);
  }
}

const LINE = (line: string): number => line.length + 1;

test("a session survives its connection: messages follow the resume, and others receive no left", async () => {
  const alice = await Resumable.login("alice");
  const bob = await server.login("bob");
  await alice.hears("joined bob");
  alice.wire.cut();
  await bob.expectReply("message alice while you were cut", "ok sent");
  await bob.expectReply("online", "ok alice");
  await bob.expectReply("broadcast to all", "ok 1");
  await alice.resume(alice.received, 0);
  await alice.hears("message bob while you were cut", "broadcast bob to all");
  await bob.expectReply("alive", "ok");
});

test("unacknowledged bytes are sent again from exactly the client's position", async () => {
  const alice = await Resumable.login("alice");
  alice.wire.sendLines("message alice one", "message alice two");
  await alice.hears("message alice one", "ok sent", "message alice two", "ok sent");
  const requests = LINE("message alice one") + LINE("message alice two");
  await alice.resume(LINE("message alice one") + 3, requests);
  await alice.wire.expectLines("sent", "message alice two", "ok sent");
  await alice.resume(alice.received, requests);
  await alice.wire.expectReply("online", "ok");
});

test("alive acknowledges, and its reply has the server's position in the client's stream", async () => {
  const alice = await Resumable.login("alice");
  await alice.wire.expectReply("alive", "ok 6");
  await alice.wire.expectReply("alive 5", `ok ${6 + 8}`);
  alice.wire.send("nonsense\r\n");
  await alice.wire.expectLines("err unknown_command");
  await alice.wire.expectReply("alive 4", `ok ${14 + 10 + 8}`);
});

test("a position beyond the sent bytes is a bad request without effect, and a lower one is ignored", async () => {
  const alice = await Resumable.login("alice");
  await alice.wire.expectReply("alive 1", "err bad_request so much was never sent");
  await alice.wire.expectReply("logout 1000", "err bad_request so much was never sent");
  const sent = 2 * LINE("err bad_request so much was never sent");
  const said = LINE("alive 1") + LINE("logout 1000");
  const other = await server.connect();
  await other.expectReply(`resume ${alice.token} ${sent + 1}`, "err bad_request so much was never sent");
  await alice.wire.expectReply(`alive ${sent}`, `ok ${said + 9}`);
  await alice.wire.expectReply("alive 0", `ok ${said + 9 + 8}`);
  await alice.resume(0, said + 9 + 8);
  await alice.wire.expectLines(`ok ${said + 9}`, `ok ${said + 9 + 8}`);
});

test("a resume closes the earlier connection of the session without a goodbye", async () => {
  const alice = await Resumable.login("alice");
  const old = alice.wire;
  await alice.resume(0, 0);
  await old.expectEnd();
  await alice.wire.expectReply("online", "ok");
});

test("a pipeline that is cut at any byte is acted on once, and each reply is received once", async () => {
  const requests = Array.from({ length: 12 }, (_, index) => `message alice text number ${index}`);
  const bytes = Buffer.from(requests.map((line) => `${line}\n`).join(""));
  let after = "";
  for (let cut = 0; cut <= bytes.length; cut += 7) {
    const alice = await Resumable.login("alice", after);
    alice.wire.send(bytes.subarray(0, cut));
    await alice.wire.finish();
    const before = await alice.wire.rest();
    const received = before.reduce((sum, line) => sum + LINE(line), 0);
    alice.wire = await server.connect();
    alice.wire.sendLines(`resume ${alice.token} ${received}`);
    const acted = Number((await alice.wire.line()).split(" ")[1]);
    expect(acted).toBe(bytes.subarray(0, cut).lastIndexOf(10) + 1);
    alice.wire.send(bytes.subarray(acted));
    alice.wire.sendLines("logout");
    const all = [...before, ...(await alice.wire.rest())];
    expect(all).toEqual([...requests.flatMap((line) => [line, "ok sent"]), "ok"]);
    after = ` after=${alice.token}:${all.reduce((sum, line) => sum + LINE(line), 0)}`;
  }
});

test("a session that is not resumed expires, and its messages wait for the next login", async () => {
  await server.stop();
  server = new WireServer({ idleTimeoutMs: 300 });
  await server.ready();
  const alice = await Resumable.login("alice");
  alice.wire.cut();
  const bob = await server.connect();
  await bob.expectReply(`login bob ${PASSWORD}`, "ok <token> 0.3");
  await bob.expectReply("message alice one", "ok sent");
  await bob.expectLines("left alice expired");
  const again = await server.connect();
  again.sendLines(`login alice ${PASSWORD}`);
  await again.expectLines("ok <token> 0.3", "stored bob <ms> one");
  const late = await server.connect();
  await late.expectReply(`resume ${alice.token} 0`, "err unknown_session");
});

test("unknown_session names a replaced token as replaced, and no other", async () => {
  const alice = await Resumable.login("alice");
  const young = await Resumable.login("alice");
  await alice.wire.expectLines("goodbye replaced");
  await alice.wire.expectEnd();
  const late = await server.connect();
  await late.expectReply(`resume ${alice.token} 0`, "err unknown_session replaced");
  await late.expectReply("resume AAAAAAAAAAAAAAAAAAAAAA 0", "err unknown_session");
  late.sendLines("resume short 0");
  expect(await late.line()).toBe("err bad_request resume <token> <received>");
  await young.wire.expectReply("logout", "ok");
  await late.expectReply(`resume ${young.token} 0`, "err unknown_session");
  const plain = await server.login("bob");
  await plain.expectReply(`resume ${alice.token} 0`, "err already_logged_in");
});

test("a login with after= receives only what the older session had not received", async () => {
  const alice = await Resumable.login("alice");
  const bob = await server.login("bob");
  await alice.hears("joined bob");
  for (const text of ["one", "two", "three"]) await bob.expectReply(`message alice ${text}`, "ok sent");
  await alice.hears("message bob one", "message bob two");
  const said = await server.connect();
  said.sendLines(`login alice ${PASSWORD} resumable after=${alice.token}:${alice.received}`);
  await said.expectLines("ok <token> 35 received=0", "stored bob <ms> three");
  await said.expectReply("online", "ok bob");
});

test("received= has the server's position in the older session's stream, also after a restart", async () => {
  const folder = `${process.env.TMPDIR ?? "/tmp"}/heartline-${process.pid}-${performance.now()}`;
  await server.stop();
  server = new WireServer({ data: folder });
  await server.ready();
  const alice = await Resumable.login("alice");
  await alice.wire.expectReply("message alice hi", "message alice hi");
  await server.stop();
  server = new WireServer({ data: folder });
  await server.ready();
  const again = await server.connect();
  again.sendLines(`login alice ${PASSWORD} after=${alice.token}:${LINE("message alice hi")}`);
  await again.expectLines(`ok <token> 35 received=${LINE("message alice hi")}`);
  await again.expectReply("alive", "ok");
  const bob = await server.connect();
  bob.sendLines(`login bob ${PASSWORD} after=${alice.token}:0`);
  await bob.expectLines("ok <token> 35");
});

test("a mailbox of any size is delivered as fast as it is acknowledged", async () => {
  const bob = await server.login("bob");
  const texts = Array.from({ length: 3000 }, (_, index) => `${index} ${"x".repeat(400)}`);
  bob.sendLines(...texts.map((text) => `message alice ${text}`));
  for (const _ of texts) await bob.expectLines("ok stored");
  const alice = await Resumable.login("alice");
  let received = 0;
  let unacked = 0;
  for (let index = 0; index < texts.length;) {
    const line = await alice.wire.line();
    received += LINE(line);
    if (line.startsWith("ok ")) continue;
    expect(line.slice(line.indexOf(" ", 11) + 1)).toBe(texts[index++]!);
    if ((unacked += LINE(line)) < 64 << 10) continue;
    alice.wire.sendLines(`alive ${received}`);
    unacked = 0;
  }
});

test("a session with too many unacknowledged bytes ends as slow, and the next login gets them once", async () => {
  const alice = await Resumable.login("alice");
  alice.wire.cut();
  const bob = await server.login("bob");
  const texts = Array.from({ length: 600 }, (_, index) => `${index} ${"x".repeat(2000)}`);
  bob.sendLines(...texts.map((text) => `message alice ${text}`));
  const replies = new Map<string, number>();
  for (let count = 0; count < texts.length + 1; count++) {
    const line = await bob.line();
    replies.set(line, (replies.get(line) ?? 0) + 1);
  }
  expect(replies.get("left alice slow")).toBe(1);
  const again = await server.connect();
  again.sendLines(`login alice ${PASSWORD} after=${alice.token}:0`);
  await again.expectLines("ok <token> 35 received=0");
  for (const text of texts) await again.expectLines(`stored bob <ms> ${text}`);
  await again.expectReply("alive", "ok");
});

test("a client that reads and acknowledges is never slow, at any rate", async () => {
  const alice = await Resumable.login("alice");
  const bob = await server.login("bob");
  await alice.hears("joined bob");
  let received = alice.received;
  const texts = Array.from({ length: 4000 }, (_, index) => `${index} ${"x".repeat(2000)}`);
  bob.sendLines(...texts.map((text) => `message alice ${text}`));
  let next = 0;
  let unacked = 0;
  while (next < texts.length) {
    const line = await alice.wire.line();
    received += LINE(line);
    const found = /^(?:message bob|stored bob \d+) (.*)$/.exec(line);
    if (found === null) expect(line).toStartWith("ok ");
    else expect(found[1]).toBe(texts[next++]!);
    if ((unacked += LINE(line)) < 64 << 10) continue;
    alice.wire.sendLines(`alive ${received}`);
    unacked = 0;
  }
});

test("contradictory and malformed options are refused", async () => {
  const wire = await server.connect();
  const bad = [
    "resumable resumable",
    "resumable callback=2000",
    "callback=80",
    "after=x:1",
    "after=AAAAAAAAAAAAAAAAAAAAAA",
  ];
  for (const options of bad) {
    wire.sendLines(`login alice ${PASSWORD} ${options}`);
    expect(await wire.line()).toStartWith("err bad_request ");
  }
});
