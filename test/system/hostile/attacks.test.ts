import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Attackers } from "./attack.ts";
import { ATTACKS, ATTACK_NAMES, type AttackName } from "./attacks.ts";
import { type AttackStats, AttackRunner } from "./attack-client.ts";
import { makeCertificate, writeCertificate } from "../../support/certificate.ts";
import { WireServer } from "../../support/wire.ts";

const LASTS_MS = 600;
const USERS = Array.from({ length: 60 }, (_, i) => `x${i}`);

/** What an attack did, a fifth as strong as it is measured, and what somebody who was there heard of it. */
async function seen(attack: AttackName): Promise<{ stats: AttackStats; heard: string[]; stored: string[] }> {
  const folder = mkdtempSync(join(tmpdir(), "heartline-attacks-"));
  const tls = { ...writeCertificate(folder, await makeCertificate()), port: 0 };
  const server = new WireServer({ tls }, ["alice", "h0", ...USERS]);
  try {
    const alice = await server.login("alice");
    const spec = { attacks: [attack], users: USERS, hashed: ["h0"], ordinary: ["alice"], strength: 0.2 };
    const runner = new AttackRunner({ ...spec, port: server.port, tlsPort: server.tlsPort });
    ATTACKS[attack].start(runner);
    await Bun.sleep(LASTS_MS);
    runner.stop();
    const { connects } = runner.stats;
    alice.say("message alice end");
    const heard = [...(await alice.until("message alice end")), ...(await alice.until("ok sent"))];
    const absent = await server.connect();
    absent.say("login x4 secret", "message x4 end");
    const stored = await absent.until("message x4 end").catch(() => absent.rest());
    expect(runner.stats.connects).toBe(connects);
    return { stats: runner.stats, heard, stored };
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true });
  }
}

const hears = (text: string | RegExp) => expect.arrayContaining([expect.stringMatching(text)]);

const CHECKS: Record<AttackName, (what: Awaited<ReturnType<typeof seen>>) => void> = {
  drip: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    expect(stats.bytes).toBeLessThan(60 * 20);
  },
  deaf: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    expect(stats.bytes).toBeGreaterThan(10_000);
  },
  mute: ({ stats, heard }) => {
    expect(stats).toMatchObject({ bytes: 0, thrownOut: 0 });
    expect(heard).toEqual([]);
    expect(stats.connects).toBeGreaterThan(5);
    expect(stats.connects).toBeLessThanOrEqual(800);
  },
  pipeline: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    // The strangers are thrown out for what they say, and come back.
    expect(stats.closedByServer).toBeGreaterThan(0);
    expect(stats.bytes).toBeGreaterThan(100_000);
  },
  broadcasts: ({ heard }) => expect(heard).toEqual(hears("broadcast x0 listen to me")),
  resumes: ({ stats, heard }) => {
    expect(heard).toEqual(hears("broadcast x2 listen to me"));
    expect(stats.bytes).toBeGreaterThan(1_000);
  },
  lists: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    expect(stats.bytes).toBeGreaterThan(1_000);
  },
  dribble: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x1"));
    expect(stats.bytes).toBeGreaterThan(50_000);
  },
  endless: ({ stats }) => expect(stats.bytes).toBeGreaterThan(64 << 10),
  logins: ({ stats, heard }) => {
    expect(stats.connects).toBeGreaterThan(5);
    expect(heard).toEqual(hears(/^joined x/));
    expect(heard).toEqual(hears(/^left x\d+ disconnected/));
  },
  hashes: ({ heard }) => expect(heard).toEqual(hears("joined h0")),
  hoard: ({ stored }) => expect(stored).toEqual(hears(/^stored x\d+ \d+ xxxx/)),
  relogins: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x2"));
    expect(stats.bytes).toBeGreaterThan(100_000);
  },
  after: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    expect(stats.bytes).toBeGreaterThan(100_000);
  },
  callbacks: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    expect(stats.connects).toBeGreaterThan(3);
  },
  unanswered: ({ stats, heard }) => {
    expect(heard).toEqual(hears("joined x0"));
    expect(stats.connects).toBeGreaterThan(5);
  },
  escapes: ({ heard }) => {
    expect(heard).toEqual(hears(/^message x\d+ \x1b\[2J/));
    expect(heard).toEqual(hears(/^broadcast x\d+ /));
  },
  handshakes: ({ stats, heard }) => {
    expect(stats.connects).toBeGreaterThan(5);
    expect(stats.closedByServer).toBeGreaterThan(1); // Those who said anything else.
    expect(heard).toEqual([]);
  },
  flapping: ({ stats, heard }) => {
    expect(stats.connects).toBeGreaterThan(5);
    expect(heard).toEqual([]);
  },
};

test.each(ATTACK_NAMES.map((name) => [name, ATTACKS[name].help]))("%s: %s", async (name) => {
  CHECKS[name as AttackName](await seen(name as AttackName));
});

test("whoever asks hostile clients that have ended hears so, and does not wait", async () => {
  const attackers = new Attackers({
    attacks: [],
    users: [],
    hashed: [],
    ordinary: [],
    strength: 1,
    port: 1,
    tlsPort: 1,
  });
  expect(await attackers.pause()).toEqual({ connects: 0, closedByServer: 0, bytes: 0 });
  await attackers.stop();
  await expect(attackers.pause()).rejects.toThrow("the hostile clients ended (SIGTERM)");
});
