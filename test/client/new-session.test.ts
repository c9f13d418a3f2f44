import { afterEach, expect, jest, test } from "bun:test";
import type { Socket, TCPSocketListener } from "bun";
import { ChatClient } from "heartline/client";
import { UnauthenticatedCallers } from "../../src/client/p2p/listener.ts";
import { PRIVATE_AUTH_MS, PRIVATE_AUTHS_MAX } from "../../src/limits.ts";
import { WireClient } from "../support/wire.ts";

const TOKENS = ["A".repeat(22), "B".repeat(22)];
let listener: TCPSocketListener<undefined>;
let client: ChatClient;

afterEach(() => {
  client.close();
  listener.stop(true);
});

/** A server that sends the reply of `answer` to each line; null closes the connection. */
function serve(answer: (line: string, socket: Socket<undefined>) => string | null): number {
  listener = Bun.listen<undefined>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      data: (socket, chunk) => {
        for (const line of chunk.toString().trimEnd().split("\n")) {
          const reply = answer(line, socket);
          if (reply === null) socket.end();
          else socket.write(reply);
        }
      },
    },
  });
  return listener.port;
}

test("a heartbeat of an ended session is not repeated in the next one, where it would ack too much", async () => {
  const delivered: string[] = [];
  const tokens = [...TOKENS];
  const port = serve((line) => {
    delivered.push(line);
    if (line.startsWith("login")) return `ok ${tokens.shift()} 1 received=0\n`;
    if (line.startsWith("resume")) return "err unknown_session\n";
    if (delivered.filter((other) => other.startsWith("login")).length < 2) return null;
    return line.startsWith("message") ? "ok sent\nmessage SEAS hi\n" : "ok\n";
  });
  const { promise: shown, resolve } = Promise.withResolvers<void>();
  client = new ChatClient({ host: "127.0.0.1", port, onEvent: () => resolve() });
  await client.login("columbia", "secret");
  while (!delivered.some((line) => line.startsWith("alive"))) await Bun.sleep(10);
  await client.message("SEAS", "hi");
  await shown;
  const relogin = delivered.findLastIndex((line) => line.startsWith("login"));
  expect(delivered[relogin]).toBe(`login columbia secret resumable after=${TOKENS[0]}:0`);
  expect(delivered[relogin + 1]).toBe("message SEAS hi");
});

test("catchUp acks until two consecutive replies have no stored message before them", async () => {
  const delivered: string[] = [];
  const answers = ["", "stored SEAS 1 one\n", "", "stored SEAS 2 two\nstored SEAS 3 three\n", "", ""];
  const port = serve((line) => {
    if (line.startsWith("login")) return `ok ${TOKENS[0]} 35\n`;
    delivered.push(line);
    return `${answers.shift()}ok 0\n`;
  });
  client = new ChatClient({ host: "127.0.0.1", port, onEvent: () => {} });
  await client.login("columbia", "secret");
  await client.catchUp();
  // Each reply has 5 bytes. The lines before the second and fourth reply have 18 and 38.
  expect(delivered).toEqual([0, 5, 28, 33, 76, 81].map((position) => `alive ${position}`));
});

test("a call of an ended session delivers nothing, and the next session repeats the pending request", async () => {
  const delivered: string[] = [];
  let callbackPort = 0;
  const tokens = [...TOKENS];
  const call = async (name: string, text: string): Promise<WireClient> => {
    const wire = await WireClient.connect(callbackPort);
    wire.sendLines(`callback ${name} 0 ${text.length}`);
    await wire.expectLines(`ready ${(name === "first" ? TOKENS[0] : TOKENS[1])!}`);
    return wire;
  };
  const line = "message SEAS once\n";
  let late: Promise<WireClient> | null = null;
  const port = serve((request) => {
    const [, asked] = /callback=(\d+)/.exec(request) ?? [];
    if (asked === undefined) return request.startsWith(`as ${TOKENS[0]}`) ? "err unknown_session\n" : "ok sent\n";
    callbackPort = Number(asked);
    const token = tokens.shift();
    const name = token === TOKENS[0] ? "first" : "second";
    setTimeout(() => void call(name, "").catch(() => {}), 20);
    return `ok ${token} 35 secret=${name}\n`;
  });
  const { promise: back, resolve } = Promise.withResolvers<void>();
  client = new ChatClient({
    host: "127.0.0.1",
    port,
    session: "callback",
    onBack: resolve,
    onEvent: (event) => void delivered.push("text" in event ? event.text : event.kind),
  });
  await client.login("columbia", "secret");
  late = call("first", line);
  (await late).send(line.slice(0, 5));
  expect(await client.message("SEAS", "hi")).toBe("sent");
  await back;
  (await late).send(line.slice(5));
  await (await late).expectEnd();
  expect(delivered).toEqual(["lost", "back"]);
  const fresh = await call("second", line);
  fresh.send(line);
  await fresh.expectLines(`received ${line.length}`);
  expect(delivered).toEqual(["lost", "back", "once"]);
});

