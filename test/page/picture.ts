/** Draws the picture of the page in README.md: `bun test/page/picture.ts`. It needs Chromium, and looks best with Inter. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BrowserContextOptions } from "playwright-core";
import { ChatClient } from "../../src/client/client.ts";
import { Person, Site, launch } from "./site.ts";

const TARGET = join(import.meta.dir, "../../docs/web.webp");
const FONT = "body { font-family: Inter, system-ui, sans-serif }";
/** Who speaks to whom: a user of the sample, or the page itself without a name. */
const BEFORE: [from: keyof typeof USERS, to: string, text: string][] = [
  ["wikipedia", "*", "Lunch at 12:30 in the yard, whoever is free"],
  ["Google", "columbia", "The build is green again: https://ci.example.org/812"],
  ["network", "columbia", "The switch in room 4 is back."],
  ["network", "columbia", "Please check your cable when you are there"],
  ["SEAS", "columbia", "Morning! Is the room for the review booked?"],
];
const TALK: [from: "SEAS" | "", text: string][] = [
  ["", "Yes, 2 pm, room 312."],
  ["", "The slides are in the shared folder. It is a long list, so we should begin with the open questions."],
  ["SEAS", "Great, thank you"],
  ["SEAS", "I will bring the numbers of last week."],
];
const USERS = { SEAS: "summerisover", Google: "hasglasses", network: "seemsez", wikipedia: "donation" };

async function draw(options: BrowserContextOptions): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "heartline-"));
  const site = new Site("--data", folder);
  await site.start();
  const clients: Record<string, ChatClient> = {};
  for (const [user, password] of Object.entries(USERS)) {
    clients[user] = new ChatClient({ host: "127.0.0.1", port: site.port, onEvent: () => {} });
    await clients[user].login(user, password);
  }
  const person = await Person.open(browser, site, { ...options, bypassCSP: true });
  await person.login("columbia", "116bway");
  await person.page.addStyleTag({ content: FONT });
  for (const [from, to, text] of BEFORE) {
    if (to === "*") await clients[from]!.broadcast(text);
    else await clients[from]!.message(to, text);
  }
  await person.page.getByRole("button", { name: "SEAS online" }).click();
  for (const [from, text] of TALK) {
    const count = (await person.messages()).length;
    if (from === "") await person.say(text);
    else await clients[from]!.message("columbia", text);
    await person.until(person.messages, (all) => all.length > count && !all.at(-1)!.endsWith("on its way"));
  }
  site.isReachable = false;
  site.cut();
  await person.say("Perfect. See you at two!");
  await person.sees("No connection. What you write is kept and sent later.");
  await person.page.evaluate(() => Promise.all(document.getAnimations().map(({ finished }) => finished)));
  const picture = await person.page.screenshot({ type: "png" });
  await person.close();
  for (const client of Object.values(clients)) client.close();
  await site.stop();
  rmSync(folder, { recursive: true });
  return `data:image/png;base64,${picture.toString("base64")}`;
}

const browser = await launch();
const size = { width: 1000, height: 660 };
const desktop = await draw({ viewport: size, deviceScaleFactor: 1.5, colorScheme: "light" });
const phone = await draw({
  viewport: { width: 340, height: 660 },
  deviceScaleFactor: 1.5,
  isMobile: true,
  hasTouch: true,
  colorScheme: "dark",
});
const page = await browser.newPage();
const webp = await page.evaluate(
  async ([left, right]) => {
    const load = async (url: string): Promise<HTMLImageElement> => {
      const image = new Image();
      image.src = url;
      await image.decode();
      return image;
    };
    const [desktop, phone] = await Promise.all([load(left!), load(right!)]);
    const canvas = document.createElement("canvas");
    const gap = 36;
    canvas.width = desktop.width + gap + phone.width;
    canvas.height = desktop.height;
    const context = canvas.getContext("2d")!;
    const place = (image: HTMLImageElement, x: number): void => {
      context.save();
      context.beginPath();
      context.roundRect(x + 1, 1, image.width - 2, image.height - 2, 24);
      context.clip();
      context.drawImage(image, x, 0);
      context.restore();
      context.strokeStyle = "rgb(128 128 128 / 45%)";
      context.lineWidth = 2;
      context.stroke();
    };
    place(desktop, 0);
    place(phone, desktop.width + gap);
    return canvas.toDataURL("image/webp", 0.9);
  },
  [desktop, phone],
);
writeFileSync(TARGET, Buffer.from(webp.split(",")[1]!, "base64"));
await browser.close();
