import type { AttackRunner, AttackClient, Script } from "./attack-client.ts";
import { PASSWORD } from "../target.ts";

/** What hostile clients do. */
export interface Attack {
  help: string;
  /** Options that the server has meanwhile. */
  options?: readonly string[];
  begin(field: AttackRunner): void;
}

const PIPELINE_REQUESTS = 1_000_000;
/** A pipeline is written block by block, as the kernel takes it. */
const BLOCK_REQUESTS = 1_000;
const LONG_TEXT = "x".repeat(3_500);
const LONG_LINE = Buffer.from(`message somebody ${"x".repeat(5_000)}\n`);
const ENDLESS = Buffer.alloc(64 << 10, "x");

/**
 * Texts that do something to a terminal that shows them as they are: clear it, rename its window, write to its clipboard,
 * ask it who it is, turn the writing around; that are no UTF-8; and that are not text at all.
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

/** What answers at a port that is somebody else's. */
const OTHER_PROGRAMS = [
  "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
  "-ERR unknown command 'callback'\r\n",
  "220 mail.example ESMTP\r\n",
  "x".repeat(64 << 10),
];

/** A record of TLS that says how long it will be, and is not. */
const HALF_HANDSHAKE = Buffer.from("\x16\x03\x01\x02\x00\x01", "latin1");