test("a call without the secret, or that begins after the position read, is closed and delivers nothing", async () => {
  const delivered: string[] = [];
  let callbackPort = 0;
  const port = serve((request) => {
    callbackPort = Number(/callback=(\d+)/.exec(request)![1]);
    const first = async (): Promise<void> => (await WireClient.connect(callbackPort)).sendLines("callback secret 0 0");
    setTimeout(first);
    return `ok ${TOKENS[0]} 35 secret=secret\n`;
  });
  client = new ChatClient({
    host: "127.0.0.1",
    port,
    session: "callback",
    onEvent: (event) => void delivered.push("text" in event ? event.text : event.kind),
  });
  await client.login("columbia", "secret");
  for (const call of [
    "callback wrong 0 17",
    "callback secret 5 17",
    "callback secret 0 x",
    "callback",
    "GET / HTTP/1.1",
  ]) {
    const caller = await WireClient.connect(callbackPort);
    caller.sendLines(call, "message SEAS lies");
    await caller.expectEnd();
  }
  const server = await WireClient.connect(callbackPort);
  await server.expectReply("callback secret 0 19", `ready ${TOKENS[0]}`);
  await server.expectReply("message SEAS truth", "received 19");
  expect(delivered).toEqual(["truth"]);
  server.cut();
});

/** A client in a callback session: its port, the texts that it delivered, and its requests. */
async function called(): Promise<{ port: number; delivered: string[]; requests: string[] }> {
  const [delivered, requests]: [string[], string[]] = [[], []];
  const called = { port: 0, delivered, requests };
  const port = serve((request) => {
    if (!request.startsWith("login")) {
      requests.push(request);
      return "ok 0\n";
    }
    called.port = Number(/callback=(\d+)/.exec(request)![1]);
    setTimeout(async () => (await WireClient.connect(called.port)).sendLines("callback secret 0 0"));
    return `ok ${TOKENS[0]} 35 secret=secret\n`;
  });
  client = new ChatClient({
    host: "127.0.0.1",
    port,
    session: "callback",
    onEvent: (event) => void delivered.push("text" in event ? event.text : event.kind),
  });
  await client.login("columbia", "secret");
  return called;
}

test("the call of the server is accepted while many silent connections are open", async () => {
  const { port, delivered } = await called();
  const silent: WireClient[] = [];
  for (let i = 0; i < 4 * PRIVATE_AUTHS_MAX; i++) silent.push(await WireClient.connect(port));
  const server = await WireClient.connect(port);
  await server.expectReply("callback secret 0 19", `ready ${TOKENS[0]}`);
  await server.expectReply("message SEAS truth", "received 19");
  expect(delivered).toEqual(["truth"]);
  // Later connections replaced the first ones.
  await Promise.all(silent.slice(0, 3 * PRIVATE_AUTHS_MAX).map((caller) => caller.expectEnd()));
});

test("a caller without the secret is disconnected after 256 bytes or one line", async () => {
  const { port } = await called();
  for (const bytes of ["x".repeat(300), "callback secret 0", " ".repeat(300)]) {
    const caller = await WireClient.connect(port);
    caller.send(bytes);
    if (bytes.length < 256) caller.send("x".repeat(256));
    await caller.expectEnd();
  }
});

test("a caller without the secret is disconnected after 5 s, an authenticated caller is not", () => {
  jest.useFakeTimers();
  try {
    const cut: string[] = [];
    const callers = new UnauthenticatedCallers<string>((caller) => void cut.push(caller));
    callers.add("silent");
    callers.add("server");
    callers.delete("server");
    jest.advanceTimersByTime(PRIVATE_AUTH_MS - 1);
    expect(cut).toEqual([]);
    jest.advanceTimersByTime(1);
    expect(cut).toEqual(["silent"]);
  } finally {
    jest.useRealTimers();
  }
});

test("a new call of the server closes the call before it", async () => {
  const { port } = await called();
  const old = await WireClient.connect(port);
  await old.expectReply("callback secret 0 19", `ready ${TOKENS[0]}`);
  const next = await WireClient.connect(port);
  await next.expectReply("callback secret 0 19", `ready ${TOKENS[0]}`);
  await old.expectEnd();
});

test("after a call breaks, the client acks the lines that it delivered", async () => {
  const { port, delivered, requests } = await called();
  const broken = await WireClient.connect(port);
  await broken.expectReply("callback secret 0 36", `ready ${TOKENS[0]}`);
  broken.send("message SEAS one\nmessage SE");
  while (delivered.length === 0) await new Promise(setImmediate);
  broken.cut();
  while (requests.length === 0) await new Promise(setImmediate);
  expect(requests).toEqual([`as ${TOKENS[0]} alive 17`]);
  expect(delivered).toEqual(["one"]);
});
