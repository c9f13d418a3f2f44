/**
 * Chaos with real pages: two people in Chromium and two programs send numbered messages to each other, while pages are
 * reloaded, closed and taken over by other tabs, connections are cut, and the server is killed. At the end everything
 * that was accepted must have arrived once and in order. `bun test/page/chaos.ts --seconds 600 --seed 1`
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ChatClient, type ChatEvent, ChatError } from "../../src/client/client.ts";
import type { Message } from "../../src/page/conversations.ts";
import { Random } from "../support/random.ts";
import { Person, Site, launch } from "./site.ts";

const PEOPLE: Record<string, string> = { columbia: "116bway", csee4119: "lotsofexams" };
const PROGRAMS: Record<string, string> = { SEAS: "summerisover", Google: "hasglasses" };
const USERS = [...Object.keys(PEOPLE), ...Object.keys(PROGRAMS)];
/** Time between two faults, at most. */
const CALM_MS = 3_000;
/** Time in which everything arrives at the end. */
const SETTLE_MS = 90_000;

/** What one user has of another one: texts in their order. */
type Texts = Record<string, string[]>;

export interface Outcome {
  sent: number;
  lost: string[];
  twice: string[];
  outOfOrder: string[];
  /** The sender does not know whether they arrived. */
  unknown: number;
  faults: string[];
  did: Record<string, number>;
}

class PageUser {
  readonly user: string;
  readonly person: Person;
  #number = 0;

  constructor(user: string, person: Person) {
    this.user = user;
    this.person = person;
  }

  /** Logs in when the page asks for it. */
  async ready(): Promise<void> {
    const { page } = this.person;
    await page.bringToFront(); // Chromium draws no other tab.
    await page.locator("#password, .self, .card .plain").first().waitFor({ timeout: 30_000 });
    const here = page.getByRole("button", { name: "Use it here" });
    if (await here.isVisible()) await here.click({ timeout: 1_000 }).catch(() => {}); // It may have gone meanwhile.
    if (!(await page.locator("#password").isVisible())) return;
    await page.locator("#name").fill(this.user);
    await page.locator("#password").fill(PEOPLE[this.user]!);
    await page.keyboard.press("Enter");
    // A server that is away refuses the login.
    await page.locator(".self, .reason:not(:empty)").first().waitFor({ timeout: 30_000 });
  }

  async say(to: string): Promise<void> {
    await this.ready();
    const { page } = this.person;
    await page.evaluate((to) => void (location.hash = `#to-${to}`), to);
    const field = page.getByRole("textbox", { name: `Write to ${to}` });
    await field.fill(`${++this.#number}`, { timeout: 2_000 });
    await field.press("Enter", { timeout: 2_000 });
  }

  /** The messages in the database of the browser. */
  messages(): Promise<Message[]> {
    return this.person.page.evaluate(async (user) => {
      const opening = indexedDB.open(`heartline:${user}`);
      await new Promise((resolve) => (opening.onsuccess = resolve));
      const store = opening.result.transaction("kept").objectStore("kept");
      const kept = store.getAll(IDBKeyRange.bound(0, Number.MAX_SAFE_INTEGER));
      await new Promise((resolve) => (kept.onsuccess = resolve));
      opening.result.close();
      return kept.result;
    }, this.user);
  }
}

class Program {
  readonly client: ChatClient;
  readonly received: Texts = {};
  readonly sent: Texts = {};
  unknown = 0;
  waiting = 0;
  #number = 0;

  constructor(port: number) {
    const onEvent = (event: ChatEvent): void => {
      if (event.kind === "message" || event.kind === "stored") (this.received[event.from] ??= []).push(event.text);
    };
    this.client = new ChatClient({ host: "127.0.0.1", port, onEvent });
  }

  say(to: string): void {
    const text = `${++this.#number}`;
    (this.sent[to] ??= []).push(text);
    this.waiting++;
    this.client
      .message(to, text)
      .catch((error: unknown) => {
        if (!(error instanceof ChatError) || error.code !== "unknown_outcome") throw error;
        this.unknown++;
        this.sent[to] = this.sent[to]!.filter((each) => each !== text);
      })
      .finally(() => this.waiting--);
  }
}

