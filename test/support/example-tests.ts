/** The tests of the programs in examples/, for any runtime: each asserts what the other side received. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { linesOf } from "../../bench/program.ts";
import { Folders } from "./command.ts";
import { PASSWORD, WireServer } from "./wire.ts";

const LIMIT_MS = 30_000;

/** Where the examples run: the command before the file, and the folder that has `examples`. */
export interface Runtime {
  command: string[];
  folder: string;
}

/** A running example, as the user alice. */
class Example {
  readonly #process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly #lines: AsyncIterator<string>;
  readonly errors: Promise<string>;

  constructor({ command, folder }: Runtime, name: string, args: string[], password = PASSWORD) {
    this.#process = Bun.spawn([...command, join("examples", name), ...args], {
      cwd: folder,
      env: { ...process.env, HEARTLINE_PASSWORD: password, NODE_NO_WARNINGS: "1" },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#lines = linesOf(this.#process.stdout)[Symbol.asyncIterator]();
    this.errors = this.#process.stderr.text();
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`the example ended: ${await this.errors}`);
    return value;
  }

  write(text: string): void {
    this.#process.stdin.write(text);
    this.#process.stdin.flush();
  }

  endInput(): void {
    this.#process.stdin.end();
  }

  kill(signal: "SIGTERM" | "SIGKILL"): void {
    this.#process.kill(signal);
  }

  get exited(): Promise<number> {
    return this.#process.exited;
  }
}

/** `runtime` is null when the runtime is not there, which the caller has reported. */
export function testExamples(name: string, runtime: () => Runtime | null): void {
  describe(name, () => {
    let server: WireServer;
    const examples: Example[] = [];

    beforeEach(() => {
      server = new WireServer();
    });

    afterEach(async () => {
      for (const example of examples.splice(0)) {
        example.kill("SIGKILL");
        await example.exited;
      }
      await server.stop();
    });

    /** Starts an example as alice. */
    function start(at: Runtime, file: string, args: string[] = [], password = PASSWORD): Example {
      const example = new Example(at, file, ["127.0.0.1", String(server.port), "alice", ...args], password);
      examples.push(example);
      return example;
    }

    /** A test of one example, which is over at once without the runtime. */
    function testExample(what: string, run: (at: Runtime) => Promise<void>): void {
      test(
        what,
        async () => {
          const at = runtime();
          if (at !== null) await run(at);
        },
        LIMIT_MS,
      );
    }

    testExample("the echo bot replies to messages and stored messages with their text, in order", async (at) => {
      const bob = await server.login("bob");
      await bob.expectReply("message alice before", "ok stored");
      const bot = start(at, "echo-bot.ts");
      expect(await bot.line()).toBe("alice answers");
      expect(await bob.until("message alice you said: before")).toContain("joined alice");
      bob.sendLines("message alice one", "message alice two words");
      expect((await bob.until("message alice you said: two words")).filter((line) => line !== "ok sent")).toEqual([
        "message alice you said: one",
      ]);
    });

    testExample("the echo bot logs out when it is terminated, and exits with 0", async (at) => {
      const bob = await server.login("bob");
      const bot = start(at, "echo-bot.ts");
      expect(await bot.line()).toBe("alice answers");
      await bob.expectLines("joined alice");
      bot.kill("SIGTERM");
      await bob.expectLines("left alice logout");
      expect(await bot.exited).toBe(0);
    });

    testExample("the echo bot replies once to each message, however often it is killed", async (at) => {
      const folders = new Folders();
      const state = join(folders.make(), "bot.state");
      const bob = await server.login("bob");
      const texts = Array.from({ length: 400 }, (_, index) => String(index));
      bob.sendLines(...texts.map((text) => `message alice ${text}`));
      const replies: string[] = [];
      for (const last of ["60", "200", "399"]) {
        const bot = start(at, "echo-bot.ts", [state]);
        const lines = await bob.until(`message alice you said: ${last}`);
        bot.kill("SIGKILL");
        await bot.exited;
        replies.push(...lines.filter((line) => line.startsWith("message")), `message alice you said: ${last}`);
      }
      expect(replies).toEqual(texts.map((text) => `message alice you said: ${text}`));
      folders.remove();
    });

    testExample("the bridge sends lines of its input, prints messages, and logs out at the end", async (at) => {
      const bob = await server.login("bob");
      await bob.expectReply("message alice before", "ok stored");
      const bridge = start(at, "bridge.ts");
      bridge.write('{"to":"bob","text":"one"}\n{"to":"nobody","text":"x"}\nno JSON\n');
      const lines = [await bridge.line(), await bridge.line(), await bridge.line(), await bridge.line()];
      expect(lines.filter((line) => !line.includes("line")).map((line) => JSON.parse(line))).toEqual([
        { from: "bob", text: "before" },
      ]);
      expect(lines).toContain('{"line":1,"outcome":"sent"}');
      expect(lines).toContain('{"line":2,"error":"unknown_user"}');
      expect(await bob.until("message alice one")).toContain("joined alice");
      bob.sendLines("message alice hello");
      expect(JSON.parse(await bridge.line())).toEqual({ from: "bob", text: "hello" });
      bridge.endInput();
      await bob.until("left alice logout");
      expect(await bridge.exited).toBe(0);
    });

    testExample("the alert service sends what it gets over HTTP, and answers with the outcome", async (at) => {
      const bob = await server.login("bob");
      const service = start(at, "alert-service.ts");
      const [, url = ""] = /^alerts at (.*)$/.exec(await service.line()) ?? [];
      const post = async (body: string): Promise<[number, unknown]> => {
        const response = await fetch(url, { method: "POST", body });
        return [response.status, await response.json()];
      };
      expect(await post('{"to":"bob","text":"the disk is full"}')).toEqual([200, { outcome: "sent" }]);
      expect(await bob.until("message alice the disk is full")).toContain("joined alice");
      expect(await post('{"to":"carol","text":"later"}')).toEqual([200, { outcome: "stored" }]);
      expect(await post('{"to":"nobody","text":"x"}')).toEqual([400, { error: "unknown_user" }]);
      expect((await post("no JSON"))[0]).toBe(400);
      service.kill("SIGTERM");
      await bob.until("left alice logout");
      expect(await service.exited).toBe(0);
    });

    testExample("notify sends its text and exits with 0, also when the recipient is offline", async (at) => {
      const bob = await server.login("bob");
      const online = start(at, "notify.ts", ["bob", "the build is done"]);
      expect(await online.line()).toBe("bob is online");
      expect(await online.exited).toBe(0);
      expect(await bob.until("left alice logout")).toContain("message alice the build is done");
      const offline = start(at, "notify.ts", ["carol", "the build is done"]);
      expect(await offline.line()).toBe("carol gets it at the next login");
      expect(await offline.exited).toBe(0);
      const carol = await server.login("carol");
      await carol.expectLines("stored alice <ms> the build is done");
    });

    testExample("notify prints why nothing was sent, and exits with 1", async (at) => {
      const refused = start(at, "notify.ts", ["nobody", "x"]);
      expect([await refused.errors, await refused.exited]).toEqual(["not sent: unknown_user\n", 1]);
      const wrong = start(at, "notify.ts", ["bob", "x"], "wrong");
      expect([await wrong.errors, await wrong.exited]).toEqual(["not sent: wrong_password\n", 1]);
    });
  });
}
