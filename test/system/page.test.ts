/** The page of the chat in a real browser: Debian's Chromium, driven by playwright-core. */
import { afterAll, afterEach, beforeAll, expect, setDefaultTimeout, test as always } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import axe from "axe-core";
import type { Browser, BrowserContextOptions } from "playwright-core";
import { ChatClient, type ChatEvent } from "../../src/client/client.ts";
import { chaos } from "../page/chaos.ts";
import { CHROMIUM, NAME, Person, Site, launch, launchLaptop } from "../page/site.ts";
import { ServerProcess } from "../support/process.ts";
import { Pty } from "../support/pty.ts";
import { seedFor } from "../support/random.ts";

const test = always.skipIf(CHROMIUM === null);
if (CHROMIUM === null) console.warn("SKIPPED: the tests of the page (chromium is not installed)");

// A browser is slow on a busy machine.
setDefaultTimeout(120_000);

const PHONE: BrowserContextOptions = { viewport: { width: 390, height: 780 }, isMobile: true, hasTouch: true };
let browser: Browser;
let folder: string;
const sites: Site[] = [];
const people: Person[] = [];
const programs: ChatClient[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "heartline-"));
  if (CHROMIUM === null) return;
  expect(Bun.spawnSync(["npm", "run", "--silent", "build:page"]).exitCode).toBe(0);
  browser = await launch();
});

afterEach(async () => {
  const faults = people.flatMap((person) => person.faults);
  for (const person of people.splice(0)) await person.close();
  for (const program of programs.splice(0)) program.close();
  for (const site of sites.splice(0)) await site.stop();
  await ServerProcess.killAll();
  expect(faults).toEqual([]);
});

afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

async function serve(...options: string[]): Promise<Site> {
  const site = new Site(...(options.includes("--data") ? [] : ["--data", ":memory:"]), ...options);
  sites.push(site);
  await site.start();
  return site;
}

async function open(site: Site, options: BrowserContextOptions = {}): Promise<Person> {
  const person = await Person.open(browser, site, options);
  people.push(person);
  return person;
}

async function columbia(site: Site, options: BrowserContextOptions = {}): Promise<Person> {
  const person = await open(site, options);
  await person.login("columbia", "116bway");
  return person;
}

/** SEAS with the client library, and the texts that have arrived there. */
async function seas(site: Site): Promise<{ client: ChatClient; texts: string[] }> {
  const texts: string[] = [];
  const onEvent = (event: ChatEvent): void => {
    if (event.kind === "message" || event.kind === "stored") texts.push(event.text);
  };
  const client = new ChatClient({ host: "127.0.0.1", port: site.port, onEvent });
  programs.push(client);
  await client.login("SEAS", "summerisover");
  return { client, texts };
}

test("a page and a terminal talk to each other, and each sees that the other one is online", async () => {
  const site = await serve();
  const person = await open(site);
  await person.page.getByLabel("Name").fill("columbia");
  await person.page.getByLabel("Password").fill("wrong");
  await person.page.keyboard.press("Enter");
  await person.sees("Wrong password. 2 tries left.");
  await person.login("columbia", "116bway");
  const env = { XDG_STATE_HOME: folder, XDG_CONFIG_HOME: folder, HEARTLINE_PASSWORD: "summerisover" };
  const terminal = new Pty(["src/main.ts", "chat", `SEAS@127.0.0.1:${site.port}`], { columns: 80, rows: 24, env });
  try {
    await terminal.sees("here: columbia");
    await person.page.getByRole("button", { name: "SEAS online" }).click();
    await person.say("hello from a browser");
    await terminal.sees("columbia: hello from a browser");
    await person.reads("hello from a browser, delivered");
    terminal.type("/to columbia\r");
    await terminal.until((lines) => lines.at(-1) === "columbia>");
    terminal.type("hello from a terminal\r");
    await person.reads("hello from a browser, delivered", "hello from a terminal");
    terminal.type("/all to everybody\r");
    await person.page.getByRole("button", { name: "Everybody" }).getByText("1 unread").waitFor();
    terminal.type("/quit\r");
    await person.page.locator(".head").getByText("Offline").waitFor();
    await person.say("until tomorrow");
    await person.reads(/./, /./, "until tomorrow, kept until SEAS is back");
  } finally {
    terminal.kill("SIGKILL");
    await terminal.exited;
    terminal.end();
  }
});

