/** A cluster with many accounts, some of which have mail: how long its steps take, and how much memory they need. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { importFolder } from "../../../src/cluster/import.ts";
import { openLog } from "../../../src/cluster/open-log.ts";
import { openDatabase } from "../../../src/storage/database.ts";
import { Store } from "../../../src/storage/store.ts";
import { PASSWORD, nameOf } from "../chaos/clients.ts";
import type { Member } from "../chaos/member.ts";
import { CREDENTIALS } from "../chaos/server.ts";
import { WireClient } from "../../support/wire.ts";
import { type Report, type Stage, startEngine } from "./stage.ts";
import { percentile, table } from "./times.ts";

/** Messages in each mailbox, and the bytes of their texts. */
const MAIL = 3;
const MAIL_BYTES = 100;
/** Mailboxes that are read at the end. */
const SAMPLE = 1_000;
/** Messages between two users until the log is long enough for a snapshot: their text, and how many are in flight. */
const TEXT = "m".repeat(4_000);
const IN_FLIGHT = 50;
const PROBE_MS = 10;
const POLL_MS = 20;

export async function large(stage: Stage): Promise<Report> {
  const { clients: accounts, mailboxes, engine, shards } = stage.options;
  const rows: string[][] = [["step", "seconds", "besides"]];
  const failures: string[] = [];
  const timed = async <T>(what: string, act: () => Promise<T> | T, besides: (result: T) => string): Promise<T> => {
    stage.say(what);
    const beganMs = performance.now();
    const result = await act();
    rows.push([what, ((performance.now() - beganMs) / 1_000).toFixed(2), besides(result)]);
    return result;
  };
  const embedded = join(stage.folder, "embedded");
  fill(embedded, mailboxes);
  await stage.init((await startEngine(engine)).url);
  await timed(
    "import",
    () => imported(stage.url, embedded),
    (moved) => `${moved} messages`,
  );
  const { members } = stage;
  const memory = (member: Member): string => `${Math.round(member.residentBytes / 1e6)} MB resident`;
  const owner = stage.add();
  await timed(
    "start of the owner",
    () => members.served(),
    () => `${memory(owner)}, ${claims(owner)}`,
  );
  const [spare] = [stage.add(), stage.add()] as [Member, Member];
  await timed(
    "start of two spares",
    () => Promise.all(members.all.map((member) => member.ready())),
    () => memory(spare),
  );
  // None of them has mail.
  const [from, to, prober] = [0, 1, 2].map((i) => nameOf(mailboxes + i)) as [string, string, string];
  const probe = new Probe(await login(owner.port, prober), prober);
  const published = await timed(
    "messages until a snapshot is published",
    () => untilSnapshot(owner, from, to),
    ({ bytes, messages }) => `${messages} messages of 4 kB; a snapshot of ${Math.round(bytes / 1e6)} MB`,
  );
  const replies = probe.take();
  const p99 = `p99 ${percentile(replies, 0.99).toFixed(1)} ms, longest ${percentile(replies, 1).toFixed(0)} ms`;
  rows.push(["replies to another user meanwhile", "", p99]);
  const credentials = join(stage.folder, CREDENTIALS);
  const users = readFileSync(credentials, "latin1");
  const changes = {
    "of the same users": users,
    "with a user more": `${users}another ${PASSWORD}\n`,
    "without that user": users,
  };
  for (const [what, text] of Object.entries(changes)) {
    writeFileSync(credentials, text);
    await timed(
      `reload ${what}`,
      () => reload(owner),
      () => "",
    );
    await Bun.sleep(10 * PROBE_MS);
    rows.push(["", "", `longest reply to another user ${percentile(probe.take(), 1).toFixed(0)} ms`]);
  }
  await probe.stop();
  if (members.takeovers > 0) failures.push("a living owner was deposed");
  await timed(
    "takeover after SIGKILL, until an ok",
    () => takeover(owner, spare, prober),
    () => "",
  );
  while (members.owners[0] === owner) await Bun.sleep(POLL_MS);
  const next = members.owners[0]!;
  rows.push(["the next owner", "", `${memory(next)}, ${claims(next)}`]);
  const count = Math.min(SAMPLE, mailboxes);
  const wrong = await timed(
    `mail of ${count} users`,
    () => readSample(spare.port, mailboxes, count),
    ({ length }) => `${length} wrong`,
  );
  if (wrong.length > 0)
    failures.push(`mailboxes with other messages than were stored: ${wrong.slice(0, 10).join(" ")}`);
  if (members.takeovers > 1) failures.push(`${members.takeovers} takeovers after one kill`);
  failures.push(...stage.faults);
  const title = `${accounts} accounts, ${mailboxes} with ${MAIL} messages each; ${shards} shards`;
  const figures = { accounts, mailboxes, shards, engine, published, rows };
  return { text: `${title}\n${table(rows)}${JSON.stringify(figures)}\n`, failures };
}

