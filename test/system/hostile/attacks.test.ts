import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Attackers } from "./attack.ts";
import { ATTACKS, ATTACK_NAMES, type AttackName } from "./attacks.ts";
import { type AttackStats, AttackRunner } from "./attack-client.ts";
import { makeCertificate, writeCertificate } from "../../support/certificate.ts";
import { WireServer } from "../../support/wire.ts";

/** How long an attack lasts. On a busy machine it may do too little in that time: then it gets longer. */
const LASTS_MS = [600, 3_000, 10_000];
const USERS = Array.from({ length: 60 }, (_, i) => `x${i}`);

/** The effects of an attack at a fifth of its strength. */
interface Observed {
  stats: AttackStats;
  /** Lines that alice received, who was online. */
  received: string[];
  /** Lines that x4 received at a login after the attack. */
  stored: string[];
}

async function observe(attack: AttackName, ms: number): Promise<Observed> {
  const folder = mkdtempSync(join(tmpdir(), "heartline-attacks-"));
  const tls = { ...writeCertificate(folder, await makeCertificate()), port: 0 };
  const server = new WireServer({ tls }, ["alice", "h0", ...USERS]);
  try {
    const alice = await server.login("alice");
    const spec = { attacks: [attack], users: USERS, hashed: ["h0"], ordinary: ["alice"], strength: 0.2 };
    const runner = new AttackRunner({ ...spec, port: server.port, tlsPort: server.tlsPort });
    ATTACKS[attack].start(runner);
    await Bun.sleep(ms);
    runner.stop();
    const { connects } = runner.stats;
    alice.sendLines("message alice end");
    const received = [...(await alice.until("message alice end")), ...(await alice.until("ok sent"))];
    const absent = await server.connect();
    absent.sendLines("login x4 secret", "message x4 end");
    const stored = await absent.until("message x4 end").catch(() => absent.rest());
    expect(runner.stats.connects).toBe(connects);
    return { stats: runner.stats, received, stored };
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true });
  }
}

const hasLine = (text: string | RegExp) => expect.arrayContaining([expect.stringMatching(text)]);

const CHECKS: Record<AttackName, (observed: Observed) => void> = {
  drip: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    expect(stats.bytes).toBeLessThan(60 * 20);
  },
  deaf: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    expect(stats.bytes).toBeGreaterThan(10_000);
  },
  mute: ({ stats, received }) => {
    expect(stats).toMatchObject({ bytes: 0, closedByServer: 0 });
    expect(received).toEqual([]);
    expect(stats.connects).toBeGreaterThan(5);
    expect(stats.connects).toBeLessThanOrEqual(800);
  },
  pipeline: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    // The connections without a session are closed for invalid lines, and connect again.
    expect(stats.closedByServer).toBeGreaterThan(0);
    expect(stats.bytes).toBeGreaterThan(100_000);
  },
  broadcasts: ({ received }) => expect(received).toEqual(hasLine("broadcast x0 listen to me")),
  resumes: ({ stats, received }) => {
    expect(received).toEqual(hasLine("broadcast x2 listen to me"));
    expect(stats.bytes).toBeGreaterThan(1_000);
  },
  lists: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    expect(stats.bytes).toBeGreaterThan(1_000);
  },
  dribble: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x1"));
    expect(stats.bytes).toBeGreaterThan(50_000);
  },
  endless: ({ stats }) => expect(stats.bytes).toBeGreaterThan(64 << 10),
  logins: ({ stats, received }) => {
    expect(stats.connects).toBeGreaterThan(5);
    expect(received).toEqual(hasLine(/^joined x/));
    expect(received).toEqual(hasLine(/^left x\d+ disconnected/));
  },
  hashes: ({ received }) => expect(received).toEqual(hasLine("joined h0")),
  hoard: ({ stored }) => expect(stored).toEqual(hasLine(/^stored x\d+ \d+ xxxx/)),
  relogins: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x2"));
    expect(stats.bytes).toBeGreaterThan(100_000);
  },
  after: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    expect(stats.bytes).toBeGreaterThan(100_000);
  },
  callbacks: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    expect(stats.connects).toBeGreaterThan(3);
  },
  unanswered: ({ stats, received }) => {
    expect(received).toEqual(hasLine("joined x0"));
    expect(stats.connects).toBeGreaterThan(5);
  },
  escapes: ({ received }) => {
    expect(received).toEqual(hasLine(/^message x\d+ \x1b\[2J/));
    expect(received).toEqual(hasLine(/^broadcast x\d+ /));
  },
  handshakes: ({ stats, received }) => {
    expect(stats.connects).toBeGreaterThan(5);
    expect(stats.closedByServer).toBeGreaterThan(1); // Those with plain bytes.
    expect(received).toEqual([]);
  },
  flapping: ({ stats, received }) => {
    expect(stats.connects).toBeGreaterThan(5);
    expect(received).toEqual([]);
  },
};

test.each(ATTACK_NAMES)("the attack %s does what its help text describes", async (name) => {
  const failures: unknown[] = [];
  for (const ms of LASTS_MS) {
    const observed = await observe(name, ms);
    try {
      return CHECKS[name](observed);
    } catch (error) {
      failures.push(error);
    }
  }
  throw failures[0];
});

test("a request to hostile clients whose process has ended rejects at once", async () => {
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
