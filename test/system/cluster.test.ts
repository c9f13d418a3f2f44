/** Two processes over a real engine: takeover, handover, a paused owner, and an engine that is away. */
import { afterAll, afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatClient, type ChatError, type ChatEvent } from "../../src/client/client.ts";
import { ClusterServer, type ClusterServerChoices } from "../support/cluster-server.ts";
import { useEngine } from "../support/engine-hooks.ts";
import { NATS, POSTGRES } from "../support/engines.ts";
import { NotifySocket, hasSockets } from "../support/sockets.ts";
import { ServerProcess, runWith } from "../support/process.ts";

const LIMIT_MS = 60_000;
/** Together more than the kernel keeps for a reader. */
const MESSAGES = 3_000;
const PADDING = "x".repeat(3_000);

/** What a client sees that does not know which server owns the shard: like a balancer, it goes to the one that is set. */
class Balancer {
  target = 0;
  readonly #listener;
  readonly #open = new Set<Bun.Socket<{ to: ReturnType<typeof connect> }>>();

  constructor() {
    const balancer = this;
    this.#listener = Bun.listen<{ to: ReturnType<typeof connect> }>({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        open: (socket) => {
          const to = connect(balancer.target, "127.0.0.1");
          socket.data = { to };
          balancer.#open.add(socket);
          to.on("data", (chunk) => void socket.write(chunk));
          to.on("close", () => socket.end());
          to.on("error", () => socket.end());
        },
        data: (socket, chunk) => void socket.data.to.write(chunk),
        close: (socket) => {
          balancer.#open.delete(socket);
          socket.data.to.destroy();
        },
      },
    });
  }

  get port(): number {
    return this.#listener.port;
  }

  cut(): void {
    for (const socket of [...this.#open]) socket.terminate();
  }

  stop(): void {
    this.#listener.stop(true);
  }
}

/** Alice sends one number after another to bob, whatever happens meanwhile. */
class Conversation {
  readonly received: string[] = [];
  readonly acknowledged: string[] = [];
  /** Their replies were lost: they may have arrived. */
  readonly #uncertain = new Set<string>();
  readonly #balancer: Balancer;
  #alice: ChatClient | null = null;
  #bob: ChatClient | null = null;
  #isOver = false;
  #sending: Promise<void> = Promise.resolve();

  constructor(balancer: Balancer) {
    this.#balancer = balancer;
  }

  async start(): Promise<void> {
    const { port } = this.#balancer;
    const onEvent = (event: ChatEvent): void => {
      if (event.kind === "message" || event.kind === "stored") this.received.push(event.text);
    };
    this.#bob = new ChatClient({ host: "127.0.0.1", port, onEvent });
    this.#alice = new ChatClient({ host: "127.0.0.1", port });
    await Promise.all([this.#bob.login("bob", "secret"), this.#alice.login("alice", "secret")]);
    this.#sending = this.#send();
    await this.goesOn();
  }

  async #send(): Promise<void> {
    for (let i = 0; !this.#isOver; i++) {
      try {
        await this.#alice!.message("bob", String(i));
        this.acknowledged.push(String(i));
      } catch (error) {
        if ((error as ChatError).code !== "unknown_outcome") throw error;
        this.#uncertain.add(String(i));
      }
      await Bun.sleep(1);
    }
  }

  /** Cuts the connections of both, so that they connect to another server. */
  reconnect(): void {
    this.#balancer.cut();
  }

  /** More messages are acknowledged from now on. */
  async goesOn(): Promise<void> {
    const { length } = this.acknowledged;
    while (this.acknowledged.length < length + 50) await Bun.sleep(5);
  }

  /** Every acknowledged message has arrived once, in order. */
  async end(): Promise<void> {
    this.#isOver = true;
    await this.#sending;
    await this.#alice!.message("bob", "end");
    while (!this.received.includes("end")) await Bun.sleep(5);
    await Promise.all([this.#alice!.logout(), this.#bob!.logout()]);
    expect(new Set(this.received).size).toBe(this.received.length);
    expect(this.received.filter((text) => !this.#uncertain.has(text))).toEqual([...this.acknowledged, "end"]);
  }
}

/** A connection as `nc` has it. */
class PlainClient {
  #text = "";
  readonly #socket;
  /** Resolves at the last byte of the server. The client's side stays open: a far client closes it much later. */
  readonly closed: Promise<unknown>;

  constructor(port: number) {
    this.#socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    this.#socket.on("data", (chunk) => void (this.#text += String(chunk)));
    this.#socket.on("error", () => {});
    this.closed = new Promise((resolve) => this.#socket.on("end", resolve).on("close", resolve));
  }

  /** Reads nothing, so that the buffers of the kernel become full. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  write(line: string): void {
    this.#socket.write(line);
  }

  count(pattern: RegExp): number {
    return this.#text.match(pattern)?.length ?? 0;
  }

  /** The texts of all messages. */
  texts(): string[] {
    return [...this.#text.matchAll(/^(?:message alice|stored alice \d+) (.*)\n/gm)].map(([, text]) => text!);
  }

  async login(user: string): Promise<void> {
    await this.ask(`login ${user} secret`);
  }

  async ask(line: string): Promise<void> {
    const before = this.count(/^ok/gm);
    this.write(`${line}\n`);
    while (this.count(/^ok/gm) === before) await Bun.sleep(5);
  }
}

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
const USERS = join(folder, "users.txt");
/** The servers' folder for temporary files. */
const COPIES = join(folder, "copies");
mkdirSync(COPIES);
writeFileSync(USERS, "alice secret\nbob secret\ncarol secret\n");

function newServer(url: string, choices: Partial<ClusterServerChoices> = {}): ClusterServer {
  return new ClusterServer(url, { credentials: USERS, copies: COPIES, ...choices });
}

afterAll(() => rmSync(folder, { recursive: true }));

for (const engine of [POSTGRES, NATS]) {
  const { name, isInstalled } = engine;
  describe.skipIf(!isInstalled)(`two servers over ${name}`, () => {
    let balancer: Balancer;
    const used = useEngine(engine, 1, LIMIT_MS);

    beforeEach(() => void (balancer = new Balancer()));
    afterEach(async () => {
      balancer.stop();
      await ServerProcess.killAll();
    });

    function start(): Promise<ClusterServer> {
      return newServer(used.url).start();
    }

    /** An owner and a spare, and a conversation that goes through the owner. */
    async function pair(): Promise<{ owner: ClusterServer; spare: ClusterServer; conversation: Conversation }> {
      const owner = await start();
      await owner.is("ready");
      const spare = await start();
      await spare.is("spare");
      balancer.target = owner.port;
      const conversation = new Conversation(balancer);
      await conversation.start();
      return { owner, spare, conversation };
    }

    test(
      "clients at a spare are relayed to the owner; when it is killed, the next owner serves them at each server",
      async () => {
        const { owner, spare, conversation } = await pair();
        const third = await start();
        await third.is("spare");
        balancer.target = spare.port;
        conversation.reconnect();
        while ((await spare.metric("heartline_relays")) < 2) await Bun.sleep(20);
        await conversation.goesOn();
        const online = new PlainClient(spare.port);
        await online.ask("login carol secret");
        const killedMs = performance.now();
        owner.process.kill("SIGKILL");
        const waiting = new PlainClient(spare.port);
        await waiting.ask("login carol secret"); // On this connection, although nobody owns the shard now.
        report(name, "served again after kill -9", performance.now() - killedMs);
        await online.closed;
        const [next, other] = (await spare.state()) === "ready" ? [spare, third] : [third, spare];
        await next.is("ready");
        await other.is("spare");
        balancer.target = other.port;
        conversation.reconnect();
        while ((await other.metric("heartline_relays")) < 2) await Bun.sleep(20);
        await conversation.goesOn();
        await conversation.end();
      },
      LIMIT_MS,
    );

    test(
      "SIGTERM hands the shard over, exits with 0, and leaves no working copy",
      async () => {
        const before = readdirSync(COPIES); // Of servers that other tests have killed.
        const { owner, spare, conversation } = await pair();
        balancer.target = spare.port;
        owner.process.kill("SIGTERM");
        report(name, "served again after SIGTERM", await spare.is("ready"));
        expect(owner.process.stderr).toContain('"event":"released"');
        expect(await owner.process.exits()).toBe(0);
        await conversation.goesOn();
        await conversation.end();
        spare.process.kill("SIGTERM");
        expect(await spare.process.exits()).toBe(0);
        expect(readdirSync(COPIES).filter((name) => !before.includes(name))).toEqual([]);
      },
      LIMIT_MS,
    );

    test(
      "what a plain session has received before the handover does not come again, and the rest does",
      async () => {
        const owner = await start();
        await owner.is("ready");
        const spare = await start();
        const bob = new PlainClient(owner.port);
        await bob.login("bob");
        const alice = new PlainClient(owner.port);
        await alice.login("alice");
        bob.pause();
        for (let i = 0; i < MESSAGES; i++) alice.write(`message bob ${i} ${PADDING}\n`);
        while (alice.count(/^ok sent$/gm) < MESSAGES) await Bun.sleep(5);
        owner.process.kill("SIGTERM");
        await owner.process.logs(/"event":"stopping"/);
        bob.resume(); // He takes the rest while the server waits for the last bytes.
        await spare.is("ready");
        const later = new PlainClient(spare.port);
        await later.login("bob");
        await bob.closed;
        const texts = (): string[] => [...bob.texts(), ...later.texts()];
        while (texts().length < MESSAGES) await Bun.sleep(5);
        await later.ask("online");
        expect(texts()).toEqual(texts().map((_, i) => `${i} ${PADDING}`));
      },
      LIMIT_MS,
    );

    test(
      "an owner that was paused for 10 seconds answers nothing when it wakes, and exits with one line",
      async () => {
        const { owner, spare, conversation } = await pair();
        balancer.target = spare.port;
        const socket = connect(owner.port, "127.0.0.1");
        let text = "";
        socket.on("data", (chunk) => void (text += String(chunk)));
        const closed = new Promise((resolve) => socket.on("close", resolve));
        socket.write("login carol secret\n");
        while (!text.includes("ok ")) await Bun.sleep(5);
        owner.process.kill("SIGSTOP");
        const sentAt = text.length;
        socket.write("online\nmessage bob late\nalive\n");
        await Bun.sleep(10_000);
        await spare.is("ready");
        owner.process.kill("SIGCONT");
        expect(await owner.process.exits()).toBe(1);
        await closed;
        expect(text.slice(sentAt)).not.toMatch(/ok|err/);
        expect(owner.process.stderr.match(/"event":"deposed"/g)).toHaveLength(1);
        expect(conversation.received).not.toContain("late");
      },
      LIMIT_MS,
    );

    test(
      "while the engine is away nothing is acknowledged, sessions stay, and everything goes on by itself",
      async () => {
        const { owner, spare, conversation } = await pair();
        await used.engine.kill();
        await owner.is(`cluster: ${name}`);
        expect(conversation.acknowledged.length).toBeGreaterThan(0);
        const { length } = conversation.acknowledged;
        await Bun.sleep(4_000);
        expect(conversation.acknowledged.length).toBe(length);
        await used.engine.restart();
        await owner.is("ready");
        await conversation.goesOn();
        await spare.is("spare");
        await conversation.end();
        expect(owner.process.stderr.match(/"event":"engine_(away|back)"/g)).toHaveLength(2);
        expect(owner.process.stderr.match(/"reason":"(replaced|expired|disconnected)"/g)).toBeNull();
      },
      LIMIT_MS,
    );

    test(
      "an owner that is stopped while the engine is away exits with 1 in bounded time and says what is not stored",
      async () => {
        const { owner } = await pair();
        await used.engine.kill();
        const beganMs = performance.now();
        owner.process.kill("SIGTERM");
        expect(await owner.process.exits()).toBe(1);
        report(name, "stopped without the engine", performance.now() - beganMs);
        expect(owner.process.stderr).toContain("requests without a reply are not stored");
        await used.engine.restart();
      },
      LIMIT_MS,
    );

    test(
      "new users work after SIGHUP at the owner, and at a spare that takes over, without a warning",
      async () => {
        const users = join(folder, "growing.txt");
        writeFileSync(users, "alice secret\n");
        const owner = await newServer(used.url, { credentials: users }).start();
        await owner.is("ready");
        const spare = await newServer(used.url, { credentials: users }).start();
        writeFileSync(users, "alice secret\ndave secret\n");
        owner.process.kill("SIGHUP");
        await owner.process.logs(/configuration and credentials reloaded/);
        await new PlainClient(owner.port).login("dave");
        await Bun.sleep(2_000); // The spare sees the change.
        owner.process.kill("SIGTERM");
        await spare.is("ready");
        await new PlainClient(spare.port).login("dave");
        expect(spare.process.stderr).not.toContain("other users or passwords");
      },
      LIMIT_MS,
    );

    test(
      "check reads the state of the log, and ctl shows it at the owner and at a spare",
      async () => {
        const data = [join(folder, "first"), join(folder, "second")];
        const owner = await newServer(used.url, { data: data[0] }).start();
        await owner.is("ready");
        await newServer(used.url, { data: data[1] }).start();
        const ask = async (...args: string[]): Promise<string> => {
          const { out, err, code } = await runWith({ env: { HEARTLINE_CLUSTER: used.url } }, "src/main.ts", ...args);
          expect([err, code]).toEqual(["", 0]);
          return out;
        };
        const listen = ["--cluster-listen", "127.0.0.1:0"];
        const found = await ask("check", ...listen, "--credentials", USERS);
        expect(found).toContain(`ok: cluster: ${name} `);
        expect(found).toMatch(/; shard 0 has the owner 127\.0\.0\.1:\d+.*; its last record is 1$/m);
        for (const folder of data)
          expect(await ask("ctl", "cluster", "--data", folder)).toMatch(/^0 +127\.0\.0\.1:\d+ /m);
        expect(await ask("ctl", "cluster", "--data", data[1]!)).toContain("this server: spare");
        // The owner has heard of the spare within seconds.
        while (!/^127\.0\.0\.1:\d+ +[\d.]+ +[\d.]+ s$/m.test(await ask("ctl", "cluster", "--data", data[0]!)));
        expect(await ask("ctl", "who", "--data", data[1]!)).toContain("0 sessions");
      },
      LIMIT_MS,
    );

    test.skipIf(!hasSockets)(
      "a spare is started for its service manager, and the status says what it is",
      async () => {
        await (await start()).is("ready");
        const manager = new NotifySocket(join(folder, `notify-${name.length}`));
        const spare = newServer(used.url, { variables: { NOTIFY_SOCKET: manager.name } });
        expect(await manager.until(/^STATUS=spare/)).toContain("READY=1");
        spare.process.kill("SIGTERM");
        expect(await spare.process.exits()).toBe(0);
        manager.close();
      },
      LIMIT_MS,
    );

    test(
      "a server with other users than the living owner is refused with one line",
      async () => {
        await (await start()).is("ready");
        const others = join(folder, "others.txt");
        writeFileSync(others, "alice other\nbob secret\n");
        const refused = newServer(used.url, { credentials: others });
        expect(await refused.process.exits()).toBe(1);
        expect(refused.process.stderr).toMatch(
          /^heartline: the owner of shard 0 \(127\.0\.0\.1:\d+\) has other users or passwords/m,
        );
      },
      LIMIT_MS,
    );
  });
}

/** A time is printed and not judged: it depends on what else the machine does. */
function report(engine: string, what: string, ms: number): void {
  process.stderr.write(`${engine}: ${what}: ${(ms / 1000).toFixed(1)} s\n`);
}