export const ATTACKS = {
  drip: {
    help: "300 connections say a byte a second and never a whole line; half of them are logged in",
    begin: (field) => {
      const line = "message somebody it takes a while to say this, and the end of it never comes";
      const all = range(field.scaled(300), (i) => field.open(i % 2 === 0 ? {} : { user: field.user(i >> 1) }));
      field.perSecond(all.length, (count) => {
        const at = Math.floor(count / all.length) % line.length;
        all[count % all.length]!.say(Buffer.from(line[at]!));
      });
    },
  },
  deaf: {
    help: "16 users, every other one resumable, never read: neither 2,000 lists of names nor 4 MB a second of messages",
    begin: (field) => {
      const deaf = range(field.scaled(16), (i) => field.user(i));
      const lists = Buffer.from("online\n".repeat(2_000));
      for (const [i, user] of deaf.entries())
        field.open({
          user,
          options: i % 2 === 0 ? "" : " resumable",
          begins: (intruder) => {
            intruder.goDeaf();
            intruder.say(lists);
          },
        });
      const writers = range(4, (i) => field.open({ user: field.user(deaf.length + i) }));
      field.perSecond(field.scaled(1_000), (count) => {
        const writer = writers[count % writers.length]!;
        if (writer.isIn) writer.say(Buffer.from(`message ${deaf[count % deaf.length]} ${LONG_TEXT}\n`));
      });
    },
  },
  mute: {
    help: "4,000 connections, 2,000 more a second, say nothing, and do not close when the server does",
    begin: (field) => {
      field.perSecond(field.scaled(2_000), () => {
        if (field.count < field.scaled(4_000)) field.open({ stays: true });
      });
    },
  },
  pipeline: {
    help: "8 users with a million requests each, online, alive and messages; 4 strangers with as many that are none",
    begin: (field) => {
      const users = range(field.scaled(8), (i) => field.user(i));
      for (const [i, user] of users.entries())
        pipeline(field, user, [`message ${users[(i + 1) % users.length]} hello`, "alive", "online", "alive"]);
      for (const words of [[""], ["hello"], ["message a b"], ["\xff\xfe", ""]]) pipeline(field, undefined, words);
    },
  },
  broadcasts: {
    help: "4 users with a million requests each, a broadcast among ten",
    begin: (field) => {
      const words = ["broadcast listen to me", ...Array.from({ length: 9 }, () => "alive")];
      for (let i = 0; i < field.scaled(4); i++) pipeline(field, field.user(i), words);
    },
  },
  resumes: {
    help: "3 users make up to 10,000 requests a second, on connections that are resumed, logged in again or for one request",
    begin: (field) => {
      const port = field.listen(null);
      const requests = Buffer.from("alive\n".repeat(100));
      let resumed = "";
      let called = "";
      const tokenOf = (line: string): string => line.split(" ")[1]!;
      field.open({ user: field.user(0), options: " resumable", begins: (_, line) => void (resumed = tokenOf(line)) });
      field.perSecond(field.scaled(50), () => {
        const resume = Buffer.from(`resume ${resumed} 0\n`);
        field.visit({ begins: (intruder) => intruder.say(Buffer.concat([resume, requests])) });
      });
      field.perSecond(field.scaled(50), () => {
        field.visit({ user: field.user(1), begins: (intruder) => intruder.say(requests) });
      });
      const callback = { user: field.user(2), options: ` callback=${port}` };
      field.visit({ ...callback, begins: (_, line) => void (called = tokenOf(line)) });
      field.perSecond(field.scaled(200), () => {
        field.visit({ begins: (intruder) => intruder.say(Buffer.from(`as ${called} broadcast listen to me\n`)) });
      });
    },
  },
  lists: {
    help: "20 users, each blocked by another one, ask 10,000 times a second for the names of 400",
    begin: (field) => {
      // They block the ordinary users: else these users' broadcasts to 400 more receivers are what is measured.
      const blocks = (...more: string[]) => {
        const lines = Buffer.from([...field.order.ordinary, ...more].map((name) => `block ${name}\n`).join(""));
        return (intruder: AttackClient): void => intruder.say(lines);
      };
      const asking = range(field.scaled(20), (i) => field.open({ user: field.user(i), begins: blocks() }));
      const others = Math.min(field.scaled(400), field.order.users.length - asking.length);
      for (let i = 0; i < others; i++) {
        const asker = i < asking.length ? [field.user(i)] : [];
        field.open({ user: field.user(asking.length + i), begins: blocks(...asker) });
      }
      const lines = Buffer.from("online\n".repeat(10));
      field.perSecond(field.scaled(1_000), (count) => {
        const intruder = asking[count % asking.length]!;
        if (intruder.isIn) intruder.say(lines);
      });
    },
  },
  dribble: {
    help: "20 connections say lines of half a megabyte in pieces of 1 KB, 10 MB a second; half of them are logged in",
    options: ["--buffer-size", String(512 << 10)],
    begin: (field) => {
      const all = range(field.scaled(20), (i) => field.open(i % 2 === 0 ? {} : { user: field.user(i) }));
      const piece = Buffer.alloc(1 << 10, "x");
      const end = Buffer.from("\n");
      field.perSecond(field.scaled(10_000), (count) => {
        const intruder = all[count % all.length]!;
        intruder.say(piece);
        if (Math.floor(count / all.length) % 500 === 499) intruder.say(end);
      });
    },
  },
  endless: {
    help: "8 connections with a line without end, 8 with one too long line after another, half of them logged in",
    begin: (field) => {
      const lines = Buffer.concat(range(12, () => LONG_LINE));
      for (let i = 0; i < field.scaled(16); i++) {
        const bytes = i % 2 === 0 ? ENDLESS : lines;
        const goesOn = (intruder: AttackClient): void => field.after(0, () => intruder.say(bytes));
        const user = i % 4 < 2 ? {} : { user: field.user(i) };
        field.open({ ...user, begins: (intruder) => intruder.say(bytes), spent: goesOn });
      }
    },
  },
  logins: {
    help: "500 logins a second: unknown names, wrong passwords, right ones; who is in goes at once, or hangs up before",
    begin: (field) => {
      const kinds: ((count: number) => Script)[] = [
        (count) => ({ user: `nobody${count}` }),
        (count) => ({ user: field.user(count), password: "guess" }),
        (count) => ({ user: field.user(count), begins: (intruder) => intruder.leave(false) }),
        (count) => ({ user: field.user(count), spent: (intruder) => intruder.leave() }),
      ];
      field.perSecond(field.scaled(500), (count) => {
        field.visit(kinds[count % kinds.length]!(Math.floor(count / kinds.length)));
      });
    },
  },
  hashes: {
    help: "20 logins a second of users of whose passwords the server has an argon2id hash; two of three are wrong",
    begin: (field) => {
      const { hashed } = field.order;
      field.perSecond(field.scaled(20), (count) => {
        const password = count % 3 === 0 ? PASSWORD : "guess";
        field.visit({ user: hashed[count % hashed.length]!, password, begins: (intruder) => intruder.leave(false) });
      });
    },
  },
  hoard: {
    help: "4 users write 4 MB a second to 40 others who are away",
    begin: (field) => {
      const all = range(4, (i) => field.open({ user: field.user(i) }));
      field.perSecond(field.scaled(1_000), (count) => {
        const writer = all[count % all.length]!;
        const to = field.user(all.length + (count % 40));
        if (writer.isIn) writer.say(Buffer.from(`message ${to} ${LONG_TEXT}\n`));
      });
    },
  },
  relogins: {
    help: "2 users write 4 KB messages as fast as they may to a third, who confirms them and logs in 20 times a second",
    begin: (field) => {
      const third = field.user(2);
      for (let i = 0; i < 2; i++) pipeline(field, field.user(i), [`message ${third} ${LONG_TEXT}`]);
      field.perSecond(field.scaled(20), () => {
        let received = 0;
        let confirmed = 0;
        field.visit({
          user: third,
          options: " resumable",
          hears: (intruder, chunk) => {
            received += chunk.length;
            if (received < confirmed + (16 << 10)) return;
            confirmed = received;
            intruder.say(Buffer.from(`alive ${received}\n`));
          },
        });
      });
    },
  },
  after: {
    help: "a user logs in 100 times a second after= a session of which 40,000 messages were not confirmed",
    begin: (field) => {
      const [user, writer] = [field.user(0), field.user(1)];
      let token = "";
      field.visit({ user, options: " resumable", begins: (_, line) => void (token = line.split(" ")[1]!) });
      const lines = Buffer.from(`message ${user} h\n`.repeat(field.scaled(40_000)));
      field.open({ user: writer, begins: (intruder) => intruder.say(lines) });
      field.perSecond(field.scaled(100), (count) => {
        if (count > field.scaled(100)) field.visit({ user, options: ` resumable after=${token}:${count}` });
      });
    },
  },
  callbacks: {
    help: "40 users are to be called at ports where nobody answers, nobody is, or another program is; 200 requests a second",
    begin: (field) => {
      const ports = [
        field.listen(null),
        field.unused(),
        field.listen(""),
        ...OTHER_PROGRAMS.map((text) => field.listen(text)),
      ];
      const users = range(field.scaled(40), (i) => field.user(i));
      const tokens = new Map<string, string>();
      field.perSecond(field.scaled(200), (count) => {
        const user = users[count % users.length]!;
        const token = tokens.get(user);
        if (token === undefined || count % 10 === 0) {
          const options = ` callback=${ports[(count % users.length) % ports.length]}`;
          field.visit({ user, options, begins: (_intruder, line) => void tokens.set(user, line.split(" ")[1]!) });
        } else {
          const request = Buffer.from(`as ${token} message ${users[(count + 1) % users.length]} hello\n`);
          field.visit({ begins: (intruder) => intruder.say(request) });
        }
      });
    },
  },
  unanswered: {
    help: "8 users log in 150 times a second to be called at a port that accepts nobody; a third log out again",
    begin: (field) => {
      const port = field.fullPort();
      field.perSecond(field.scaled(150), (count) => {
        const user = field.user(count % 8);
        const again = (line: string): void => {
          const [, token] = line.split(" ");
          const request = Buffer.from(`as ${token} ${count % 3 === 0 ? "logout" : `message ${user} ${LONG_TEXT}`}\n`);
          field.visit({ begins: (intruder) => intruder.say(request) });
        };
        field.visit({ user, options: ` callback=${port}`, begins: (_intruder, line) => again(line) });
      });
    },
  },
  escapes: {
    help: "10 users write 500 texts a second that are made for terminals or are no text, and broadcast 20",
    begin: (field) => {
      const all = range(field.scaled(10), (i) => field.open({ user: field.user(i) }));
      const { ordinary } = field.order;
      const said = (head: string, count: number): Buffer =>
        Buffer.concat([Buffer.from(head), ESCAPES[count % ESCAPES.length]!, Buffer.from("\n")]);
      const by = (count: number): AttackClient => all[count % all.length]!;
      field.perSecond(field.scaled(500), (count) => {
        if (by(count).isIn) by(count).say(said(`message ${ordinary[count % ordinary.length]} `, count));
      });
      field.perSecond(field.scaled(20), (count) => {
        if (by(count).isIn) by(count).say(said("broadcast ", count));
      });
    },
  },
  flapping: {
    help: "1,000 connections a second, which close at once or are reset",
    begin: (field) => {
      field.perSecond(field.scaled(1_000), (count) => {
        field.visit({ begins: (intruder) => intruder.leave(count % 2 === 0) });
      });
    },
  },
  handshakes: {
    help: "300 connections a second where TLS is spoken: whole handshakes, some that stall, and some of other bytes",
    begin: (field) => {
      const kinds: Script[] = [
        { tls: "spoken", begins: (intruder) => intruder.leave(false) },
        { tls: "not spoken", begins: (intruder) => intruder.say(HALF_HANDSHAKE) },
        { tls: "not spoken", begins: (intruder) => intruder.say(Buffer.from("login somebody secret\n")) },
      ];
      field.perSecond(field.scaled(300), (count) => field.visit(kinds[count % kinds.length]!));
    },
  },
} satisfies Record<string, Attack>;

export type AttackName = keyof typeof ATTACKS;
export const ATTACK_NAMES = Object.keys(ATTACKS) as AttackName[];

function range<T>(count: number, each: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => each(index));
}

/** Says these lines in turn, a million times in one go, and then again. */
function pipeline(field: AttackRunner, user: string | undefined, lines: readonly string[]): void {
  const block = Buffer.from(range(BLOCK_REQUESTS, (i) => `${lines[i % lines.length]}\n`).join(""), "latin1");
  let blocks = 0;
  const next = (intruder: AttackClient): void => {
    for (let i = 0; i < PIPELINE_REQUESTS / BLOCK_REQUESTS; i++) intruder.say(block);
    blocks++;
  };
  field.open({
    ...(user === undefined ? {} : { user }),
    begins: next,
    spent: (intruder) => {
      if (blocks > 0 && intruder.isIn) field.after(0, () => next(intruder));
    },
  });
}
