import { afterEach, describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Account } from "../../src/chat/session.ts";
import { BACKUP_WAL_BYTES_MAX } from "../../src/limits.ts";
import { BackupBusyError } from "../../src/storage/backup.ts";
import { Copier, type CopyReply, type CopyRequest } from "../../src/storage/backup-copy.ts";
import { DataFolder } from "../../src/storage/data-folder.ts";
import { type Durability, StoreError, openDatabase } from "../../src/storage/database.ts";
import { Journal, segmentsOf } from "../../src/storage/journal.ts";
import { Recovery, openStore, seedOf } from "../../src/storage/recovery.ts";
import { FileFolder } from "../../src/storage/segment.ts";
import { Store } from "../../src/storage/store.ts";
import { Outbox } from "../../src/stream/outbox.ts";
import { Random, seedsFor } from "../support/random.ts";

const SEGMENT_BYTES = 4096;
const PIECE_BYTES = 4096;
const UNIX_MS = 1_700_000_000_000;
const USERS = [new Account("alice"), new Account("bob")] as const;
const OPTIONS = { salvage: false, unixMs: UNIX_MS, progress: () => {} };
const folders: string[] = [];
const opened: { close(): void }[] = [];

afterEach(() => {
  for (const each of opened.splice(0).reverse()) each.close();
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

function newPath(): string {
  folders.push(mkdtempSync(join(tmpdir(), "heartline-")));
  return folders.at(-1)!;
}

/** What each user has not acknowledged, and who blocks whom. */
interface State {
  messages: string[];
  blocks: string[];
}

function stateOf(store: Store): State {
  const messages = USERS.flatMap(({ name }) =>
    store.read(name, 0, Number.POSITIVE_INFINITY).map(({ number, text }) => `${name} ${number} ${Buffer.from(text)}`),
  );
  return { messages, blocks: store.blocks().map(({ user, other }) => `${user} ${other}`) };
}

/** Opens a folder with small segments, as a server does. */
function open(
  path: string,
  durability: Durability,
  ask?: (request: CopyRequest) => Promise<CopyReply>,
  hasCheckpoint = (): boolean => true,
) {
  const data = new DataFolder(path);
  const database = openDatabase(path, durability);
  const { damage } = new Recovery(database, new FileFolder(join(path, "journal")), OPTIONS, SEGMENT_BYTES).run();
  expect(damage).toBeNull();
  const { sequence } = database.query<{ sequence: number }, []>("SELECT * FROM progress").get()!;
  const journal =
    durability === "none"
      ? null
      : new Journal(new FileFolder(data.inside("journal")), sequence, seedOf(database), SEGMENT_BYTES);
  data.watch(journal);
  /** Some commits are followed by a checkpoint, as far as SQLite can copy its log. */
  const checkpoint = (): void => {
    if (!hasCheckpoint()) return;
    using other = new Database(database.filename, { create: false, readwrite: true });
    other.run("PRAGMA wal_checkpoint(PASSIVE)");
  };
  const checkpoints = { state: "idle", committed: checkpoint } as const;
  const store = new Store(database, journal, durability === "power", checkpoints, data, ask);
  opened.push(store);
  return store;
}

/** A server whose users send and acknowledge at random, with a model of what it has promised. */
class Server {
  readonly path = join(newPath(), "data");
  readonly store: Store;
  /** Called before each step of a backup. */
  beforeStep = (_request: CopyRequest): void => {};
  /** The state at the record that was the last one when the backup asked for the journal. */
  atSnapshot: State | null = null;
  readonly requests: CopyRequest[] = [];
  readonly #random: Random;
  readonly #streams = USERS.map(() => new Outbox({ markDirty: () => {} }, false));
  readonly #movedUpTo = USERS.map(() => 0);
  readonly #waiting: { user: number; number: number; text: string; position: number }[] = [];
  readonly #blocks = new Set<string>();

  constructor(random: Random, durability: Durability = "process") {
    this.#random = random;
    const copier = new Copier(PIECE_BYTES);
    const ask = async (request: CopyRequest): Promise<CopyReply> => {
      if ("go" in request && request.go !== null) this.atSnapshot = this.state;
      this.requests.push(request);
      this.beforeStep(request);
      return copier.answer(request);
    };
    this.store = open(this.path, durability, ask, () => random.oneIn(3));
  }

  get state(): State {
    const messages = USERS.flatMap(({ name }, index) =>
      this.#waiting.filter(({ user }) => user === index).map(({ number, text }) => `${name} ${number} ${text}`),
    );
    return { messages, blocks: [...this.#blocks].sort() };
  }

  turn(): void {
    for (let acts = 1 + this.#random.below(4); acts > 0; acts--) {
      const user = this.#random.below(USERS.length);
      const act = this.#random.below(10);
      if (act < 7) this.send(user, act < 3, "x".repeat(1 + this.#random.below(400)));
      else if (act < 9) this.#ack(user);
      else this.#block(user);
    }
    this.store.compact(this.#moveOld);
    expect(this.store.save()).toBe(true);
  }

  send(user: number, isStored: boolean, text: string): void {
    const number = this.store.newNumber();
    const outbox = this.#streams[user]!;
    if (isStored) {
      this.store.stored(USERS[user]!.name, { number, unixMs: UNIX_MS, from: "carol", text: Buffer.from(text) });
    } else {
      outbox.appendMessage(number, UNIX_MS, Buffer.from("message carol "), Buffer.from(text), 0, text.length);
      this.store.appended(USERS[user]!, 0, outbox);
    }
    this.#waiting.push({ user, number, text, position: outbox.end });
  }

  #ack(user: number): void {
    const own = this.#waiting.filter((message) => message.user === user);
    const last = own[this.#random.below(own.length + 1)];
    if (last === undefined) return;
    const outbox = this.#streams[user]!;
    outbox.durable = outbox.sent = outbox.end;
    outbox.ack(Math.max(outbox.acked, last.position));
    this.store.acked(USERS[user]!, last.number);
    this.store.drop(USERS[user]!.name, last.number, 1e9);
    for (const message of own)
      if (message.number <= last.number) this.#waiting.splice(this.#waiting.indexOf(message), 1);
  }

  #block(user: number): void {
    const [name, other] = [USERS[user]!.name, USERS[1 - user]!.name];
    const isOn = this.#blocks.delete(`${name} ${other}`);
    if (isOn) return this.store.unblock(name, other);
    this.#blocks.add(`${name} ${other}`);
    this.store.block(name, other);
  }

  readonly #moveOld = (upTo: number): boolean => {
    for (const [index, { name }] of USERS.entries()) {
      const stream = this.#streams[index]!;
      const messages = stream.messages(this.#movedUpTo[index]!, upTo, 1e9);
      this.store.requeued(name, 0, 0, messages);
      this.#movedUpTo[index] = messages.at(-1)?.number ?? this.#movedUpTo[index]!;
      stream.spill(0, this.#movedUpTo[index]!);
    }
    return true;
  };

  get segments(): number[] {
    return segmentsOf(new FileFolder(join(this.path, "journal")));
  }
}

function filesOf(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: "utf8" }).sort();
}

/** The reason why that backup fails. */
async function whyFails(backup: Promise<void>): Promise<string> {
  const error = await backup.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(StoreError);
  return (error as Error).message;
}

describe("a backup", () => {
  test.each(seedsFor("backup", 12))(
    "has every message of its snapshot once, with turns, commits, checkpoints and new segments between its steps (%i)",
    async (seed) => {
      const random = new Random(seed);
      const server = new Server(random);
      for (let turns = random.below(120); turns > 0; turns--) server.turn();
      const target = join(newPath(), "copy");
      const [first] = server.segments;
      server.beforeStep = () => {
        for (let turns = random.below(6); turns > 0; turns--) server.turn();
        if (random.oneIn(4)) server.store.commit();
      };
      await server.store.backup(target);
      expect(filesOf(target).filter((name) => name.startsWith("heartline"))).toEqual(["heartline.sqlite"]);
      const copy = open(target, "process");
      expect(server.atSnapshot).not.toBeNull();
      expect(stateOf(copy)).toEqual(server.atSnapshot!);
      for (let turns = 0; turns < 20; turns++) server.turn();
      expect(server.segments.length).toBeLessThan(8);
      expect(server.segments[0]).not.toBe(first);
      expect(stateOf(server.store).messages.length).toBeLessThanOrEqual(server.state.messages.length);
    },
  );
});
