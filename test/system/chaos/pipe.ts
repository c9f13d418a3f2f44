/** A terminal client whose output is a pipe with a slow reader: no message may be lost in it. */
import { closeSync, constants, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { ChatClient, type ChatError, type ClientState } from "../../../src/client/client.ts";
import type { Random } from "../../support/random.ts";
import { PASSWORD } from "./clients.ts";
import { IDLE_TIMEOUT_S } from "./server.ts";

const root = join(import.meta.dir, "../../..");
const SAY_MS = 15;
const READ_MS = 20;
const READ_BYTES_MAX = 6_000;
const FETCHES_MAX = 20;
/** Exit code of a script that has not reached the server for 30 seconds. */
const GIVEN_UP = 3;

/** The port of the server and the two users. */
export interface PipeSpec {
  folder: string;
  port: number;
  reader: string;
  sender: string;
  /** Times without service may be longer than the time after which a script gives up, and other servers may be away. */
  isCluster: boolean;
}

/**
 * One user that fetches its messages again and again with a terminal client that writes to a pipe. The reader of the
 * pipe is slow, pauses for longer than the idle timeout, and often closes the pipe before the end. Every byte in the pipe
 * is read: together the fetches must show each message of the other user once and in order.
 */
export class PipeReader {
  readonly #spec: PipeSpec;
  readonly #random: Random;
  readonly #fault: (what: string) => void;
  readonly #sender: ChatClient;
  #state: ClientState | null = null;
  #sent = 0;
  readonly #accepted: number[] = [];
  #unanswered = 0;
  readonly #shown: number[] = [];
  #fetching: Promise<void> = Promise.resolve();
  #child: Bun.Subprocess | null = null;
  #faultsStopped = false;
  #isStopped = false;
  fetches = 0;
  /** Fetches whose reader closed the pipe before the end. */
  abandoned = 0;
  /** Fetches that ended with GIVEN_UP. */
  givenUp = 0;

  constructor(spec: PipeSpec, random: Random, fault: (what: string) => void) {
    this.#spec = spec;
    this.#random = random;
    this.#fault = fault;
    Bun.spawnSync(["mkfifo", join(spec.folder, "pipe")]);
    const store = { load: () => this.#state, save: (state: ClientState) => void (this.#state = state) };
    this.#sender = new ChatClient({ host: "127.0.0.1", port: spec.port, store: () => store });
  }

  get shown(): number {
    return this.#shown.length;
  }

  start(): void {
    void this.#sendLoop();
    this.#fetching = this.#fetchLoop();
  }

  async #sendLoop(): Promise<void> {
    while (!this.#faultsStopped) {
      const isLoggedIn = await this.#sender.login(this.#spec.sender, PASSWORD).then(
        () => true,
        () => false,
      );
      if (isLoggedIn) break;
      await Bun.sleep(100);
    }
    while (!this.#faultsStopped) {
      const number = ++this.#sent;
      this.#unanswered++;
      const answered = (): number => this.#unanswered--;
      this.#sender
        .message(this.#spec.reader, `${number} pipe ${"x".repeat(this.#random.below(1_500))}`)
        .then(() => this.#accepted.push(number))
        .catch(({ code }: ChatError) => {
          // In a long run the sender is faster than the reader of the pipe.
          const isExpected = ["unknown_outcome", "closed", "mailbox_full"].includes(code);
          if (!isExpected && !(code === "busy" && this.#spec.isCluster)) this.#fault(`the pipe's sender got ${code}`);
        })
        .finally(answered);
      await Bun.sleep(SAY_MS);
    }
  }

  async #fetchLoop(): Promise<void> {
    while (!this.#faultsStopped) await this.#fetch();
  }

  /** One run of the client, and the reading of its output. */
  async #fetch(): Promise<void> {
    const { folder, port, reader } = this.#spec;
    this.fetches++;
    const pipe = openSync(join(folder, "pipe"), constants.O_RDONLY | constants.O_NONBLOCK);
    const client = [process.execPath, join(root, "src/main.ts"), "chat", "127.0.0.1", String(port), "--user", reader];
    const output = openSync(join(folder, "pipe"), constants.O_WRONLY);
    const child = Bun.spawn(client, {
      cwd: folder,
      env: { PATH: process.env.PATH, XDG_STATE_HOME: join(folder, "pipe-state"), HEARTLINE_PASSWORD: PASSWORD },
      stdin: "ignore",
      stdout: output,
      stderr: "pipe",
    });
    closeSync(output);
    this.#child = child;
    const errors = child.stderr.text();
    let taken = "";
    const chunk = Buffer.alloc(65_536);
    const read = (bytesMax: number): boolean => {
      let bytes = 0;
      try {
        bytes = readSync(pipe, chunk, 0, bytesMax, null);
      } catch {} // It is empty now.
      taken += chunk.toString("latin1", 0, bytes);
      return bytes > 0;
    };
    let readsLeft = this.#random.oneIn(2) ? this.#random.below(40) : Number.POSITIVE_INFINITY;
    const pauseAt = this.#random.oneIn(6) ? this.#random.below(10) : -1;
    for (let reads = 0; child.exitCode === null && child.signalCode === null; reads++) {
      if (readsLeft-- <= 0 && !this.#faultsStopped) break;
      const pauseMs = reads === pauseAt && !this.#faultsStopped ? this.#random.below(IDLE_TIMEOUT_S * 1_600) : READ_MS;
      await Bun.sleep(pauseMs);
      while (
        read(this.#faultsStopped ? chunk.length : 1 + this.#random.below(READ_BYTES_MAX)) &&
        this.#faultsStopped
      ) {}
    }
    await this.#suspend(child);
    while (read(chunk.length)) {}
    closeSync(pipe);
    if (child.exitCode === null) this.abandoned++;
    child.kill("SIGCONT");
    const code = await child.exited;
    this.#child = null;
    if (this.#isStopped) return;
    if (code === GIVEN_UP && this.#spec.isCluster) this.givenUp++;
    else if (code !== 0 && code !== 1) this.#fault(`the pipe's client ended with ${code}: ${await errors}`);
    const line = new RegExp(`^${this.#spec.sender}(?: on \\S+ \\S+)?: (\\d+) pipe x*\n`, "gm");
    for (const [, number] of taken.matchAll(line)) this.#shown.push(Number(number));
  }

  /**
   * Stops the client with SIGSTOP, so that the pipe can be read to the end and closed empty. On a busy machine its
   * threads do not stop at once, and each of them may be writing.
   */
  async #suspend(child: Bun.Subprocess): Promise<void> {
    const tasks = `/proc/${child.pid}/task`;
    const isStopped = (task: string): boolean => /\) [TZ]/.test(readFileSync(join(tasks, task, "stat"), "latin1"));
    child.kill("SIGSTOP");
    while (child.exitCode === null && child.signalCode === null) {
      try {
        if (readdirSync(tasks).every(isStopped)) return;
      } catch {
        return; // It has ended.
      }
      await Bun.sleep(1);
    }
  }

  /** After the faults: fetches the rest, and returns what was lost, twice or out of order. */
  async finish(): Promise<{ lost: string[]; twice: string[]; disordered: string[] }> {
    this.#faultsStopped = true;
    await this.#fetching;
    while (this.#unanswered > 0 && !this.#isStopped) await Bun.sleep(READ_MS);
    this.#sender.close();
    for (let times = 0, before = -1; before < this.shown && times < FETCHES_MAX; times++) {
      before = this.shown;
      await this.#fetch();
    }
    const seen = new Set(this.#shown);
    const name = (number: number): string => `${this.#spec.sender} > ${this.#spec.reader} ${number} (pipe)`;
    return {
      lost: this.#accepted.filter((number) => !seen.has(number)).map(name),
      twice: this.#shown.filter((number, index) => this.#shown.indexOf(number) < index).map(name),
      disordered: this.#shown.filter((number, index) => index > 0 && number < this.#shown[index - 1]!).map(name),
    };
  }

  stop(): void {
    this.#faultsStopped = this.#isStopped = true;
    this.#sender.close();
    this.#child?.kill("SIGKILL");
  }
}
