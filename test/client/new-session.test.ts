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

/** A server that says what the test tells it to say. */
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

test("a beat of an ended session is not made again in the next one, where it would confirm too much", async () => {
  const heard: string[] = [];
  const tokens = [...TOKENS];
  const port = serve((line) => {
    heard.push(line);
    if (line.startsWith("login")) return `ok ${tokens.shift()} 1 received=0\n`;
    if (line.startsWith("resume")) return "err unknown_session\n";
    if (heard.filter((other) => other.startsWith("login")).length < 2) return null;
    return line.startsWith("message") ? "ok sent\nmessage SEAS hi\n" : "ok\n";
  });
  const { promise: shown, resolve } = Promise.withResolvers<void>();
  client = new ChatClient({ host: "127.0.0.1", port, onEvent: () => resolve() });
  await client.login("columbia", "secret");
  while (!heard.some((line) => line.startsWith("alive"))) await Bun.sleep(10);
  await client.message("SEAS", "hi");
  await shown;
  const relogin = heard.findLastIndex((line) => line.startsWith("login"));
  expect(heard[relogin]).toBe(`login columbia secret resumable after=${TOKENS[0]}:0`);
  expect(heard[relogin + 1]).toBe("message SEAS hi");
});

test("who catches up confirms what comes until two answers in a row have nothing stored before them", async () => {
  const heard: string[] = [];
  const answers = ["", "stored SEAS 1 one\n", "", "stored SEAS 2 two\nstored SEAS 3 three\n", "", ""];
  const port = serve((line) => {
    if (line.startsWith("login")) return `ok ${TOKENS[0]} 35\n`;
    heard.push(line);
    return `${answers.shift()}ok 0\n`;
  });
  client = new ChatClient({ host: "127.0.0.1", port });
  await client.login("columbia", "secret");
  await client.catchUp();
  // Each answer has 5 bytes, the lines before them 18 and 38.
  expect(heard).toEqual([0, 5, 28, 33, 76, 81].map((position) => `alive ${position}`));
});

test("a call of a session that has ended tells nothing any more: the next one brings it, and says again what was not acted on", async () => {
  const heard: string[] = [];
  let callbackPort = 0;
  const tokens = [...TOKENS];
  const call = async (name: string, text: string): Promise<WireClient> => {
    const wire = await WireClient.connect(callbackPort);
    wire.say(`callback ${name} 0 ${text.length}`);
    await wire.hears(`ready ${(name === "first" ? TOKENS[0] : TOKENS[1])!}`);
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
    onEvent: (event) => void heard.push("text" in event ? event.text : event.kind),
  });
  await client.login("columbia", "secret");
  late = call("first", line);
  (await late).send(line.slice(0, 5));
  expect(await client.message("SEAS", "hi")).toBe("sent");
  await back;
  (await late).send(line.slice(5));
  await (await late).ends();
  expect(heard).toEqual([]);
  const fresh = await call("second", line);
  fresh.send(line);
  await fresh.hears(`received ${line.length}`);
  expect(heard).toEqual(["once"]);
});

test("whoever calls without the secret, or from beyond what the client has, is hung up on and tells nothing", async () => {
  const heard: string[] = [];
  let callbackPort = 0;
  const port = serve((request) => {
    callbackPort = Number(/callback=(\d+)/.exec(request)![1]);
    const first = async (): Promise<void> => (await WireClient.connect(callbackPort)).say("callback secret 0 0");
    setTimeout(first);
    return `ok ${TOKENS[0]} 35 secret=secret\n`;
  });
  client = new ChatClient({
    host: "127.0.0.1",
    port,
    session: "callback",
    onEvent: (event) => void heard.push("text" in event ? event.text : event.kind),
  });
  await client.login("columbia", "secret");
  for (const call of [
    "callback wrong 0 17",
    "callback secret 5 17",
    "callback secret 0 x",
    "callback",
    "GET / HTTP/1.1",
  ]) {
    const stranger = await WireClient.connect(callbackPort);
    stranger.say(call, "message SEAS lies");
    await stranger.ends();
  }
  const server = await WireClient.connect(callbackPort);
  await server.asks("callback secret 0 19", `ready ${TOKENS[0]}`);
  await server.asks("message SEAS truth", "received 19");
  expect(heard).toEqual(["truth"]);
  server.cut();
});

