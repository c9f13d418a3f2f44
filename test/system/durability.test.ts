import { afterEach, beforeAll, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { existsSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { JOURNAL_SEGMENTS_KEPT, JOURNAL_SEGMENT_BYTES } from "../../src/limits.ts";
import { ServerProcess } from "../support/process.ts";
import { Random, seedFor } from "../support/random.ts";
import { WireClient } from "../support/wire.ts";

const PASSWORD = "secret";
const path = mkdtempSync(join(tmpdir(), "heartline-"));
const clients: WireClient[] = [];

beforeAll(() => {
  const users = ["alice", "bob", "carol"].map((name) => `${name} ${PASSWORD}\n`).join("");
  writeFileSync(join(path, "credentials.txt"), users);
  process.once("exit", () => rmSync(path, { recursive: true, force: true }));
});

afterEach(async () => {
  for (const client of clients.splice(0)) client.cut();
  await ServerProcess.killAll();
});

function start(data: string, ...options: string[]): ServerProcess {
  const files = ["--credentials", join(path, "credentials.txt"), "--data", join(path, data)];
  return new ServerProcess("--host", "127.0.0.1", "--port", "0", ...files, ...options);
}

async function kill(server: ServerProcess): Promise<void> {
  server.kill("SIGKILL");
  await server.exits();
}

/** Logs in; returns the client, and the words after `ok`. */
async function login(server: ServerProcess, user: string, options = ""): Promise<[WireClient, string[]]> {
  const client = await WireClient.connect(await server.port());
  clients.push(client);
  client.sendLines(`login ${user} ${PASSWORD}${options}`);
  const [ok, ...words] = (await client.line()).split(" ");
  expect(ok).toBe("ok");
  return [client, words];
}

describe("after kill -9 and a restart", () => {
  test("every acknowledged request took effect once, and the sender learns which of its requests were acted on", async () => {
    const first = start("kill");
    const [alice, [token]] = await login(first, "alice", " resumable");
    const [bob, [tokenOfBob]] = await login(first, "bob", " resumable");
    await alice.expectLines("joined bob");
    const lines = ["message bob live", "message carol away", "block carol", "message bob unread"];
    alice.sendLines(...lines);
    await alice.expectLines("ok sent", "ok stored", "ok", "ok sent");
    await bob.expectLines("message alice live", "message alice unread");
    await kill(first);

    const second = start("kill");
    const position = "message alice live\n".length;
    const [again, words] = await login(second, "bob", ` resumable after=${tokenOfBob}:${position}`);
    expect(words.slice(2)).toEqual(["received=0"]);
    await again.expectLines("stored alice <ms> unread");
    const [, wordsOfAlice] = await login(second, "alice", ` resumable after=${token}:0`);
    expect(wordsOfAlice.slice(2)).toEqual([`received=${lines.join("\n").length + 1}`]);
    const [carol] = await login(second, "carol");
    await carol.expectLines("stored alice <ms> away");
    await carol.expectReply("message alice hello", "err blocked");
  });

  test("no message is lost or stored twice over many kills, when the sender continues where the server stopped", async () => {
    const random = new Random(seedFor("kills"));
    const texts = Array.from({ length: 400 }, (_, i) => `${i} ${"x".repeat(random.below(300))}`);
    const lines = texts.map((text) => `message bob ${text}\n`);
    let after = "";
    let done = 0;
    for (let round = 0; done < lines.length; round++) {
      const server = start("kills", ...(round % 4 === 3 ? ["--durability", "power"] : []));
      if (round % 5 === 4) {
        await server.port();
        await kill(server); // It recovers, and accepts nothing.
        continue;
      }
      const [alice, [token, , received]] = await login(server, "alice", ` resumable${after}`);
      if (after !== "") done += countOf(lines.slice(done), Number(/^received=(\d+)$/.exec(received!)![1]));
      const said = lines.slice(done, done + 100);
      alice.send(said.join(""));
      for (let left = random.below(said.length + 1); left > 0; left--) await alice.expectLines("ok stored");
      await kill(server);
      after = ` after=${token}:0`;
    }
    const [bob] = await login(start("kills"), "bob");
    for (const text of texts) await bob.expectLines(`stored alice <ms> ${text}`);
  });

  test("an orderly stop leaves nothing to recover for the next start", async () => {
    const first = start("stop");
    const [alice] = await login(first, "alice");
    await alice.expectReply("message bob hello", "ok stored");
    first.kill("SIGTERM");
    expect(await first.exits()).toBe(0);
    const second = start("stop");
    const [bob] = await login(second, "bob");
    await bob.expectLines("stored alice <ms> hello");
    expect(second.stderr).not.toContain("recovered");
  });
});

test("with durability none, a session that kill -9 ended is forgotten, since its state is unknown", async () => {
  const sessions = (): number => {
    using database = new Database(join(path, "none/heartline.sqlite"), { readonly: true });
    return database.query<{ count: number }, []>("SELECT count(*) AS count FROM sessions").get()!.count;
  };
  const first = start("none", "--durability", "none");
  const [, [token]] = await login(first, "alice", " resumable");
  while (sessions() === 0) await new Promise((resolve) => setImmediate(resolve));
  await kill(first);
  const [, words] = await login(start("none", "--durability", "none"), "alice", ` after=${token}:0`);
  expect(words).toHaveLength(2);
  expect(sessions()).toBe(0);
});

/** How many of the lines have that many bytes. */
function countOf(lines: readonly string[], bytes: number): number {
  let count = 0;
  for (let left = bytes; left > 0; count++) left -= lines[count]!.length;
  return count;
}

test("a second server on the same data folder exits, and after kill -9 of the first the next one opens the folder", async () => {
  const first = start("shared");
  await first.port();
  const second = start("shared");
  expect(await second.exits()).toBe(1);
  expect(second.stderr).toMatch(
    /^heartline: the data folder \S+ is in use by another server; stop that one, or --data names another folder\n$/,
  );
  await kill(first);
  await start("shared").port();
});

test("a second server exits even when all files in the data folder were deleted", async () => {
  const first = start("emptied");
  await first.port();
  const data = join(path, "emptied");
  for (const name of readdirSync(data)) rmSync(join(data, name), { recursive: true });
  const second = start("emptied");
  expect(await second.exits()).toBe(1);
  expect(second.stderr).toMatch(/is in use by another server; .*\n$/);
});

describe("the data folder of a running server", () => {
  test("when it is deleted, messages get err internal, the log has it once, and the exit code is 1", async () => {
    const server = start("deleted");
    const [alice] = await login(server, "alice");
    await alice.expectReply("message bob hello", "ok stored");
    rmSync(join(path, "deleted"), { recursive: true });
    await server.logs(/the data folder is gone; messages are answered with err internal until /);
    await alice.expectReply("message bob lost", "err internal the data folder is gone");
    await alice.expectReply("block carol", "err internal the data folder is gone");
    const other = await WireClient.connect(await server.port());
    clients.push(other);
    await other.expectReply(`login bob ${PASSWORD} resumable`, "err internal the data folder is gone");
    server.kill("SIGTERM");
    expect(await server.exits()).toBe(1);
    expect(server.stderr.match(/messages are answered with err internal/g)).toHaveLength(1);
    expect(server.stderr).toContain("1 messages that wait for their users are lost");
    expect(existsSync(join(path, "deleted"))).toBe(false);
  });

  test("when it is moved away and back, messages are accepted again", async () => {
    const server = start("moved");
    const [alice] = await login(server, "alice");
    await alice.expectReply("message bob before", "ok stored");
    renameSync(join(path, "moved"), join(path, "moved.aside"));
    await server.logs(/the data folder is gone/);
    await alice.expectReply("message bob meanwhile", "err internal the data folder is gone");
    renameSync(join(path, "moved.aside"), join(path, "moved"));
    await server.logs(/"event":"disk_recovered".*the disk accepts writes again/);
    await alice.expectReply("message bob after", "ok stored");
    server.kill("SIGTERM");
    expect(await server.exits()).toBe(0);
    const [bob] = await login(start("moved"), "bob");
    await bob.expectLines("stored alice <ms> before", "stored alice <ms> after");
  });
});

test("an unusable path of the data folder is refused with one line", async () => {
  writeFileSync(join(path, "file"), "");
  const server = start("file/data");
  expect(await server.exits()).toBe(1);
  expect(server.stderr).toMatch(/^heartline: the data folder \S+ cannot be used: .*\n$/);
});

test("a damaged journal is refused with one line that names --salvage, and --salvage keeps the other records", async () => {
  const first = start("damaged");
  const [alice] = await login(first, "alice");
  for (const text of ["one", "two", "three"]) await alice.expectReply(`message bob ${text}`, "ok stored");
  await kill(first);
  const segment = join(path, "damaged/journal/0000000000000001");
  const bytes = Buffer.from(await Bun.file(segment).bytes());
  bytes[bytes.indexOf("two")]! ^= 1;
  writeFileSync(segment, bytes);
  const refused = start("damaged");
  expect(await refused.exits()).toBe(1);
  expect(refused.stderr).toMatch(/^heartline: the journal \S+ is damaged: records \d+ to \d+ .*--salvage.*\n$/);
  const salvaged = start("damaged", "--salvage");
  const [bob] = await login(salvaged, "bob");
  await salvaged.logs(/"event":"salvaged".*salvaged a damaged journal/);
  expect(await bob.line()).toMatch(/^stored alice \d+ one$/);
});

test.each(["mailbox", "blocks", "progress"])(
  "a database with a damaged table %s is refused with exit code 1 and one line that names --salvage",
  async (table) => {
    const folder = `damaged-${table}`;
    const first = start(folder);
    const [alice] = await login(first, "alice");
    await alice.expectReply("message bob hello", "ok stored");
    first.kill("SIGTERM");
    expect(await first.exits()).toBe(0);
    const file = join(path, folder, "heartline.sqlite");
    using database = new Database(file, { readonly: true });
    const { page_size: pageBytes } = database.query<{ page_size: number }, []>("PRAGMA page_size").get()!;
    const root = "SELECT rootpage FROM sqlite_master WHERE name = ?";
    const { rootpage } = database.query<{ rootpage: number }, [string]>(root).get(table)!;
    const bytes = Buffer.from(await Bun.file(file).bytes());
    writeFileSync(file, bytes.fill(0xff, (rootpage - 1) * pageBytes, rootpage * pageBytes));
    const refused = start(folder);
    expect(await refused.exits()).toBe(1);
    expect(refused.stderr).toMatch(/^heartline: \S+heartline\.sqlite is damaged: .* --salvage.*\n$/);
    renameSync(file, `${file}.aside`);
    const salvaged = start(folder, "--salvage");
    const [bob] = await login(salvaged, "bob");
    await bob.expectLines("stored alice <ms> hello");
  },
);

test("a journal without its last record is refused with exit code 1, and --salvage logs how many records are missing", async () => {
  const first = start("cut");
  const [alice] = await login(first, "alice");
  for (const text of ["one", "two", "three"]) await alice.expectReply(`message bob ${text}`, "ok stored");
  await kill(first);
  const segment = join(path, "cut/journal/0000000000000001");
  const bytes = Buffer.from(await Bun.file(segment).bytes());
  writeFileSync(segment, bytes.fill(0, bytes.indexOf("three") - 48));
  const refused = start("cut");
  expect(await refused.exits()).toBe(1);
  expect(refused.stderr).toMatch(
    /^heartline: the journal \S+ is damaged: records 4 to 4 are missing at the end of 0000000000000001 \(1 in all\); .*\n$/,
  );
  const salvaged = start("cut", "--salvage");
  await salvaged.logs(/salvaged a damaged journal: records 4 to 4 are missing/);
  const [bob] = await login(salvaged, "bob");
  await bob.expectLines("stored alice <ms> one", "stored alice <ms> two");
});

test("a journal without its database is refused, and the server starts when the database is back", async () => {
  const first = start("apart");
  const [alice] = await login(first, "alice");
  await alice.expectReply("message bob hello", "ok stored");
  await kill(first);
  const files = ["", "-wal", "-shm"].map((end) => join(path, `apart/heartline.sqlite${end}`));
  for (const file of files) renameSync(file, `${file}.away`);
  for (let times = 0; times < 2; times++) {
    const refused = start("apart");
    expect(await refused.exits()).toBe(1);
    expect(refused.stderr).toMatch(/records 1 and on were written for another database, which is missing/);
  }
  for (const file of files) {
    rmSync(file, { force: true });
    renameSync(`${file}.away`, file);
  }
  const [bob] = await login(start("apart"), "bob");
  await bob.expectLines("stored alice <ms> hello");
});

const strace = Bun.which("strace");
const canTrace = strace !== null && Bun.spawnSync([strace, "-o", "/dev/null", "true"]).exitCode === 0;
if (!canTrace) console.log("SKIPPED: a disk that fails (strace is missing or not allowed)");

test.skipIf(!canTrace)("when a sync fails, the server sends no ok, logs why, and exits with code 1", async () => {
  const server = start("failing", "--durability", "power");
  const [alice] = await login(server, "alice");
  const options = ["-f", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "-p", String(server.pid)];
  const tracer = Bun.spawn([strace!, ...options], { stdout: "ignore", stderr: "pipe" });
  await tracer.stderr.getReader().read(); // It reports that it is attached.
  alice.sendLines("message bob hello");
  expect(await server.exits()).toBe(1);
  expect(server.stderr).toMatch(
    /"level":60,.*"event":"disk_error",.*"cannot sync the journal: the disk may have lost writes; the server exits"/,
  );
  await tracer.exited;
  expect(alice.line()).rejects.toThrow("ended");
});

const prlimit = Bun.which("prlimit");
if (prlimit === null) console.log("SKIPPED: a disk that refuses (prlimit is missing; Debian has it in util-linux)");

describe.skipIf(prlimit === null)("a full disk", () => {
  /** The server can write no file beyond that size. */
  function limit(server: ServerProcess, bytes: number | "unlimited"): void {
    const { exitCode, stderr } = Bun.spawnSync([prlimit!, `--fsize=${bytes}:`, "--pid", String(server.pid)]);
    if (exitCode !== 0) throw new Error(stderr.toString());
  }

  test("makes messages get err internal, loses no acknowledged message, and accepts messages again when it has room", async () => {
    const server = start("full");
    const [alice] = await login(server, "alice");
    limit(server, 100_000);
    const text = "x".repeat(4000);
    const kept: number[] = [];
    let refused = 0;
    for (let next = 0; refused === 0; next += 100) {
      alice.sendLines(...Array.from({ length: 100 }, (_, i) => `message bob ${next + i} ${text}`));
      for (let i = 0; i < 100; i++) {
        const reply = await alice.line();
        if (reply === "ok stored") kept.push(next + i);
        else expect(reply).toMatch(/^err internal the disk refuses: /);
        if (reply !== "ok stored") refused++;
      }
    }
    await server.logs(/"event":"disk_error".*messages are answered with err internal/);
    await alice.expectReply("block carol", "err internal <words>");
    await alice.expectReply("online", "ok");
    await alice.expectReply("alive", "ok");
    await alice.expectReply("broadcast hello", "ok 0");
    const [carol] = await login(server, "carol");
    await alice.expectLines("joined carol");
    await carol.expectReply("logout", "ok");
    await alice.expectLines("left carol logout");
    limit(server, "unlimited");
    await server.logs(/"event":"disk_recovered".*the disk accepts writes again/);
    await alice.expectReply("message bob afterwards", "ok stored");
    await kill(server);
    const [bob] = await login(start("full"), "bob");
    for (const number of kept) await bob.expectLines(`stored alice <ms> ${number} ${text}`);
    await bob.expectLines("stored alice <ms> afterwards");
  });
});

test("the journal does not grow by more than three segments beyond those it keeps, however many messages are sent", async () => {
  const server = start("large");
  const [alice] = await login(server, "alice");
  const [bob] = await login(server, "bob");
  await alice.expectLines("joined bob");
  const text = "x".repeat(4000);
  for (let sent = 0; sent < 100 << 20; sent += 100 * text.length) {
    alice.sendLines(...Array.from({ length: 100 }, () => `message bob ${text}`));
    for (let i = 0; i < 100; i++) {
      await alice.expectLines("ok sent");
      await bob.line();
    }
  }
  const folder = join(path, "large/journal");
  let bytes = 0;
  for (const name of new Bun.Glob("*").scanSync(folder)) bytes += statSync(join(folder, name)).size;
  expect(bytes).toBeLessThanOrEqual((JOURNAL_SEGMENTS_KEPT + 3) * JOURNAL_SEGMENT_BYTES);
});
