/** Every attack, as data: its help text, and how it uses an AttackRunner. */
import type { AttackRunner, AttackClient, ClientScript } from "./attack-client.ts";
import { PASSWORD } from "../target.ts";

/** One attack. */
export interface Attack {
  help: string;
  /** Further options of the server. */
  options?: readonly string[];
  start(runner: AttackRunner): void;
}

/** Requests of a pipeline that are queued at once. */
const PIPELINE_REQUESTS = 1_000_000;
/** Requests of one write. */
const BLOCK_REQUESTS = 1_000;
const LONG_TEXT = "x".repeat(3_500);
const LONG_LINE = Buffer.from(`message somebody ${"x".repeat(5_000)}\n`);
const ENDLESS = Buffer.alloc(64 << 10, "x");

/**
 * Texts that control a terminal that shows them unfiltered: they clear the screen, set the window title, write to the
 * clipboard, request the terminal's identity or reverse the direction of text. Others are invalid UTF-8 or not text.
 */
const ESCAPES = [
  "\x1b[2J\x1b[H",
  "\x1b]0;root\x07",
  "\x1b]52;c;cm0gLXJm\x07",
  "\x1b[c\x1b[6n",
  "\x9b31m",
  "\x1bP$q\x1b\\",
  "\x1bc",
  "\xe2\x80\xae txt.exe",
  "\xff\xfe\xc0\x80",
  "\xed\xa0\x80",
  "\xf8\x88\x80\x80\x80",
  "\0\b\b\b\b\x7f",
  "a\rb\x0b\x0c",
  Array.from({ length: 200 }, (_, i) => String.fromCharCode(i === 10 || i === 124 || i === 126 ? 0 : i)).join(""),
].map((text) => Buffer.from(text, "latin1"));

/** The replies of other kinds of servers at a callback port. */
const OTHER_PROGRAMS = [
  "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
  "-ERR unknown command 'callback'\r\n",
  "220 mail.example ESMTP\r\n",
  "x".repeat(64 << 10),
];

/** The header of a TLS record without its body. */
const HALF_HANDSHAKE = Buffer.from("\x16\x03\x01\x02\x00\x01", "latin1");

