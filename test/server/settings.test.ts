import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { variableOf } from "../../src/environment.ts";
import { CONFIG_BYTES_MAX } from "../../src/limits.ts";
import { type Config, parseConfig, readConfiguration } from "../../src/server/config.ts";
import { TABLE } from "../../src/server/options.ts";
import { Random, seedFor } from "../support/random.ts";
import { ConfigError, UsageError } from "../../src/usage-error.ts";

const folder = mkdtempSync(join(tmpdir(), "heartline-"));
afterAll(() => rmSync(folder, { recursive: true }));
let files = 0;

/** A new file with that content. */
function fileOf(content: string | Uint8Array): string {
  const file = join(folder, `${files++}.toml`);
  writeFileSync(file, content);
  return file;
}

function read(args: readonly string[], env: Record<string, string> = {}): Config {
  return readConfiguration(args, env)!.config;
}

/** The errors in a configuration file. */
function errorsIn(file: string, env: Record<string, string> = {}): readonly string[] {
  try {
    read(["--config", file], env);
  } catch (error) {
    if (error instanceof ConfigError) return error.findings;
    throw error;
  }
  throw new Error(`${file} is valid`);
}

/** A valid value of each option that has one, other than its default. */
const VALUES: Record<string, string> = {
  host: "::1",
  port: "0",
  credentials: "users.txt",
  data: "/tmp/somewhere",
  durability: "power",
  "heartbeat-interval": "0.3",
  "block-time": "1.5",
  "lockout-scope": "user",
  "tls-cert": "cert.pem",
  "tls-key": "key.pem",
  "tls-port": "7",
  "proxy-from": "10.0.0.0/8,::1",
  http: "9100",
  web: "8080",
  "web-origin": "https://chat.example.org",
  "admin-socket": "/run/heartline.sock",
  "log-level": "debug",
  "outbox-size": "700000",
  "outboxes-size": "800000",
  "mailbox-size": "1000",
  "buffer-size": "8192",
};
/** They exclude others, and have their own tests. */
const SPECIAL = /^(config|cluster|direct-listen|workers)/;
for (const [name, { value }] of TABLE) if (value !== null && !SPECIAL.test(name)) VALUES[name] ??= "12";
const FLAGS = ["limit-loopback", "salvage"];

describe("every option has the same effect on the command line, in the environment and in the file", () => {
  const expected = parseConfig([
    ...Object.entries(VALUES).map(([name, text]) => `--${name}=${text}`),
    ...FLAGS.map((name) => `--${name}`),
  ])!;
  const all = [...Object.entries(VALUES), ...FLAGS.map((name) => [name, "true"] as const)];

  test("in the environment", () => {
    expect(read([], Object.fromEntries(all.map(([name, text]) => [variableOf(name), text])))).toEqual(expected);
    expect(variableOf("tls-only")).toBe("HEARTLINE_TLS_ONLY");
  });

  test("in the file, numbers and flags with or without quotes", () => {
    const quoted = all.map(([name, text]) => `${name} = "${text}"`).join("\n");
    expect(read(["--config", fileOf(quoted)])).toEqual(expected);
    const natural = all.map(([name, text]) =>
      /^(\d+(\.\d+)?|true)$/.test(text) ? `${name} = ${text}` : `${name} = '${text}'`,
    );
    expect(read(["--config", fileOf(natural.join("\n"))])).toEqual(expected);
  });
});

test("the command line has precedence over the environment, and the environment over the file", () => {
  const file = fileOf("port = 1\nrate-limit = 1\nbad-lines = 1\nsalvage = true\nlimit-loopback = true\n");
  const env = { HEARTLINE_CONFIG: file, HEARTLINE_PORT: "2", HEARTLINE_RATE_LIMIT: "2", HEARTLINE_SALVAGE: "false" };
  const { port, limits, salvage } = read(["--port", "3"], env);
  const { requestsPerSecondMax, badLinesMax, limitsLoopback } = limits;
  expect({ port, requestsPerSecondMax, badLinesMax }).toEqual({ port: 3, requestsPerSecondMax: 2, badLinesMax: 1 });
  expect({ salvage, limitsLoopback }).toEqual({ salvage: false, limitsLoopback: true });
  expect(read(["--config", fileOf("port = 4")], { HEARTLINE_CONFIG: file }).port).toBe(4);
});

test("the host counts as given wherever it is given", () => {
  const isGiven = (args: string[], env: Record<string, string> = {}): boolean => read(args, env).isHostGiven;
  expect(isGiven([])).toBe(false);
  expect(isGiven(["--host", "0.0.0.0"])).toBe(true);
  expect(isGiven([], { HEARTLINE_HOST: "0.0.0.0" })).toBe(true);
  expect(isGiven(["--config", fileOf('host = "0.0.0.0"')])).toBe(true);
});