test("after a cut the page goes on where it was, and what was written meanwhile arrives once and in order", async () => {
  const site = await serve();
  const person = await columbia(site);
  const { client, texts } = await seas(site);
  await person.writeTo("SEAS");
  await person.say("one");
  await person.reads("one, delivered");
  site.isReachable = false;
  site.cut();
  await person.sees("No connection. What you write is kept and sent later.");
  await person.say("two");
  await person.say("three");
  await person.reads("one, delivered", "two, on its way", "three, on its way");
  await client.message("columbia", "meanwhile");
  site.isReachable = true;
  await person.sees("You are back. 1 message waited.");
  await person.reads("one, delivered", "two, delivered", "three, delivered", "meanwhile");
  expect(texts).toEqual(["one", "two", "three"]);
});

test("a reload keeps the messages and what is unread, and needs no password", async () => {
  const site = await serve();
  const person = await columbia(site);
  const { client } = await seas(site);
  await client.message("columbia", "one");
  await client.message("columbia", "two");
  const row = person.page.getByRole("button", { name: "SEAS online" });
  await row.getByText("2 unread").waitFor();
  await person.until(
    () => person.page.title(),
    (title) => title === "(2) Heartline",
  );
  await person.page.reload();
  await row.getByText("2 unread").waitFor();
  await client.message("columbia", "three");
  await row.getByText("3 unread").waitFor();
  await row.click();
  await person.reads("one", "two", "three");
  await person.page.getByText("New", { exact: true }).waitFor();
  await person.page.reload();
  await person.reads("one", "two", "three");
  await person.say("four");
  await person.reads("one", "two", "three", "four, delivered");
  expect(await person.page.title()).toBe("Heartline");
});

test("a message that was written offline survives a reload and arrives once", async () => {
  const site = await serve();
  const person = await columbia(site);
  const { texts } = await seas(site);
  await person.writeTo("SEAS");
  site.takesWebSockets = false;
  site.cut();
  await person.say("written offline");
  await person.reads("written offline, on its way");
  await person.page.reload();
  await person.reads("written offline, on its way");
  await person.say("after the reload");
  site.takesWebSockets = true;
  await person.reads("written offline, delivered", "after the reload, delivered");
  expect(texts).toEqual(["written offline", "after the reload"]);
});

test("a server that is killed and started again loses nothing, and after a reload the password is asked for", async () => {
  const site = await serve("--data", join(folder, "killed"));
  const person = await columbia(site);
  await person.writeTo("SEAS");
  await person.say("one");
  await person.reads("one, kept until SEAS is back");
  await site.kill();
  await person.say("two");
  await site.start();
  await person.reads("one, kept until SEAS is back", "two, kept until SEAS is back");
  await site.kill();
  await person.say("three");
  await person.stores("three");
  await person.page.close();
  await site.start();
  await person.openTab();
  await person.sees("Your earlier session has ended. Enter the password to go on where you were.");
  expect(await person.page.getByLabel("Name").inputValue()).toBe("columbia");
  await person.login("columbia", "116bway");
  await person.writeTo("SEAS");
  await person.reads(/^one, kept/, /^two, kept/, /^three, kept/);
  const { client, texts } = await seas(site);
  await client.catchUp();
  expect(texts).toEqual(["one", "two", "three"]);
});

test("hostile texts are shown as they are: no script runs and no element comes of them", async () => {
  const site = await serve();
  const person = await columbia(site);
  const { client } = await seas(site);
  const corpus = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>click</a>",
    "javascript:alert(1)",
    'https://example.org/"onmouseover="alert(1)',
    "https://example.org/<script>alert(1)</script>",
    "<style>*{display:none}</style>",
    "<math><mtext></table></math><img src onerror=alert(1)>",
    "{{constructor.constructor('alert(1)')()}} ${alert(1)}",
    "&lt;b&gt;not bold&lt;/b&gt; &#x3c;script&#x3e;",
    "__proto__ constructor toString",
    "<base href=https://evil.example/><meta http-equiv=refresh content=0>",
  ];
  await person.writeTo("SEAS");
  for (const text of corpus) {
    await client.message("columbia", text);
    await client.broadcast(text);
  }
  await person.reads(...corpus);
  await person.page.getByRole("button", { name: "Everybody" }).click();
  await person.reads(...corpus);
  await client.message("columbia", "a\u202eb\u200bc");
  await person.writeTo("SEAS");
  await person.reads(...corpus, "abc");
  for (const hash of ["#to-<img src=x onerror=alert(1)>", "#to-constructor", "#javascript:alert(1)"]) {
    await person.page.evaluate((to) => void (location.hash = to), hash);
    await person.sees("columbia");
  }
  const strange = await person.page.evaluate(() => {
    const found = document.querySelectorAll(
      "body script, iframe, img, style, base, math, body meta, .bubble :not(p, span, time, a)",
    );
    const links = [...document.querySelectorAll("a")].filter(({ href }) => !/^https?:/.test(href));
    return found.length + links.length;
  });
  expect(strange).toBe(0);
});

