import { afterAll, afterEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { BlockList } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PASSWORD, WireServer, proxyHeader } from "../support/wire.ts";

const FILTER = join(import.meta.dir, "../../contrib/fail2ban/filter.d/heartline.conf");
const folder = mkdtempSync(join(tmpdir(), "heartline-fail2ban-"));
let server: WireServer;

afterAll(() => rmSync(folder, { recursive: true }));
afterEach(async () => {
  server.cut();
  await server.stop();
});

/** Two IPv6 networks, since failed logins are limited per network. */
const FAILING = ["192.0.2.1", "2001:db8:0:0:0:0:0:1", "198.51.100.2", "2001:db8:0:1:0:0:0:2", "203.0.113.9"];
const LOGGED = FAILING.map((address) => address.replace(/(:0){3,}/, ":"));
const WELL_BEHAVED = "192.0.2.200";

/** The log of a server behind a proxy: each failing address fails once, in one of three ways. */
async function logLines(): Promise<string[]> {
  const proxyFrom = new BlockList();
  proxyFrom.addSubnet("127.0.0.0", 8);
  server = new WireServer({ proxyFrom, limits: { badLinesMax: 2, failedLoginsPerMinuteMax: 1 } });
  const say = async (address: string, ...lines: string[]): Promise<string[]> => {
    const client = await server.connect();
    client.send(proxyHeader(address));
    client.sendLines(...lines);
    await client.finish();
    return client.rest();
  };
  for (const address of FAILING.slice(0, 2)) await say(address, "login alice wrong");
  for (const address of FAILING.slice(2, 4)) await say(address, `login ${PASSWORD} alice`);
  await say(FAILING[4]!, "GET", "GET");
  const [reply] = await say(WELL_BEHAVED, `login alice ${PASSWORD}`, "logout");
  expect(reply).toStartWith("ok ");
  const [busy] = await say(FAILING[0]!, `login alice ${PASSWORD}`);
  expect(busy).toStartWith("err busy ");
  return server.logged;
}

/** The regular expressions of the filter, with its names and fail2ban's replaced. */
function failregex(): RegExp[] {
  const text = readFileSync(FILTER, "utf8");
  const value = (name: string): string => {
    const found = new RegExp(`^${name} = (.*(?:\\n .*)*)`, "m").exec(text)![1]!;
    return found.replace(/%\((\w+)\)s/g, (_, other) => value(other));
  };
  const address = "(?<address>[0-9a-fA-F:.]+)";
  return value("failregex")
    .split(/\n +/)
    .map((regex) => new RegExp(regex.replaceAll("%%", "%").replace("<ADDR>", address)));
}

function banned(lines: string[]): string[] {
  const all = failregex();
  return lines.flatMap((line) => all.flatMap((regex) => regex.exec(line)?.groups?.address ?? []));
}

test("the regular expressions of the fail2ban filter match the lines of failed logins and floods, and no others", async () => {
  const lines = await logLines();
  const inFile = lines.map((line) => line.replace(/"time":\d+/, "")); // fail2ban cuts out the time that it has read.
  const inJournal = lines.map((line) => `chat heartline[7]: ${line}`);
  expect(failregex()).toHaveLength(2);
  expect(banned(inFile)).toEqual(LOGGED);
  expect(banned(inJournal)).toEqual(LOGGED);
});

const hasFail2ban = Bun.which("fail2ban-regex") !== null;
if (!hasFail2ban) console.warn("\n  SKIPPED: fail2ban itself with the log (fail2ban-regex is not installed)\n");

test.if(hasFail2ban)("fail2ban finds the address and the time of each failure in a log file", async () => {
  const file = join(folder, "heartline.log");
  writeFileSync(file, (await logLines()).join(""));
  const run = Bun.spawnSync(["fail2ban-regex", "--usedns=no", "--out=ip", file, FILTER]);
  expect(run.stdout.toString().trim().split("\n")).toEqual(LOGGED);
  const report = Bun.spawnSync(["fail2ban-regex", file, FILTER]).stdout.toString();
  expect(report).toContain(`[${server.logged.length}] "time":{LEPOCH}`);
});