test("sections group keys and are optional, and a byte order mark and CRLF are no errors", () => {
  for (const text of [
    "[server]\nport = 7",
    "server.port = 7",
    "[a.b]\nport = 7\n[c]",
    "server = { port = 7 }",
    '\ufeff"port" = 0x7 # seven\r\n\r\n',
  ])
    expect(read(["--config", fileOf(text)]).port).toBe(7);
  expect(read(["--config", fileOf("")])).toEqual(parseConfig([])!);
});

describe("an error in the file names file and line, and the key or the column", () => {
  test.each([
    ["port = 1\nport = 2\n", ":2:1: a key or a section is given twice"],
    ["[a]\nport = 1\n[b]\n  port = 2\n", ":4:3: port is given twice"],
    ["port = 1\n[a]\nb.port = 2\n", ":3:3: port is given twice"],
    ["[a]\n[a]\n", ":2:2: a key or a section is given twice"],
    ['host = "::1"\nport = ', ":2:8: invalid value"],
    ["rate-lim", ":1:1: incomplete key-value: cannot find end of key"],
    ['data = "/var/lib', ":1:8: unfinished string"],
    ["# comment\n\nprot = 1", ":3: prot is not an option"],
    ["help = true", ":1: help is not an option"],
    ['config = "other.toml"', ":1: config is not an option"],
    ["[limits]\nrate-limit = -1", ':2: rate-limit takes a number from 0 to 1000000, not "-1"'],
    ['"port" = 65536', ':1: port takes a whole number from 0 to 65535, not "65536"'],
    ["port = inf", ':1: port takes a whole number from 0 to 65535, not "Infinity"'],
    ["port = true", ":1: port takes one value, <port>, as a string or a number"],
    ["port = [1]", ":1: port takes one value, <port>, as a string or a number"],
    ["data = 1979-05-27", ":1: data takes one value, <folder>, as a string or a number"],
    ["salvage = 1", ':1: salvage takes true or false, not "1"'],
    ["salvage = [true]", ":1: salvage takes true or false"],
    ['host = ""', ':1: host takes a <address>, not ""'],
    ['data = "a\\u0000b"', ':1: data takes a <folder>, not "a\\u0000b"'],
    ["tls-port = 5", ":1: tls-port: TLS takes both --tls-cert <file> and --tls-key <file>"],
    ['# CRLF\r\n[a]\r\nport = "x"\r\n', ':3: port takes a whole number from 0 to 65535, not "x"'],
    ["limits = { port = 1, salvage = 7 }", ':1: salvage takes true or false, not "7"'],
    ['"p\\u006frt" = 65536', ':1: port takes a whole number from 0 to 65535, not "65536"'],
    ["support.port = 1\n[x]\nsupport.port = 2", ":3:9: port is given twice"],
    ['"a\\nb" = 1', ':1: "a\\nb" is not an option'],
    [`durability = "${"x".repeat(200)}"`, `:1: durability takes none, process or power, not "${"x".repeat(80)}…"`],
    // Lines within a text are no keys.
    ['data = """\nport = 1\n"""\nport = "x"', ':1: data takes a <folder>, not "port = 1\\n"'],
  ])("%j", (text, error) => {
    const file = fileOf(text);
    expect(errorsIn(file)[0]).toBe(`${file}${error}`);
  });

  test("the line of a key is not that of the same words in a text or in a longer key", () => {
    const file = fileOf("[a]\ntls-port-x = 1\n'x' = '''\nport = 5\n'''\n# port = 5\nport = 'y'");
    const named = errorsIn(file).map((error) => error.slice(file.length));
    expect(named).toEqual([
      ":2: tls-port-x is not an option",
      ":3: x is not an option",
      ':7: port takes a whole number from 0 to 65535, not "y"',
    ]);
  });
});

test("every invalid key and value is found, also one that another source overrides", () => {
  const file = fileOf("port = 99999\n[x]\nprot = 1\n");
  const port = `${file}:1: port takes a whole number from 0 to 65535, not "99999"`;
  expect(errorsIn(file)).toEqual([port, `${file}:3: prot is not an option`]);
  expect(() => read(["--config", file, "--port", "1"])).toThrow("port takes a whole number");
  expect(() => read(["--port", "1"], { HEARTLINE_PORT: "x" })).toThrow("HEARTLINE_PORT takes a whole number");
});