test("of two tabs one is active, the other one says so, and takes over when it is told to", async () => {
  const site = await serve();
  const person = await columbia(site);
  const { client } = await seas(site);
  const first = person.page;
  const second = await person.openTab();
  await second.getByText("The chat of columbia is open in another tab.").waitFor();
  await client.message("columbia", "one");
  await first.getByRole("button", { name: "SEAS online" }).getByText("1 unread").waitFor();
  await second.getByRole("button", { name: "Use it here" }).click();
  await second.getByRole("button", { name: "SEAS online" }).getByText("1 unread").waitFor();
  await first.getByText("The chat of columbia is open in another tab.").waitFor();
  await client.message("columbia", "two");
  await second.getByRole("button", { name: "SEAS online" }).click();
  await person.reads("one", "two");
  await second.close();
  person.page = first;
  await first.getByRole("button", { name: "SEAS online" }).click();
  await person.reads("one", "two");
});

test("two users can be in two tabs", async () => {
  const site = await serve();
  const person = await columbia(site);
  const first = person.page;
  const second = await person.openTab();
  await second.getByRole("button", { name: "Log in as another user" }).click();
  await person.login("SEAS", "summerisover");
  await person.writeTo("columbia");
  await person.say("hello");
  await person.reads("hello, delivered");
  await second.reload();
  await person.reads("hello, delivered");
  await first.getByRole("button", { name: "SEAS online" }).getByText("1 unread").waitFor();
});

test("a logout deletes everything that the browser has kept, and the next login begins empty", async () => {
  const site = await serve();
  const person = await columbia(site);
  const { client } = await seas(site);
  await client.message("columbia", "secret");
  await person.page.getByRole("button", { name: "SEAS online" }).click();
  await person.reads("secret");
  await person.page.getByRole("button", { name: "Log out" }).click();
  await person.page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await person.page.getByRole("button", { name: "Log out" }).click();
  await person.page.getByRole("dialog").getByRole("button", { name: "Log out" }).click();
  await person.page.getByLabel("Password").waitFor();
  const kept = await person.page.evaluate(async () => {
    const databases = (await indexedDB.databases()).length;
    return { databases, local: localStorage.length, session: sessionStorage.length, text: document.body.innerText };
  });
  expect(kept).toMatchObject({ databases: 0, local: 0, session: 0 });
  expect(kept.text).not.toContain("secret");
  expect((await client.online()).names).toEqual([]);
  await person.login("columbia", "116bway");
  await person.writeTo("SEAS");
  await person.sees("Say hello to SEAS.");
});

test("a session that was replaced elsewhere says so and does not come back by itself", async () => {
  const site = await serve();
  const person = await columbia(site);
  const other = new ChatClient({ host: "127.0.0.1", port: site.port, onEvent: () => {} });
  programs.push(other);
  await other.login("columbia", "116bway");
  await person.sees("You logged in somewhere else, so the chat on this page has ended.");
  expect(other.status).toBe("online");
});

test("a page that does not come from https or this machine says that it cannot keep messages", async () => {
  const site = await serve();
  const person = await open(site);
  await person.page.goto(site.url.replace("127.0.0.1", NAME));
  await person.sees("This page has to come from https or from localhost: only there a browser keeps messages.");
});

test("everything can be done with the keyboard alone", async () => {
  const site = await serve();
  const person = await open(site);
  const { client, texts } = await seas(site);
  const { keyboard } = person.page;
  const focused = (): Promise<string> =>
    person.page.evaluate(() => document.activeElement!.getAttribute("aria-label") ?? document.activeElement!.id);
  const isFocused = async (name: string): Promise<void> => {
    const other = await person.until(focused, (is) => is === name);
    if (other !== null) throw new Error(`the focus is at ${other}, not at ${name}`);
  };
  await isFocused("name");
  await keyboard.type("columbia");
  await keyboard.press("Tab");
  await keyboard.type("116bway");
  await keyboard.press("Enter");
  await person.sees("Online");
  await client.message("columbia", "hello");
  await person.page.getByText("1 unread").waitFor();
  await isFocused("find");
  await keyboard.press("Shift+Tab");
  await isFocused("Log out");
  await keyboard.press("Tab");
  await isFocused("find");
  await keyboard.press("ArrowDown");
  await keyboard.press("ArrowDown");
  await keyboard.press("Enter");
  await isFocused("composer");
  await keyboard.type("first");
  await keyboard.press("Shift+Enter");
  await keyboard.type("second");
  await person.sees("Each line is a message: 2 messages.");
  await keyboard.press("Enter");
  await person.reads("hello", "first, delivered", "second, delivered");
  expect(texts).toEqual(["first", "second"]);
  await keyboard.press("Shift+Tab");
  await isFocused("Messages with SEAS");
  await keyboard.press("Shift+Tab");
  await keyboard.press("Enter");
  await person.sees("SEAS is blocked.");
  await client.message("columbia", "again").catch(({ code }) => expect(code).toBe("blocked"));
  await keyboard.press("Enter");
  await person.sees("SEAS is not blocked any more.");
});

