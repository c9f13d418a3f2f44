/**
 * contrib/Dockerfile without a Docker engine: its build steps run in a folder that has only what they copy, and its server
 * runs as the same user, with the same options, on a read-only root file system (a mount namespace).
 */
import { afterAll, afterEach, expect, test } from "bun:test";
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Folders, StartedServer, bareEnvironment, root, runCommand } from "../support/command.ts";

const LIMIT_MS = 120_000;
const OFFLINE = /E(NOTFOUND|AI_AGAIN|CONNREFUSED|TIMEDOUT)|ENOTCACHED|SELF_SIGNED/;
const folders = new Folders();
afterEach(async () => {
  for (const server of StartedServer.running) await server.stop();
});
afterAll(() => folders.remove());

const [builder = [], image = []] = readStages(readFileSync(join(root, "contrib/Dockerfile"), "utf8"));

/** The instructions of each stage. */
function readStages(text: string): { name: string; rest: string }[][] {
  const lines = text.replaceAll("\\\n", " ").split("\n");
  const instructions = lines.flatMap((line) => {
    const [, name, rest] = /^([A-Z]+) +(.*)$/.exec(line) ?? [];
    return name === undefined ? [] : [{ name, rest: rest! }];
  });
  const stages: { name: string; rest: string }[][] = [];
  for (const each of instructions) {
    if (each.name === "FROM") stages.push([]);
    stages.at(-1)!.push(each);
  }
  return stages;
}

const all = (name: string): string[] => image.filter((each) => each.name === name).map(({ rest }) => rest);

test("each line of the Dockerfile is an instruction, a comment or empty, and the image has a user and no secrets", () => {
  const text = readFileSync(join(root, "contrib/Dockerfile"), "utf8");
  const lines = text.replaceAll("\\\n", " ").split("\n");
  const known = /^(FROM|WORKDIR|COPY|RUN|USER|ENV|VOLUME|EXPOSE|HEALTHCHECK|ENTRYPOINT|CMD) \S|^#|^$/;
  expect(lines.filter((line) => !known.test(line))).toEqual([]);
  expect([...builder, ...image].filter(({ name }) => name === "FROM")).toHaveLength(2);
  const [user = "0"] = all("USER");
  expect(user).toMatch(/^[1-9]\d*:[1-9]\d*$/);
  for (const list of [...all("VOLUME"), ...all("ENTRYPOINT"), ...all("CMD")]) expect(JSON.parse(list)).toBeArray();
  expect(text).not.toContain("PASSWORD");
});

test(
  "the steps of the Dockerfile build a server that runs without root on a read-only file system, and is healthy",
  async () => {
    const build = folders.make();
    const env = bareEnvironment(folders.make());
    for (const { name, rest } of builder) {
      const words = rest.split(" ");
      if (name === "COPY") {
        const target = words.pop()!;
        for (const file of words) {
          const to = words.length > 1 || target.endsWith("/") ? join(build, target, file) : join(build, target);
          cpSync(join(root, file), to, { recursive: true });
        }
      }
      if (name !== "RUN") continue;
      const offline = { npm_config_prefer_offline: "true", npm_config_fetch_retries: "0" };
      const { out, err, code } = await runCommand(["sh", "-c", rest], { cwd: build, env: { ...env, ...offline } });
      if (code !== 0 && OFFLINE.test(err) && process.env.CI === undefined)
        return console.warn("SKIPPED: the build of the container (the npm registry cannot be reached)");
      if (code !== 0) throw new Error(`${rest}: ${out}${err}`);
    }

    const site = folders.make();
    chmodSync(site, 0o755);
    const copied = all("COPY")[0]!.replace("--from=build ", "").split(" ")[0]!;
    const executable = join(site, "heartline");
    cpSync(join(build, copied.replace("/build/", "")), executable);
    const [uid = 0, gid = 0] = all("USER")[0]!.split(":").map(Number);
    const volumes = (JSON.parse(all("VOLUME")[0]!) as string[]).map((path) => join(site, path));
    const isRoot = process.getuid!() === 0;
    for (const volume of volumes) {
      mkdirSync(volume, { recursive: true });
      if (isRoot) chownSync(volume, uid, gid);
    }
    const variables = Object.fromEntries(all("ENV").map((rest) => rest.split("=") as [string, string]));
    for (const name of ["HEARTLINE_CREDENTIALS", "HEARTLINE_DATA"]) variables[name] = join(site, variables[name]!);
    const healthPort = /:(\d+)$/.exec(variables.HEARTLINE_HTTP!)![1]!;
    variables.HEARTLINE_HTTP = "127.0.0.1:0";

    // A mount namespace in which only the volumes can be written to.
    const binds = volumes.map((path) => `mount --bind '${path}' '${path}'`).join(" && ");
    const readOnly = `mount --make-rprivate / && ${binds} && mount -o remount,bind,ro / && exec "$@"`;
    const asUser = ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--no-new-privs"];
    let prefix = ["unshare", "--mount", "sh", "-c", readOnly, "sh", ...asUser];
    const probe = isRoot ? await runCommand([...prefix, "touch", join(site, "x")], { cwd: site, env }) : null;
    if (probe === null || !probe.err.includes("Read-only file system")) {
      console.warn("SKIPPED: the read-only file system of the container (it needs root, unshare and setpriv)");
      prefix = [];
    }
    const inside = { cwd: volumes[1]!, env: { PATH: env.PATH!, ...variables } };
    const passwd = [executable, "passwd", variables.HEARTLINE_CREDENTIALS!, "alice"];
    const added = await runCommand([...prefix, ...passwd], { ...inside, input: "hunter22\n" });
    expect(added).toMatchObject({ err: "", code: 0 });
    const command = [executable, ...(JSON.parse(all("CMD")[0]!) as string[]), "--host", "127.0.0.1", "--port", "0"];
    const server = new StartedServer([...prefix, ...command], inside);
    const chat = [executable, "chat", "127.0.0.1", String(await server.port), "--user", "alice"];
    const said = await runCommand(chat, {
      cwd: site,
      env: { ...env, HEARTLINE_PASSWORD: "hunter22" },
      input: "message alice hello\nlogout\n",
    });
    expect(said).toMatchObject({ out: expect.stringContaining("alice: hello"), code: 0 });
    expect(existsSync(join(variables.HEARTLINE_DATA!, "heartline.sqlite"))).toBe(true);

    const check = /CMD (\[.*\])$/.exec(all("HEALTHCHECK")[0]!)![1]!;
    const port = /health and metrics at http:\/\/127\.0\.0\.1:(\d+)/.exec(server.log.join("\n"))![1]!;
    const isHealthy = async () =>
      (await runCommand(JSON.parse(check.replace(healthPort, port)) as string[], { cwd: site, env })).code;
    expect(await isHealthy()).toBe(0);
    expect(await server.stop()).toBe(0);
    expect(await isHealthy()).not.toBe(0);
  },
  LIMIT_MS,
);
