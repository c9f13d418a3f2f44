import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { EXIT_LOST_RECORDS } from "../../src/server/worker-group.ts";
import { run } from "../support/process.ts";
import { holdPort } from "../support/sockets.ts";
import { WireClient } from "../support/wire.ts";

const ROOT = join(import.meta.dir, "../..");
const INSTALLED = "/usr/local/bin/heartline";
/** `systemd-analyze security`: 0 is best, 10 is worst. */
const EXPOSURE_MAX = 2;
const hasSystemd = ["systemd-analyze", "systemd-socket-activate"].every((program) => Bun.which(program) !== null);
if (!hasSystemd) console.warn("\n  SKIPPED: the units of systemd (they need the package systemd)\n");

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A service and its socket, without their suffixes; those of a cluster are templates. */
const UNITS = ["heartline", "cluster/heartline@"];

/** Copies the units, with a program that exists. Returns their paths. */
function copies(unit: string): string[] {
  return [`${unit}.service`, `${unit}.socket`].map((name) => {
    const text = readFileSync(join(ROOT, "contrib", name), "utf8");
    if (name.endsWith(".service")) expect(text).toContain(`ExecStart=${INSTALLED} serve `);
    const path = join(folder, basename(name).replace("@", "@01"));
    writeFileSync(path, text.replace(INSTALLED, process.execPath));
    return path;
  });
}

for (const unit of UNITS) {
  test.skipIf(!hasSystemd)(`systemd-analyze verify is silent about ${unit}.service and ${unit}.socket`, () => {
    const { exitCode, stdout, stderr } = Bun.spawnSync(["systemd-analyze", "verify", "--man=no", ...copies(unit)]);
    expect(`${stdout}${stderr}`).toBe("");
    expect(exitCode).toBe(0);
  });

  test.skipIf(!hasSystemd)(`systemd-analyze security rates ${unit}.service as well protected`, () => {
    const [service] = copies(unit);
    const { stdout } = Bun.spawnSync(["systemd-analyze", "security", "--offline=true", service!]);
    const [, exposure] = /Overall exposure level for heartline\S*.service: ([\d.]+)/.exec(String(stdout)) ?? [];
    expect(Number(exposure)).toBeLessThan(EXPOSURE_MAX);
  });

  test(`${unit}.service does not start again after exit codes that a restart cannot help`, () => {
    const text = readFileSync(join(ROOT, `contrib/${unit}.service`), "utf8");
    expect(text).toContain("\nRestart=on-failure\n");
    expect(text).toContain(`\nRestartPreventExitStatus=2 ${EXIT_LOST_RECORDS}\n`);
  });

  test(`${unit}.service gives options that the server has`, async () => {
    const text = readFileSync(join(ROOT, `contrib/${unit}.service`), "utf8");
    const { out } = await run("src/main.ts", "serve", "--help");
    const options = /^ExecStart=.*/m.exec(text)![0].match(/--[\w-]+/g)!;
    expect(options.length).toBeGreaterThan(1);
    for (const option of options) expect(out).toContain(`  ${option} `);
  });
}

test("the group of heartline@.service is made by docs/cluster.md, and has not the name of the dynamic user", () => {
  const [, group] = /^SupplementaryGroups=(.+)$/m.exec(
    readFileSync(join(ROOT, "contrib/cluster/heartline@.service"), "utf8"),
  )!;
  // systemd names the user after the unit, and makes no user next to a group of that name: status=217/USER.
  expect(group).not.toBe("heartline");
  const page = readFileSync(join(ROOT, "docs/cluster.md"), "utf8");
  expect(page).toContain(`groupadd --system ${group}\n`);
  expect(page).toContain(`install -m 640 -g ${group} `);
});

test.skipIf(!hasSystemd)("systemd-socket-activate starts the server with the first connection", async () => {
  const users = join(folder, "users.txt");
  writeFileSync(users, "alice secret\n");
  const { port } = holdPort(); // No other process gets this port meanwhile: the socket closes with this process.
  const address = `127.0.0.2:${port}`;
  const command = [process.execPath, "src/main.ts", "serve", "--credentials", users, "--data", ":memory:"];
  const server = Bun.spawn(["systemd-socket-activate", "-l", address, ...command], {
    cwd: ROOT,
    stdout: "pipe",
    stderr: "pipe",
  });
  try {
    const listening = await server.stderr.getReader().read(); // "Listening on ..."
    expect(new TextDecoder().decode(listening.value)).toContain(address);
    const alice = await WireClient.connect(port, "127.0.0.2");
    await alice.expectReply("login alice secret", "ok <token> 35");
    const { value } = await server.stdout.getReader().read();
    expect(new TextDecoder().decode(value)).toBe(`listening on ${address}\n`);
  } finally {
    server.kill("SIGTERM");
  }
  expect(await server.exited).toBe(0);
});