export async function chaos(seconds: number, seed: number): Promise<Outcome> {
  const random = new Random(seed);
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  const site = new Site("--data", folder, "--login-failures", "0", "--connection-rate", "0");
  await site.start();
  const browser = await launch();
  const outcome: Outcome = { sent: 0, lost: [], twice: [], outOfOrder: [], unknown: 0, faults: [], did: {} };
  const pages = await Promise.all(
    Object.keys(PEOPLE).map(async (user) => {
      const page = new PageUser(user, await Person.open(browser, site));
      await page.ready();
      return page;
    }),
  );
  const programs: Record<string, Program> = {};
  for (const [user, password] of Object.entries(PROGRAMS)) {
    programs[user] = new Program(site.port);
    await programs[user].client.login(user, password);
  }
  const did = (what: string): void => void (outcome.did[what] = (outcome.did[what] ?? 0) + 1);
  const faults: Record<string, () => Promise<void>> = {
    reload: async () => void (await random.pick(pages).person.page.reload({ timeout: 30_000 })),
    close: async () => {
      const { person } = random.pick(pages);
      await person.page.close();
      await person.openTab();
    },
    takeOver: async () => {
      const page = random.pick(pages);
      const old = page.person.page;
      await page.person.openTab();
      await page.ready();
      if (random.below(2) === 0) await old.close();
      else {
        await page.person.page.close();
        page.person.page = old;
      }
    },
    cut: async () => site.cut(),
    unreachable: async () => {
      site.isReachable = false;
      site.cut();
      await Bun.sleep(random.below(3_000));
      site.isReachable = true;
    },
    kill: async () => {
      await site.kill();
      await Bun.sleep(random.below(500));
      await site.start();
    },
  };
  const endMs = performance.now() + seconds * 1000;
  const speak = async (from: string): Promise<void> => {
    const page = pages.find(({ user }) => user === from);
    while (performance.now() < endMs) {
      const to = random.pick(USERS.filter((user) => user !== from));
      if (page === undefined) programs[from]!.say(to);
      else await page.say(to).catch(() => did("failed to type"));
      await Bun.sleep(random.below(200));
    }
  };
  const disturb = async (): Promise<void> => {
    while (performance.now() < endMs) {
      await Bun.sleep(random.below(CALM_MS));
      const name = random.pick(Object.keys(faults));
      did(name);
      await faults[name]!().catch((error: unknown) => outcome.faults.push(`${name}: ${error}`));
    }
  };
  await Promise.all([...USERS.map(speak), disturb()]);
  await settle(pages, programs);
  await judge(pages, programs, outcome);
  for (const { person } of pages) {
    // A page that is loaded while the server is away cannot load its files.
    outcome.faults.push(...person.faults);
    await person.close();
  }
  for (const { client } of Object.values(programs)) client.close();
  await browser.close();
  await site.stop();
  rmSync(folder, { recursive: true });
  return outcome;
}

/** Waits until nothing is on its way any more, for some seconds. */
async function settle(pages: PageUser[], programs: Record<string, Program>): Promise<void> {
  const endMs = performance.now() + SETTLE_MS;
  let last = "";
  for (let calm = 0; calm < 4 && performance.now() < endMs;) {
    for (const page of pages) await page.ready();
    await Bun.sleep(1_000);
    const stored = await Promise.all(pages.map((page) => page.messages()));
    const waiting = stored.flat().filter(({ state }) => state === "waiting").length;
    const received = Object.values(programs).map((program) => Object.values(program.received).flat().length);
    const now = JSON.stringify([stored.map(({ length }) => length), received]);
    const isCalm = waiting === 0 && Object.values(programs).every((program) => program.waiting === 0) && now === last;
    calm = isCalm ? calm + 1 : 0;
    last = now;
  }
}

async function judge(pages: PageUser[], programs: Record<string, Program>, outcome: Outcome): Promise<void> {
  const sent: Record<string, Texts> = {};
  const received: Record<string, Texts> = {};
  for (const page of pages) {
    const messages = (await page.messages()).toSorted((a, b) => a.id - b.id);
    sent[page.user] = {};
    received[page.user] = {};
    for (const { conversation, text, state } of messages) {
      if (state === "unknown") outcome.unknown++;
      else if (state === null) (received[page.user]![conversation] ??= []).push(text);
      else (sent[page.user]![conversation] ??= []).push(text);
    }
  }
  for (const [user, program] of Object.entries(programs)) {
    sent[user] = program.sent;
    received[user] = program.received;
    outcome.unknown += program.unknown;
  }
  for (const from of USERS) {
    for (const to of USERS.filter((user) => user !== from)) {
      const arrived = received[to]![from] ?? [];
      outcome.sent += sent[from]![to]?.length ?? 0;
      for (const text of sent[from]![to] ?? []) if (!arrived.includes(text)) outcome.lost.push(`${from} ${to} ${text}`);
      for (const text of new Set(arrived))
        if (arrived.filter((each) => each === text).length > 1) outcome.twice.push(`${from} ${to} ${text}`);
      const isInOrder = arrived.every((text, i) => i === 0 || Number(text) > Number(arrived[i - 1]));
      if (!isInOrder) outcome.outOfOrder.push(`${from} ${to}`);
    }
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { seconds: { type: "string" }, seed: { type: "string" } } });
  const outcome = await chaos(Number(values.seconds ?? 30), Number(values.seed ?? Date.now() % 1_000_000));
  console.log(JSON.stringify(outcome, null, 1));
  process.exit(outcome.lost.length + outcome.twice.length + outcome.outOfOrder.length === 0 ? 0 : 1);
}