describe("a file that cannot be read is an error of one line", () => {
  const pipe = join(folder, "pipe");
  Bun.spawnSync(["mkfifo", pipe]);
  const inner = join(folder, "inner");
  mkdirSync(inner);
  test.each([
    ["a folder", inner, "it is a folder"],
    ["missing", join(folder, "missing"), "there is no such file"],
    ["a named pipe", pipe, "it is not a regular file"],
    ["a device", "/dev/zero", "it is not a regular file"],
    ["huge", fileOf("#".repeat(CONFIG_BYTES_MAX + 1)), `it has more than ${CONFIG_BYTES_MAX} bytes`],
    ["not UTF-8", fileOf(Buffer.from('host = "\xff"', "latin1")), "it is not UTF-8 text"],
    ["UTF-16", fileOf(Buffer.from("\ufeffport = 1", "utf16le")), "it is not UTF-8 text"],
  ])("%s", (_what, file, why) => {
    expect(errorsIn(file)).toEqual([`cannot read the configuration ${file}: ${why}`]);
  });
});

test("any change of a valid file is valid or an error of one line", () => {
  const random = new Random(seedFor("configuration files"));
  const example = readFileSync(join(import.meta.dir, "../../contrib/heartline.toml"), "utf8");
  const valid = Buffer.from(example.replace(/^# (?=[\w-]+ = )/gm, ""));
  const file = fileOf("");
  for (let i = 0; i < 500; i++) {
    const bytes = Buffer.from(valid);
    for (let changes = random.between(1, 4); changes > 0; changes--) {
      const at = random.below(bytes.length);
      if (random.oneIn(2)) bytes[at] = random.pick([..."\"'[]{}=.#\n\r\\,\0\xff"]).charCodeAt(0);
      else bytes.copyWithin(at, random.below(bytes.length));
    }
    writeFileSync(file, random.oneIn(3) ? bytes.subarray(0, random.below(bytes.length)) : bytes);
    try {
      read(["--config", file]);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      expect((error as ConfigError).findings.join("")).not.toMatch(/[\n\0]/);
    }
  }
});

test("an invalid value on the command line is an error of the command line", () => {
  expect(() => read(["--port", "x", "--config", "missing"])).toThrow(UsageError);
  expect(() => read(["--port", "x", "--config", "missing"])).toThrow("--port takes");
  expect(() => read(["--port", "x"])).not.toThrow(ConfigError);
});

test("an invalid variable is an error that names it, and so is a contradiction", () => {
  const errorsOf = (env: Record<string, string>): string => {
    try {
      read([], env);
    } catch (error) {
      if (error instanceof ConfigError) return error.message;
      throw error;
    }
    throw new Error("valid");
  };
  expect(errorsOf({ HEARTLINE_PORT: "" })).toBe('HEARTLINE_PORT takes a whole number from 0 to 65535, not ""');
  expect(errorsOf({ HEARTLINE_TLS_ONLY: "1" })).toBe('HEARTLINE_TLS_ONLY takes true or false, not "1"');
  expect(errorsOf({ HEARTLINE_CONFIG: "" })).toBe('HEARTLINE_CONFIG takes a <file>, not ""');
  expect(errorsOf({ HEARTLINE_DATA: ":memory:", HEARTLINE_DURABILITY: "power" })).toStartWith("HEARTLINE_DURABILITY: ");
});

test("a variable that belongs to no option is a warning, except that of the password", () => {
  const env = {
    HEARTLINE_PROT: "1",
    HEARTLINE_HELP: "1",
    HEARTLINE_PASSWORD: "secret",
    HEART: "1",
    HEARTLINE_PORT: "1",
  };
  const { warnings } = readConfiguration([], env)!;
  expect(warnings).toEqual([
    "HEARTLINE_HELP belongs to no option: it has no effect",
    "HEARTLINE_PROT belongs to no option: it has no effect",
  ]);
});

test("contrib/heartline.toml has every option with its default, or an example for an option without one", () => {
  const example = readFileSync(join(import.meta.dir, "../../contrib/heartline.toml"), "utf8");
  const options = [...example.matchAll(/^# ([\w-]+) = (?:"([^"]*)"|(\S+))/gm)].map(
    ([, name, text, bare]) => [name!, text ?? bare!] as const,
  );
  expect(options.map(([name]) => name).toSorted()).toEqual(
    [...TABLE.keys()].filter((name) => name !== "config").toSorted(),
  );
  for (const [name, text] of options) {
    const { fallback, read } = TABLE.get(name)!;
    read(text);
    if (fallback !== "none" && fallback !== "<data>/admin.sock") expect({ [name]: text }).toEqual({ [name]: fallback });
  }
  const isValid = (text: string): Config => read(["--config", fileOf(text)]);
  expect(isValid(example)).toEqual(parseConfig([])!);
  const { http, tls } = isValid(example.replace(/^# (?=[\w-]+ = )/gm, ""));
  expect({ http, port: tls?.port }).toEqual({ http: { host: "127.0.0.1", port: 9100 }, port: 6002 });
});
