import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ChatLog, findTexts } from "../../src/terminal/chat-log.ts";
import { History } from "../../src/terminal/history.ts";
import { parseOptions } from "../../src/terminal/options.ts";
import { type Profile, parseProfile, readProfile } from "../../src/terminal/profile.ts";

let folder: string;
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), "heartline-"))));
afterEach(() => rmSync(folder, { recursive: true }));

const modeOf = (file: string): string => (statSync(file).mode & 0o777).toString(8);

describe("the log", () => {
  const at = (text: string): number => new Date(text).getTime();
  const newLog = (): ChatLog => new ChatLog(join(folder, "log"), (why) => expect.unreachable(why));

  test("has one file with mode 0600 for each partner and day", () => {
    const log = newLog();
    log.add({ unixMs: at("2026-11-29T21:58:03"), partner: "SEAS", from: "SEAS", text: "hi" });
    log.add({ unixMs: at("2026-11-30T08:00:00"), partner: "SEAS", from: "columbia", text: "good\x1b[2J morning" });
    log.add({ unixMs: at("2026-11-30T08:00:01"), partner: "all", from: "bob", text: "to all" });
    log.add({ unixMs: Number.NaN, partner: "SEAS", from: "SEAS", text: "no time" });
    const files = readdirSync(join(folder, "log")).sort();
    expect(files).toEqual(["SEAS.2026-11-29.log", "SEAS.2026-11-30.log", "_all.2026-11-30.log"]);
    expect(readFileSync(join(folder, "log", files[1]!), "utf8")).toBe("08:00:00 columbia: good[2J morning\n");
    for (const file of files) expect(modeOf(join(folder, "log", file))).toBe("600");
    expect(modeOf(join(folder, "log"))).toBe("700");
  });

  test("is searched for all words in any case, the newest texts last, over partners and days", () => {
    const log = newLog();
    for (let day = 10; day < 30; day++) {
      log.add({ unixMs: at(`2026-11-${day}T12:00:00`), partner: "SEAS", from: "SEAS", text: `Lunch ${day}` });
      log.add({ unixMs: at(`2026-11-${day}T11:00:00`), partner: "bob", from: "columbia", text: `no lunch ${day}` });
    }
    const lines = findTexts(["lunch"], log, [], "columbia");
    expect(lines).toHaveLength(20);
    expect(lines.slice(-2)).toEqual([
      "2026-11-29 11:00 columbia to bob: no lunch 29",
      "2026-11-29 12:00 SEAS: Lunch 29",
    ]);
    expect(findTexts(["SEAS", "12"], log, [], "columbia")).toEqual(["2026-11-12 12:00 SEAS: Lunch 12"]);
    expect(findTexts(["dinner"], log, [], "columbia")).toEqual([]);
  });

  test("that cannot be written is reported once", () => {
    const errors: string[] = [];
    const log = new ChatLog(join(folder, "log"), (why) => errors.push(why));
    const entry = { unixMs: at("2026-11-29T12:00:00"), partner: "SEAS", from: "SEAS", text: "hi" };
    mkdirSync(join(folder, "log", "SEAS.2026-11-29.log"));
    log.add(entry);
    log.add(entry);
    expect(errors).toHaveLength(1);
  });
});

describe("the history", () => {
  test("brings back lines of earlier runs, the latest first, from a file with mode 0600", () => {
    const file = join(folder, "history");
    const first = new History(file);
    expect(first.load()).toEqual([]);
    for (const line of ["online", "online", "message bob hi", "  "]) first.add(line);
    expect(new History(file).load()).toEqual(["message bob hi", "online"]);
    expect(modeOf(file)).toBe("600");
  });

  test("is shortened when it has become long, and does without a file", () => {
    const file = join(folder, "history");
    writeFileSync(file, Array.from({ length: 3000 }, (_, i) => `line ${i}\n`).join(""));
    expect(new History(file).load()).toHaveLength(500);
    expect(readFileSync(file, "utf8").split("\n")).toHaveLength(501);
    const nowhere = new History(join(folder, "nowhere", "history"));
    nowhere.add("online");
    expect(nowhere.load()).toEqual([]);
  });
});

const none = (): Profile => ({ settings: {}, servers: new Map() });