function textOf(mailbox: number, index: number): string {
  return `${index} for ${nameOf(mailbox)} `.padEnd(MAIL_BYTES, "x");
}

/** A data folder of an embedded server in which the first users have mail. */
function fill(folder: string, mailboxes: number): void {
  mkdirSync(folder);
  using database = openDatabase(folder, "none");
  const store = new Store(database);
  for (let i = 0; i < mailboxes; i++) {
    for (let index = 0; index < MAIL; index++)
      store.stored(nameOf(i), {
        number: store.newNumber(),
        unixMs: Date.now(),
        from: nameOf(i + 1),
        text: Buffer.from(textOf(i, index)),
      });
    if (i % 1_000 === 999) store.commit();
  }
  store.commit();
}

/** Returns the number of messages. */
async function imported(url: string, folder: string): Promise<number> {
  const log = await openLog(url);
  try {
    const moved = await importFolder(log, folder, { unixMs: Date.now(), progress: () => {} });
    return moved!.messages;
  } finally {
    await log.close();
  }
}

/** The lines of that event in the log of a server. */
function events(member: Member, event: string): string[] {
  const all = readFileSync(member.log, "latin1").split("\n");
  return all.filter((each) => each.includes(`"event":"${event}"`));
}

/** The last one. */
function logged(member: Member, event: string): Record<string, number> | null {
  const line = events(member, event).at(-1);
  return line === undefined ? null : (JSON.parse(line) as Record<string, number>);
}

function claims(member: Member): string {
  const { ms = 0, records = 0 } = logged(member, "claimed") ?? {};
  return `claimed with ${records} records read in ${ms} ms`;
}

async function login(port: number, user: string): Promise<WireClient> {
  const client = await WireClient.connect(port);
  client.sendLines(`login ${user} ${PASSWORD}`);
  const reply = await client.line();
  if (!reply.startsWith("ok ")) throw new Error(`the login of ${user} got: ${reply}`);
  return client;
}

/** A user who sends messages to himself, one after another. */
class Probe {
  #replies: number[] = [];
  readonly #ended: Promise<void>;
  #isStopped = false;

  constructor(client: WireClient, user: string) {
    this.#ended = this.#run(client, user);
  }

  async #run(client: WireClient, user: string): Promise<void> {
    while (!this.#isStopped) {
      const beganMs = performance.now();
      client.sendLines(`message ${user} probe`);
      await client.until("ok sent");
      this.#replies.push(performance.now() - beganMs);
      await Bun.sleep(PROBE_MS);
    }
    client.cut();
  }

  /** The times until the replies since the last call, in ms. */
  take(): number[] {
    const replies = this.#replies;
    this.#replies = [];
    return replies;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#ended;
  }
}

async function untilSnapshot(owner: Member, from: string, to: string): Promise<{ bytes: number; messages: number }> {
  const [sender, receiver] = [await login(owner.port, from), await login(owner.port, to)];
  let messages = 0;
  let snapshot = logged(owner, "snapshot");
  for (; snapshot === null; snapshot = logged(owner, "snapshot")) {
    for (let i = 0; i < IN_FLIGHT; i++) sender.sendLines(`message ${to} ${TEXT}`);
    for (let i = 0; i < IN_FLIGHT; i++) await sender.until("ok sent");
    messages += IN_FLIGHT;
    for (let i = 0; i < IN_FLIGHT; i++) await receiver.line();
  }
  sender.cut();
  receiver.cut();
  return { bytes: snapshot["bytes"]!, messages };
}

async function reload(owner: Member): Promise<void> {
  const before = events(owner, "reload").length;
  owner.signal("SIGHUP");
  while (events(owner, "reload").length === before) await Bun.sleep(POLL_MS);
}

async function takeover(owner: Member, spare: Member, user: string): Promise<void> {
  owner.signal("SIGKILL");
  for (;;) {
    try {
      const client = await login(spare.port, user);
      client.sendLines(`message ${user} probe`);
      await client.until("ok sent");
      return client.cut();
    } catch {
      await Bun.sleep(POLL_MS); // Refused as busy, until the spare is the owner.
    }
  }
}

/** Logs in as some of the users with mail, and returns those who did not get theirs. */
async function readSample(port: number, mailboxes: number, count: number): Promise<string[]> {
  const wrong: string[] = [];
  for (let i = 0; i < count; i++) {
    const mailbox = Math.floor((i * mailboxes) / count);
    const client = await login(port, nameOf(mailbox));
    client.sendLines("logout");
    const lines = (await client.rest()).filter((line) => line.startsWith("stored "));
    const texts = lines.map((line) => line.split(" ").slice(3).join(" "));
    const expected = Array.from({ length: MAIL }, (_, index) => textOf(mailbox, index));
    if (texts.join("\n") !== expected.join("\n")) wrong.push(nameOf(mailbox));
  }
  return wrong;
}