export const ATTACKS = {
  drip: {
    help: "300 connections send a byte per second and never a whole line; half of them are logged in",
    start: (runner) => {
      const line = "message somebody it takes a while to say this, and the end of it never comes";
      const all = range(runner.scaled(300), (i) => runner.open(i % 2 === 0 ? {} : { user: runner.user(i >> 1) }));
      runner.perSecond(all.length, (count) => {
        const at = Math.floor(count / all.length) % line.length;
        all[count % all.length]!.send(Buffer.from(line[at]!));
      });
    },
  },
  deaf: {
    help: "16 users, half of them resumable, never read 2,000 name lists each and 4 MB of messages per second",
    start: (runner) => {
      const deaf = range(runner.scaled(16), (i) => runner.user(i));
      const lists = Buffer.from("online\n".repeat(2_000));
      for (const [i, user] of deaf.entries())
        runner.open({
          user,
          options: i % 2 === 0 ? "" : " resumable",
          onReady: (client) => {
            client.stopReading();
            client.send(lists);
          },
        });
      const writers = range(4, (i) => runner.open({ user: runner.user(deaf.length + i) }));
      runner.perSecond(runner.scaled(1_000), (count) => {
        const writer = writers[count % writers.length]!;
        if (writer.canSend) writer.send(Buffer.from(`message ${deaf[count % deaf.length]} ${LONG_TEXT}\n`));
      });
    },
  },
  mute: {
    help: "4,000 connections, opened at 2,000 per second, send nothing and stay open when the server closes its side",
    start: (runner) => {
      runner.perSecond(runner.scaled(2_000), () => {
        if (runner.count < runner.scaled(4_000)) runner.open({ ignoresEnd: true });
      });
    },
  },
  pipeline: {
    help: "8 users send a million requests each (online, alive, messages); 4 connections send as many invalid lines",
    start: (runner) => {
      const users = range(runner.scaled(8), (i) => runner.user(i));
      for (const [i, user] of users.entries())
        pipeline(runner, user, [`message ${users[(i + 1) % users.length]} hello`, "alive", "online", "alive"]);
      for (const words of [[""], ["hello"], ["message a b"], ["\xff\xfe", ""]]) pipeline(runner, undefined, words);
    },
  },
  broadcasts: {
    help: "4 users send a million requests each; one in ten is a broadcast",
    start: (runner) => {
      const words = ["broadcast listen to me", ...Array.from({ length: 9 }, () => "alive")];
      for (let i = 0; i < runner.scaled(4); i++) pipeline(runner, runner.user(i), words);
    },
  },
  resumes: {
    help: "3 users send up to 10,000 requests per second over new connections: with resume, with login, with as",
    start: (runner) => {
      const port = runner.listen(null);
      const requests = Buffer.from("alive\n".repeat(100));
      let resumed = "";
      let called = "";
      const tokenOf = (line: string): string => line.split(" ")[1]!;
      runner.open({
        user: runner.user(0),
        options: " resumable",
        onReady: (_, line) => void (resumed = tokenOf(line)),
      });
      runner.perSecond(runner.scaled(50), () => {
        const resume = Buffer.from(`resume ${resumed} 0\n`);
        runner.openOnce({ onReady: (client) => client.send(Buffer.concat([resume, requests])) });
      });
      runner.perSecond(runner.scaled(50), () => {
        runner.openOnce({ user: runner.user(1), onReady: (client) => client.send(requests) });
      });
      const callback = { user: runner.user(2), options: ` callback=${port}` };
      runner.openOnce({ ...callback, onReady: (_, line) => void (called = tokenOf(line)) });
      runner.perSecond(runner.scaled(200), () => {
        runner.openOnce({ onReady: (client) => client.send(Buffer.from(`as ${called} broadcast listen to me\n`)) });
      });
    },
  },
  lists: {
    help: "20 users, each blocked by another user, request the list of 400 names 10,000 times per second",
    start: (runner) => {
      // They block the ordinary users. Otherwise the broadcasts to 400 more receivers would dominate the measurement.
      const blocks = (...more: string[]) => {
        const lines = Buffer.from([...runner.spec.ordinary, ...more].map((name) => `block ${name}\n`).join(""));
        return (client: AttackClient): void => client.send(lines);
      };
      const asking = range(runner.scaled(20), (i) => runner.open({ user: runner.user(i), onReady: blocks() }));
      const others = Math.min(runner.scaled(400), runner.spec.users.length - asking.length);
      for (let i = 0; i < others; i++) {
        const asker = i < asking.length ? [runner.user(i)] : [];
        runner.open({ user: runner.user(asking.length + i), onReady: blocks(...asker) });
      }
      const lines = Buffer.from("online\n".repeat(10));
      runner.perSecond(runner.scaled(1_000), (count) => {
        const client = asking[count % asking.length]!;
        if (client.canSend) client.send(lines);
      });
    },
  },
  dribble: {
    help: "20 connections send lines of 512 KB in pieces of 1 KB, 10 MB per second; half of them are logged in",
    options: ["--buffer-size", String(512 << 10)],
    start: (runner) => {
      const all = range(runner.scaled(20), (i) => runner.open(i % 2 === 0 ? {} : { user: runner.user(i) }));
      const piece = Buffer.alloc(1 << 10, "x");
      const end = Buffer.from("\n");
      runner.perSecond(runner.scaled(10_000), (count) => {
        const client = all[count % all.length]!;
        client.send(piece);
        if (Math.floor(count / all.length) % 500 === 499) client.send(end);
      });
    },
  },
  endless: {
    help: "8 connections send a line without an end, 8 send lines that are too long; half of them are logged in",
    start: (runner) => {
      const lines = Buffer.concat(range(12, () => LONG_LINE));
      for (let i = 0; i < runner.scaled(16); i++) {
        const bytes = i % 2 === 0 ? ENDLESS : lines;
        const sendAgain = (client: AttackClient): void => runner.after(0, () => client.send(bytes));
        const user = i % 4 < 2 ? {} : { user: runner.user(i) };
        runner.open({ ...user, onReady: (client) => client.send(bytes), onDrained: sendAgain });
      }
    },
  },
  logins: {
    help: "500 logins per second: unknown users, wrong passwords, valid logins that close after or before the reply",
    start: (runner) => {
      const kinds: ((count: number) => ClientScript)[] = [
        (count) => ({ user: `nobody${count}` }),
        (count) => ({ user: runner.user(count), password: "guess" }),
        (count) => ({ user: runner.user(count), onReady: (client) => client.close(false) }),
        (count) => ({ user: runner.user(count), onDrained: (client) => client.close() }),
      ];
      runner.perSecond(runner.scaled(500), (count) => {
        runner.openOnce(kinds[count % kinds.length]!(Math.floor(count / kinds.length)));
      });
    },
  },
  hashes: {
    help: "20 logins per second of users with argon2id hashes; two of three passwords are wrong",
    start: (runner) => {
      const { hashed } = runner.spec;
      runner.perSecond(runner.scaled(20), (count) => {
        const password = count % 3 === 0 ? PASSWORD : "guess";
        runner.openOnce({ user: hashed[count % hashed.length]!, password, onReady: (client) => client.close(false) });
      });
    },
  },
  hoard: {
    help: "4 users send 4 MB per second to 40 absent users",
    start: (runner) => {
      const all = range(4, (i) => runner.open({ user: runner.user(i) }));
      runner.perSecond(runner.scaled(1_000), (count) => {
        const writer = all[count % all.length]!;
        const to = runner.user(all.length + (count % 40));
        if (writer.canSend) writer.send(Buffer.from(`message ${to} ${LONG_TEXT}\n`));
      });
    },
  },
  relogins: {
    help: "2 users send 4 KB messages at full speed to a third, who acknowledges them and logs in 20 times per second",
    start: (runner) => {
      const third = runner.user(2);
      for (let i = 0; i < 2; i++) pipeline(runner, runner.user(i), [`message ${third} ${LONG_TEXT}`]);
      runner.perSecond(runner.scaled(20), () => {
        let received = 0;
        let acked = 0;
        runner.openOnce({
          user: third,
          options: " resumable",
          onData: (client, chunk) => {
            received += chunk.length;
            if (received < acked + (16 << 10)) return;
            acked = received;
            client.send(Buffer.from(`alive ${received}\n`));
          },
        });
      });
    },
  },
  after: {
    help: "a user logs in 100 times per second with after= for a session with 40,000 unacknowledged messages",
    start: (runner) => {
      const [user, writer] = [runner.user(0), runner.user(1)];
      let token = "";
      runner.openOnce({ user, options: " resumable", onReady: (_, line) => void (token = line.split(" ")[1]!) });
      const lines = Buffer.from(`message ${user} h\n`.repeat(runner.scaled(40_000)));
      runner.open({ user: writer, onReady: (client) => client.send(lines) });
      runner.perSecond(runner.scaled(100), (count) => {
        if (count > runner.scaled(100)) runner.openOnce({ user, options: ` resumable after=${token}:${count}` });
      });
    },
  },
  callbacks: {
    help: "40 callback users with ports that are silent, closed, or of other programs; 200 requests per second",
    start: (runner) => {
      const ports = [
        runner.listen(null),
        runner.closedPort(),
        runner.listen(""),
        ...OTHER_PROGRAMS.map((text) => runner.listen(text)),
      ];
      const users = range(runner.scaled(40), (i) => runner.user(i));
      const tokens = new Map<string, string>();
      runner.perSecond(runner.scaled(200), (count) => {
        const user = users[count % users.length]!;
        const token = tokens.get(user);
        if (token === undefined || count % 10 === 0) {
          const options = ` callback=${ports[(count % users.length) % ports.length]}`;
          runner.openOnce({ user, options, onReady: (_intruder, line) => void tokens.set(user, line.split(" ")[1]!) });
        } else {
          const request = Buffer.from(`as ${token} message ${users[(count + 1) % users.length]} hello\n`);
          runner.openOnce({ onReady: (client) => client.send(request) });
        }
      });
    },
  },
  unanswered: {
    help: "8 callback users log in 150 times per second with a port that never accepts; a third of them log out again",
    start: (runner) => {
      const port = runner.fullPort();
      runner.perSecond(runner.scaled(150), (count) => {
        const user = runner.user(count % 8);
        const again = (line: string): void => {
          const [, token] = line.split(" ");
          const request = Buffer.from(`as ${token} ${count % 3 === 0 ? "logout" : `message ${user} ${LONG_TEXT}`}\n`);
          runner.openOnce({ onReady: (client) => client.send(request) });
        };
        runner.openOnce({ user, options: ` callback=${port}`, onReady: (_intruder, line) => again(line) });
      });
    },
  },
  escapes: {
    help: "10 users send 500 texts per second with terminal control sequences or invalid UTF-8, and broadcast 20",
    start: (runner) => {
      const all = range(runner.scaled(10), (i) => runner.open({ user: runner.user(i) }));
      const { ordinary } = runner.spec;
      const lineOf = (head: string, count: number): Buffer =>
        Buffer.concat([Buffer.from(head), ESCAPES[count % ESCAPES.length]!, Buffer.from("\n")]);
      const sender = (count: number): AttackClient => all[count % all.length]!;
      runner.perSecond(runner.scaled(500), (count) => {
        if (sender(count).canSend) sender(count).send(lineOf(`message ${ordinary[count % ordinary.length]} `, count));
      });
      runner.perSecond(runner.scaled(20), (count) => {
        if (sender(count).canSend) sender(count).send(lineOf("broadcast ", count));
      });
    },
  },
  flapping: {
    help: "1,000 connections per second that close or reset at once",
    start: (runner) => {
      runner.perSecond(runner.scaled(1_000), (count) => {
        runner.openOnce({ onReady: (client) => client.close(count % 2 === 0) });
      });
    },
  },
  handshakes: {
    help: "300 connections per second to the TLS port: complete handshakes, stalled ones, and plain bytes",
    start: (runner) => {
      const kinds: ClientScript[] = [
        { tls: "handshake", onReady: (client) => client.close(false) },
        { tls: "plain bytes", onReady: (client) => client.send(HALF_HANDSHAKE) },
        { tls: "plain bytes", onReady: (client) => client.send(Buffer.from("login somebody secret\n")) },
      ];
      runner.perSecond(runner.scaled(300), (count) => runner.openOnce(kinds[count % kinds.length]!));
    },
  },
} satisfies Record<string, Attack>;

export type AttackName = keyof typeof ATTACKS;
export const ATTACK_NAMES = Object.keys(ATTACKS) as AttackName[];

function range<T>(count: number, each: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => each(index));
}

/** A client that sends the lines in turn, a million at once, and again when the kernel has taken them. */
function pipeline(runner: AttackRunner, user: string | undefined, lines: readonly string[]): void {
  const block = Buffer.from(range(BLOCK_REQUESTS, (i) => `${lines[i % lines.length]}\n`).join(""), "latin1");
  let blocks = 0;
  const next = (client: AttackClient): void => {
    for (let i = 0; i < PIPELINE_REQUESTS / BLOCK_REQUESTS; i++) client.send(block);
    blocks++;
  };
  runner.open({
    ...(user === undefined ? {} : { user }),
    onReady: next,
    onDrained: (client) => {
      if (blocks > 0 && client.canSend) runner.after(0, () => next(client));
    },
  });
}