test("after a closed laptop the page logs in again by itself, and gets what waited", async () => {
  const site = await serve("--heartbeat-interval", "1");
  const laptop = await launchLaptop();
  const person = await Person.open(laptop.browser, site);
  people.push(person);
  await person.login("columbia", "116bway");
  const { client } = await seas(site);
  await person.writeTo("SEAS");
  await person.say("good night");
  await person.reads("good night, delivered");
  laptop.signal("SIGSTOP");
  while ((await client.online()).names.includes("columbia")) await Bun.sleep(100);
  expect(await client.message("columbia", "good morning")).toBe("stored");
  laptop.signal("SIGCONT");
  await person.sees("You are back. 1 message waited.");
  await person.reads("good night, delivered", "good morning");
  await person.say("good morning");
  await person.reads("good night, delivered", "good morning", "good morning, delivered");
  await laptop.close();
});

test("a page that nobody looks at keeps its session, although its timers stand still", async () => {
  const site = await serve("--heartbeat-interval", "2");
  const person = await open(site);
  await person.page.evaluate(() => void (window.setInterval = (() => 0) as never));
  const { client } = await seas(site);
  const left: string[] = [];
  programs.push(client);
  await person.login("columbia", "116bway");
  await person.page.evaluate(() => {
    Object.defineProperty(document, "visibilityState", { value: "hidden" });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  const endMs = performance.now() + 4_500;
  while (performance.now() < endMs) {
    if (!(await client.online()).names.includes("columbia")) left.push("columbia");
    await Bun.sleep(250);
  }
  expect(left).toEqual([]);
});

test("under reloads, closed tabs, cuts and kills of the server, everything arrives once and in order", async () => {
  const { sent, lost, twice, outOfOrder } = await chaos(10, seedFor("chaos with pages"));
  expect(sent).toBeGreaterThan(50);
  expect({ lost, twice, outOfOrder }).toEqual({ lost: [], twice: [], outOfOrder: [] });
});

for (const [name, options] of [
  ["light", {}],
  ["dark", { colorScheme: "dark" }],
  ["on a phone", PHONE],
] as [string, BrowserContextOptions][]) {
  test(`names, roles and contrast of all screens are as they should be: ${name}`, async () => {
    const site = await serve();
    const person = await open(site, { ...options, reducedMotion: "reduce" });
    const { client } = await seas(site);
    await person.page.evaluate(axe.source);
    const check = async (screen: string): Promise<void> => {
      const violations = await person.page.evaluate(async () => {
        const results = await (window as unknown as { axe: typeof axe }).axe.run();
        return results.violations.flatMap(({ id, nodes }) => nodes.map(({ target }) => `${id}: ${target.join(" ")}`));
      });
      expect({ screen, violations }).toEqual({ screen, violations: [] });
    };
    await check("login");
    await person.page.getByLabel("Name").fill("nobody");
    await person.page.getByLabel("Password").fill("wrong");
    await person.page.keyboard.press("Enter");
    await person.sees("There is no user nobody on this server.");
    await check("refused login");
    await person.login("columbia", "116bway");
    await client.message("columbia", "hello https://example.org");
    await client.broadcast("everybody");
    await person.page.getByText("1 unread").first().waitFor();
    await check("list");
    await person.page.getByRole("button", { name: "SEAS online" }).click();
    await client.block("columbia");
    await person.say("refused");
    await person.sees("Not sent: SEAS has blocked you.");
    await check("conversation");
    await person.page.getByRole("button", { name: "Remove" }).click();
    await person.reads("hello https://example.org");
    site.isReachable = false;
    site.cut();
    await person.say("waits");
    await person.sees("No connection. What you write is kept and sent later.");
    await check("without a connection");
    await person.page.evaluate(() => void (location.hash = ""));
    await person.page.getByRole("button", { name: "Log out" }).click();
    await person.sees("1 message not sent yet will be lost.");
    await check("logout");
  });
}