describe("the command line", () => {
  const read = (...args: string[]) => parseOptions(args, null, none)!;

  test.each<[string, object]>([
    ["127.0.0.1 6001", { host: "127.0.0.1", port: 6001, user: null }],
    ["columbia@chat.example.org", { host: "chat.example.org", port: 6001, user: "columbia" }],
    ["columbia@chat.example.org:7000", { host: "chat.example.org", port: 7000, user: "columbia" }],
    ["chat.example.org --tls", { port: 6002, tls: true }],
    ["columbia@[::1]:7000", { host: "::1", port: 7000, user: "columbia" }],
    ["[::1]", { host: "::1", port: 6001 }],
    ["::1", { host: "::1", port: 6001 }],
    ["::1 7000", { host: "::1", port: 7000 }],
    ["columbia@::1 7000 --user columbia", { host: "::1", port: 7000, user: "columbia" }],
    ["localhost --log /tmp/x --json", { log: "/tmp/x", json: true }],
  ])("names a server: %s", (line, expected) => {
    expect(read(...line.split(" "))).toMatchObject(expected);
  });

  test.each([
    ["", "give one server, like columbia@chat.example.org"],
    ["a b c", "give one server, like columbia@chat.example.org"],
    ["localhost:0", '"0" is not a port: a port is a number from 1 to 65535'],
    ["localhost:", '"" is not a port: a port is a number from 1 to 65535'],
    ["localhost:6001 6001", "give one port: 6001 or 6001"],
    ["bob@localhost --user alice", "give one user: bob@ or --user alice"],
    ["b..b@localhost", '"b..b" cannot be a user name'],
    ["@localhost", '"" cannot be a user name'],
    ["bob@", '"" is not a host name or an IP address'],
    ["localhost --ca x", "--ca needs --tls"],
  ])("that is invalid is explained: %j", (line, reason) => {
    expect(() => read(...line.split(" ").filter(Boolean))).toThrow(reason);
  });
});

describe("the profile", () => {
  const TEXT = `presence = "brief"
bell = false
[servers.work]
host = "chat.example.org"
port = 7000
user = "columbia"
tls = true
presence = "off"
[servers.home]
host = "127.0.0.1"
colours = false
`;

  test("gives servers short names, and each its own settings; the command line wins", () => {
    const file = join(folder, "chat.toml");
    writeFileSync(file, TEXT);
    const read = (...args: string[]) => parseOptions(args, null, () => readProfile(file))!;
    const work = { host: "chat.example.org", port: 7000, user: "columbia", tls: true, presence: "off", hasBell: false };
    expect(read("work")).toMatchObject(work);
    expect(read("bob@work")).toMatchObject({ ...work, user: "bob" });
    expect(read("work", "--user", "bob")).toMatchObject({ ...work, user: "bob" });
    expect(read("home")).toMatchObject({ port: 6001, presence: "brief", hasColors: false });
    expect(read("work", "6001")).toMatchObject({ host: "work", tls: false });
    expect(read("elsewhere")).toMatchObject({ host: "elsewhere", presence: "brief", hasColors: true });
  });

  test("that does not exist is empty", () => {
    expect(readProfile(join(folder, "nothing.toml"))).toEqual({ settings: {}, servers: new Map() });
  });

  test.each([
    ["x = ", /^\/p: line 1, column 5: /],
    ["bell = true\nbell = false", /^\/p: line 2, column 1: /],
    ["sound = true", /^\/p: unknown key sound$/],
    ["[servers.a]\nhost = 1", /^\/p: servers.a.host must be a string$/],
    ["[servers.a]\nuser = 'b'", /^\/p: servers.a has no host$/],
    ["[servers.a]\nhost = 'b'\nfoo = 1", /^\/p: unknown key servers.a.foo$/],
    ["presence = 'loud'", /^\/p: presence must be one of off, brief, on$/],
    ["servers = 3", /^\/p: servers is not a section$/],
    ["servers = { a = 3 }", /^\/p: servers.a is not a section$/],
  ])("that is invalid names the file and what is wrong: %j", (text, reason) => {
    expect(() => parseProfile(text, "/p")).toThrow(reason);
  });

  test("that is a folder is reported", () => {
    expect(() => readProfile(folder)).toThrow(`cannot read ${folder}: EISDIR`);
  });
});
