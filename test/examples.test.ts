import { afterEach, beforeEach, expect, test } from "bun:test";
import { PASSWORD, WireServer } from "./support/wire.ts";
import { runWith } from "./support/process.ts";

let server: WireServer;
let bot: Bun.Subprocess<"ignore", "pipe", "inherit"> | null = null;

beforeEach(() => {
  server = new WireServer();
});

afterEach(async () => {
  bot?.kill();
  await bot?.exited;
  bot = null;
  await server.stop();
});

/** Starts the bot as alice; resolves when it has logged in. */
async function startBot(): Promise<void> {
  bot = Bun.spawn([process.execPath, "examples/echo-bot.ts", "127.0.0.1", String(server.port), "alice"], {
    env: { ...process.env, HEARTLINE_PASSWORD: PASSWORD },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await bot.stdout.getReader().read();
  expect(String(new TextDecoder().decode(value))).toBe("alice answers\n");
}

test("the echo bot replies to messages and stored messages with their text, in order", async () => {
  const bob = await server.login("bob");
  await bob.expectReply("message alice before", "ok stored");
  await startBot();
  expect(await bob.until("message alice you said: before")).toContain("joined alice");
  bob.sendLines("message alice one", "message alice two words");
  expect((await bob.until("message alice you said: two words")).filter((line) => line !== "ok sent")).toEqual([
    "message alice you said: one",
  ]);
});

test("the echo bot logs out when it is terminated, and exits with 0", async () => {
  const bob = await server.login("bob");
  await startBot();
  await bob.expectLines("joined alice");
  bot!.kill("SIGTERM");
  await bob.expectLines("left alice logout");
  expect(await bot!.exited).toBe(0);
});

test("notify sends its text and exits with 0, also when the recipient is offline", async () => {
  const env = { HEARTLINE_PASSWORD: PASSWORD };
  const notify = (to: string) =>
    runWith({ env }, "examples/notify.ts", "127.0.0.1", String(server.port), "alice", to, "the build is done");
  const bob = await server.login("bob");
  expect(await notify("bob")).toEqual({ out: "bob is online\n", err: "", code: 0 });
  expect(await bob.until("left alice logout")).toContain("message alice the build is done");
  expect(await notify("carol")).toEqual({ out: "carol gets it at the next login\n", err: "", code: 0 });
  const carol = await server.login("carol");
  await carol.expectLines("stored alice <ms> the build is done");
});

test("notify prints why nothing was sent, and exits with 1", async () => {
  const notify = (password: string, to: string) =>
    runWith(
      { env: { HEARTLINE_PASSWORD: password } },
      "examples/notify.ts",
      "127.0.0.1",
      String(server.port),
      "alice",
      to,
      "x",
    );
  expect(await notify(PASSWORD, "nobody")).toEqual({ out: "", err: "not sent: unknown_user\n", code: 1 });
  expect(await notify("wrong", "bob")).toEqual({ out: "", err: "not sent: wrong_password\n", code: 1 });
});