/** A client in a callback session, where it listens, what it heard, and what it says to its server. */
async function called(): Promise<{ port: number; heard: string[]; said: string[] }> {
  const [heard, said]: [string[], string[]] = [[], []];
  const called = { port: 0, heard, said };
  const port = serve((request) => {
    if (!request.startsWith("login")) {
      said.push(request);
      return "ok 0\n";
    }
    called.port = Number(/callback=(\d+)/.exec(request)![1]);
    setTimeout(async () => (await WireClient.connect(called.port)).say("callback secret 0 0"));
    return `ok ${TOKENS[0]} 35 secret=secret\n`;
  });
  client = new ChatClient({
    host: "127.0.0.1",
    port,
    session: "callback",
    onEvent: (event) => void heard.push("text" in event ? event.text : event.kind),
  });
  await client.login("columbia", "secret");
  return called;
}

test("the server's call gets in while a crowd of others holds connections open and says nothing", async () => {
  const { port, heard } = await called();
  const crowd: WireClient[] = [];
  for (let i = 0; i < 4 * PRIVATE_AUTHS_MAX; i++) crowd.push(await WireClient.connect(port));
  const server = await WireClient.connect(port);
  await server.asks("callback secret 0 19", `ready ${TOKENS[0]}`);
  await server.asks("message SEAS truth", "received 19");
  expect(heard).toEqual(["truth"]);
  // Of the crowd, the first have gone for those who came later.
  await Promise.all(crowd.slice(0, 3 * PRIVATE_AUTHS_MAX).map((stranger) => stranger.ends()));
});

test("a caller without the secret may say one short line", async () => {
  const { port } = await called();
  for (const bytes of ["x".repeat(300), "callback secret 0", " ".repeat(300)]) {
    const stranger = await WireClient.connect(port);
    stranger.send(bytes);
    if (bytes.length < 256) stranger.send("x".repeat(256));
    await stranger.ends();
  }
});

test("a caller that has not shown the secret is cut after 5 s, one that has is not", () => {
  jest.useFakeTimers();
  try {
    const cut: string[] = [];
    const greetings = new UnauthenticatedCallers<string>((caller) => void cut.push(caller));
    greetings.add("silent");
    greetings.add("server");
    greetings.delete("server");
    jest.advanceTimersByTime(PRIVATE_AUTH_MS - 1);
    expect(cut).toEqual([]);
    jest.advanceTimersByTime(1);
    expect(cut).toEqual(["silent"]);
  } finally {
    jest.useRealTimers();
  }
});

test("a new call of the server ends the one before", async () => {
  const { port } = await called();
  const old = await WireClient.connect(port);
  await old.asks("callback secret 0 19", `ready ${TOKENS[0]}`);
  const next = await WireClient.connect(port);
  await next.asks("callback secret 0 19", `ready ${TOKENS[0]}`);
  await old.ends();
});

test("what a call brought before it was cut is confirmed, and not brought again", async () => {
  const { port, heard, said } = await called();
  const broken = await WireClient.connect(port);
  await broken.asks("callback secret 0 36", `ready ${TOKENS[0]}`);
  broken.send("message SEAS one\nmessage SE");
  while (heard.length === 0) await new Promise(setImmediate);
  broken.cut();
  while (said.length === 0) await new Promise(setImmediate);
  expect(said).toEqual([`as ${TOKENS[0]} alive 17`]);
  expect(heard).toEqual(["one"]);
});
