import { describe, expect, test } from "bun:test";
import { USAGE, UsageError, parseConfig } from "../../src/server/config.ts";

/** What the operator is told. */
function complaint(...args: string[]): string {
  try {
    parseConfig(args);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error(`${args.join(" ")} is taken`);
}

test("without options everything is as the contract says", () => {
  expect(parseConfig([])).toEqual({
    host: "0.0.0.0",
    port: 6001,
    credentials: "credentials.txt",
    data: "data",
    lineBytesMax: 4096,
    blockMs: 60_000,
    silenceMs: 35_000,
    durability: "process",
    rateLimit: 0,
    salvage: false,
  });
});

test("every option is taken, with a space or an equals sign", () => {
  const given = [
    ["--host", "::1"],
    ["--port", "0"],
    ["--credentials", "users.txt"],
    ["--data", "/tmp/somewhere"],
    ["--buffer-size", "8192"],
    ["--block-time", "1.5"],
    ["--heartbeat-interval", "0.3"],
    ["--durability", "power"],
    ["--rate-limit", "12.5"],
  ];
  const expected = {
    host: "::1",
    port: 0,
    credentials: "users.txt",
    data: "/tmp/somewhere",
    lineBytesMax: 8192,
    blockMs: 1500,
    silenceMs: 300,
    durability: "power" as const,
    rateLimit: 12.5,
    salvage: true,
  };
  expect(parseConfig([...given.flat(), "--salvage"])).toEqual(expected);
  expect(parseConfig(["--salvage", ...given.map((pair) => pair.join("="))])).toEqual(expected);
});

test("help is asked for by --help and -h, and names every option with what holds without it", () => {
  expect(parseConfig(["--help"])).toBeNull();
  expect(parseConfig(["-h", "--port", "1"])).toBeNull();
  for (const option of [
    /--host .*0\.0\.0\.0/,
    /--port .*6001/,
    /--credentials .*credentials\.txt/,
    /--data .*data/,
    /--buffer-size .*4096/,
    /--block-time .*60/,
    /--heartbeat-interval .*35/,
    /--durability .*process/,
    /--salvage/,
    /--rate-limit .*0/,
    /--help/,
  ]) {
    expect(USAGE).toMatch(option);
  }
});

test.each([["process"], ["power"]])("keeping nothing contradicts a durability of %s", (durability) => {
  expect(complaint("--data", ":memory:", "--durability", durability)).toContain("--durability");
});

test("keeping nothing agrees with a durability of none", () => {
  expect(parseConfig(["--data", ":memory:", "--durability", "none"])).toMatchObject({ data: ":memory:" });
  expect(parseConfig(["--data", ":memory:"])).toMatchObject({ data: ":memory:" });
});

describe("a number that cannot be is refused, and its option is named", () => {
  test.each([
    ...["", "x", "-1", "65536", "1.5", "0x10", "1e3", " 80", "80 ", "NaN", "Infinity", "+1", "٣"].map((n) => [
      "port",
      n,
    ]),
    ...["0", "-5", "63", "4096.5", "99999999999", "4k"].map((n) => ["buffer-size", n]),
    ...["0", "-1", "x", "1,5", "", "99999999"].map((n) => ["block-time", n]),
    ...["0", "-1", "x", "1,5", "", "99999999"].map((n) => ["heartbeat-interval", n]),
    ...["-1", "x", "", "Infinity"].map((n) => ["rate-limit", n]),
  ] as [string, string][])("--%s=%s", (name, value) => {
    expect(complaint(`--${name}=${value}`)).toContain(`--${name}`);
  });
});

describe("what cannot be meant is refused in one line", () => {
  test.each([
    [["--nonsense"], "nonsense"],
    [["--nonsense", "5"], "nonsense"],
    [["--Port", "5"], "Port"],
    [["-p", "5"], "-p"],
    [["6001"], "6001"],
    [["--port"], "port"],
    [["--port", "--host", "::1"], "port"],
    [["--port", "1", "--port", "2"], "--port"],
    [["--port=1", "--port=1"], "--port"],
    [["--help=5"], "help"],
    [["--durability", "high"], "high"],
    [["--durability", ""], "--durability"],
    [["--host", ""], "--host"],
    [["--data", ""], "--data"],
    [["--credentials", ""], "--credentials"],
  ] as [string[], string][])("%p", (args, named) => {
    const words = complaint(...args);
    expect(words).toContain(named);
    expect(words).not.toContain("\n");
  });
});
