/** A server for browsers, behind a proxy that cuts connections; and people with a browser. */
import { type Server, type Socket, connect, createServer } from "node:net";
import { type Browser, type BrowserContext, type BrowserContextOptions, type Page, chromium } from "playwright-core";
import { freePort } from "../support/free-port.ts";
import { ServerProcess } from "../support/process.ts";

/** What does not come within this time on a busy machine never comes. */
const WAIT_MS = 40_000;

export const CHROMIUM = Bun.which("chromium");

/** A name of this machine that is not localhost. */
export const NAME = "chat.example";

// Root has no sandbox.
const ARGS = ["--no-sandbox", `--host-resolver-rules=MAP ${NAME} 127.0.0.1`];

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: CHROMIUM!, args: ARGS });
}

interface Laptop {
  browser: Browser;
  signal: (name: "SIGSTOP" | "SIGCONT") => void;
  close: () => Promise<void>;
}

/** A browser in a process group of its own, which can be stopped as by the suspend of a laptop. */
export async function launchLaptop(): Promise<Laptop> {
  const server = await chromium.launchServer({ executablePath: CHROMIUM!, args: ARGS });
  const browser = await chromium.connect(server.wsEndpoint());
  const { pid = 0 } = server.process();
  return { browser, signal: (name) => void process.kill(-pid, name), close: () => server.close() };
}

export class Site {
  /** The chat's port without the proxy, for other clients. */
  readonly port = freePort();
  readonly #webPort = freePort();
  readonly #proxyPort = freePort();
  readonly #proxy: Server;
  readonly #open = new Set<Socket>();
  readonly #options: string[];
  #server: ServerProcess | null = null;
  /** Whether the proxy takes connections, and whether it takes WebSockets too. */
  isReachable = true;
  takesWebSockets = true;

  constructor(...options: string[]) {
    this.#options = options;
    this.#proxy = createServer((client) => {
      if (!this.isReachable) return void client.destroy();
      client.on("data", (request) => {
        if (!this.takesWebSockets && request.toString().startsWith("GET /chat ")) client.destroy();
      });
      const server = connect(this.#webPort, "127.0.0.1");
      for (const [from, to] of [
        [client, server],
        [server, client],
      ] as const) {
        this.#open.add(from);
        from.on("error", () => {});
        from.on("close", () => {
          this.#open.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
    }).listen(this.#proxyPort, "127.0.0.1");
  }

  get url(): string {
    return `http://127.0.0.1:${this.#proxyPort}`;
  }

  async start(): Promise<void> {
    const ports = ["--port", `${this.port}`, "--web", `${this.#webPort}`, "--web-origin", this.url];
    this.#server = new ServerProcess("--host", "127.0.0.1", ...ports, ...this.#options);
    await this.#server.port();
  }

  async kill(): Promise<void> {
    this.#server!.kill("SIGKILL");
    await this.#server!.exits();
  }

  /** Cuts all connections of browsers. */
  cut(): void {
    for (const socket of this.#open) socket.destroy();
  }

  async stop(): Promise<void> {
    this.#proxy.close();
    this.cut();
    await this.kill();
  }
}

export class Person {
  readonly context: BrowserContext;
  /** What must not happen: errors, forbidden content, dialogs of scripts. */
  readonly faults: string[] = [];
  page!: Page;
  readonly #site: Site;

  private constructor(context: BrowserContext, site: Site) {
    this.context = context;
    this.#site = site;
  }

  static async open(browser: Browser, site: Site, options: BrowserContextOptions = {}): Promise<Person> {
    const context = await browser.newContext({ locale: "en-GB", ...options });
    context.setDefaultTimeout(WAIT_MS);
    const person = new Person(context, site);
    await context.exposeFunction("reportFault", (fault: string) => void person.faults.push(fault));
    await context.addInitScript(() => {
      const report = (window as unknown as { reportFault: (fault: string) => void }).reportFault;
      document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
        report(`${violatedDirective} forbids ${blockedURI}`),
      );
    });
    await person.openTab();
    return person;
  }

  /** Goes on in a new tab. */
  async openTab(): Promise<Page> {
    this.page = await this.context.newPage();
    this.page.on("pageerror", (error) => this.faults.push(`${error}`));
    this.page.on("dialog", (dialog) => {
      this.faults.push(`a dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    await this.page.goto(this.#site.url);
    return this.page;
  }

  async login(user: string, password: string): Promise<void> {
    await this.page.getByLabel("Name").fill(user);
    await this.page.getByLabel("Password").fill(password);
    await this.page.getByRole("button", { name: "Log in" }).click();
    await this.sees("Online");
  }

  /** Opens the conversation with a user by the field above the list. */
  async writeTo(user: string): Promise<void> {
    await this.page.getByRole("searchbox").fill(user);
    await this.page.keyboard.press("Enter");
    await this.page.getByRole("heading", { name: user, exact: true, level: 2 }).waitFor();
  }

  /** Sends to the open conversation. */
  async say(text: string): Promise<void> {
    const field = this.page.getByRole("textbox", { name: "Write to" });
    await field.fill(text);
    await field.press("Enter");
  }

  /** Waits for a text on the page. */
  async sees(text: string | RegExp): Promise<void> {
    await this.page.getByText(text).first().waitFor();
  }

  /** Waits until the messages of the open conversation are these, each with the words about its state. */
  async reads(...messages: (string | RegExp)[]): Promise<void> {
    const shown = await this.until(this.messages, (all) => {
      const isEach = messages.every((message, i) =>
        typeof message === "string" ? all[i] === message : message.test(all[i] ?? ""),
      );
      return isEach && all.length === messages.length;
    });
    if (shown !== null) throw new Error(`${JSON.stringify(shown)} are not ${messages.join(" | ")}`);
  }

  /** The texts of the open conversation; own ones with their state. */
  readonly messages = (): Promise<string[]> =>
    this.page.locator(".bubble").evaluateAll((bubbles) =>
      bubbles.map((bubble) => {
        const state = bubble.querySelector(".state .hidden")?.textContent ?? "";
        return `${bubble.querySelector(".text")!.textContent}${state}`;
      }),
    );

  /** Waits until a message with this text is in the database of the browser. */
  async stores(text: string): Promise<void> {
    const isStored = (): Promise<boolean> =>
      this.page.evaluate(async (text) => {
        const [{ name = "" } = {}] = await indexedDB.databases();
        const opening = indexedDB.open(name);
        await new Promise((resolve) => (opening.onsuccess = resolve));
        const kept = opening.result.transaction("kept").objectStore("kept").getAll();
        await new Promise((resolve) => (kept.onsuccess = resolve));
        opening.result.close();
        return kept.result.some((value) => value.text === text);
      }, text);
    if ((await this.until(isStored, (is) => is)) !== null) throw new Error(`${text} is not stored`);
  }

  /** Waits until a value is right. Returns the last value when it never is, null otherwise. */
  async until<T>(value: () => Promise<T>, isRight: (value: T) => boolean): Promise<T | null> {
    const endMs = performance.now() + WAIT_MS;
    for (;;) {
      const now = await value();
      if (isRight(now)) return null;
      if (performance.now() > endMs) return now;
      await this.page.evaluate(() => new Promise(requestAnimationFrame));
    }
  }

  close(): Promise<void> {
    return this.context.close();
  }
}
