import { describe, expect, test } from "bun:test";
import { LIMITS_DEFAULT } from "../../src/limits.ts";
import { USAGE, parseConfig, readConfiguration } from "../../src/server/config.ts";
import { UsageError } from "../../src/usage-error.ts";

/** The error message for that command line. */
function errorOf(...args: string[]): string {
  try {
    parseConfig(args);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error(`${args.join(" ")} is valid`);
}

test("without options every setting has its documented default", () => {
  expect(parseConfig([])).toEqual({
    host: "0.0.0.0",
    isHostGiven: false,
    port: 6001,
    credentials: "credentials.txt",
    data: "data",
    durability: "process",
    idleTimeoutMs: 35_000,
    blockMs: 60_000,
    lockoutScope: "address",
    limits: LIMITS_DEFAULT,
    tls: null,
    proxyFrom: null,
    http: null,
    web: null,
    adminSocket: "data/admin.sock",
    logLevel: "info",
    salvage: false,
    cluster: null,
    workers: 1,
  });
});

test("every option takes its value after a space or an equals sign", () => {
  const given = [
    ["--host", "::1"],
    ["--port", "0"],
    ["--credentials", "users.txt"],
    ["--data", "/tmp/somewhere"],
    ["--buffer-size", "8192"],
    ["--block-time", "1.5"],
    ["--heartbeat-interval", "0.3"],
    ["--durability", "power"],
    ["--lockout-scope", "user"],
    ["--connections", "1"],
    ["--connections-per-address", "2"],
    ["--connection-rate", "3"],
    ["--login-time", "4.5"],
    ["--login-failures", "5"],
    ["--rate-limit", "12.5"],
    ["--bad-lines", "6"],
    ["--outbox-size", "700000"],
    ["--outboxes-size", "800000"],
    ["--mailbox-messages", "9"],
    ["--mailbox-size", "1000"],
    ["--mailbox-share", "11"],
    ["--consents", "12"],
    ["--callbacks", "13"],
    ["--http", "9100"],
    ["--web", "[::1]:8080"],
    ["--web-origin", "https://Chat.example.org/,http://10.0.0.5:80"],
    ["--admin-socket", "/run/heartline.sock"],
    ["--log-level", "debug"],
  ];
  const expected = {
    host: "::1",
    isHostGiven: true,
    port: 0,
    credentials: "users.txt",
    data: "/tmp/somewhere",
    durability: "power" as const,
    idleTimeoutMs: 300,
    blockMs: 1500,
    lockoutScope: "user" as const,
    limits: {
      connectionsMax: 1,
      connectionsPerAddressMax: 2,
      connectionsPerSecondMax: 3,
      loginMs: 4500,
      failedLoginsPerMinuteMax: 5,
      limitsLoopback: true,
      requestsPerSecondMax: 12.5,
      badLinesMax: 6,
      lineBytesMax: 8192,
      unackedBytesMax: 700_000,
      streamsBytesMax: 800_000,
      mailboxMessagesMax: 9,
      mailboxBytesMax: 1000,
      mailboxSharePercent: 11,
      introductionsMax: 12,
      callbacksMax: 13,
    },
    tls: null,
    proxyFrom: null,
    http: { host: "127.0.0.1", port: 9100 },
    web: { host: "::1", port: 8080, origins: ["https://chat.example.org", "http://10.0.0.5"] },
    adminSocket: "/run/heartline.sock",
    logLevel: "debug" as const,
    salvage: true,
    cluster: null,
    workers: 1,
  };
  expect(parseConfig([...given.flat(), "--salvage", "--limit-loopback"])).toEqual(expected);
  const joined = given.map((pair) => pair.join("="));
  expect(parseConfig(["--limit-loopback", "--salvage", ...joined])).toEqual(expected);
});

test("--proxy-from takes comma-separated addresses with optional prefix lengths", () => {
  const { proxyFrom } = parseConfig(["--proxy-from", "10.0.0.0/8,192.0.2.7,2001:db8::/32"])!;
  const is = (address: string): boolean => proxyFrom!.check(address, address.includes(":") ? "ipv6" : "ipv4");
  for (const address of ["10.255.0.1", "192.0.2.7", "2001:db8:1::1"]) expect(is(address)).toBe(true);
  for (const address of ["11.0.0.1", "192.0.2.8", "2001:db9::1", "127.0.0.1"]) expect(is(address)).toBe(false);
  for (const text of ["", "10.0.0.0/33", "10.0.0/8", "::1/129", "10.0.0.1,", "host", "10.0.0.1 ", "10.0.0.1/-1"]) {
    expect(errorOf("--proxy-from", text)).toContain("--proxy-from takes addresses");
  }
});

test("--http takes a port on 127.0.0.1, an address with a port, or the path of a Unix domain socket", () => {
  const httpOf = (text: string): unknown => parseConfig(["--http", text])!.http;
  expect(httpOf("0")).toEqual({ host: "127.0.0.1", port: 0 });
  expect(httpOf("0.0.0.0:9100")).toEqual({ host: "0.0.0.0", port: 9100 });
  expect(httpOf("[::1]:65535")).toEqual({ host: "::1", port: 65535 });
  expect(httpOf("unix:/run/heart line.sock")).toEqual({ path: "/run/heart line.sock" });
  for (const text of ["", "65536", "-1", "x", "localhost:80", "::1:80", "[1.2.3.4]:80", "1.2.3:80", ":80", "unix:"]) {
    expect(errorOf(`--http=${text}`)).toContain("--http takes <port>");
  }
});

test("the admin socket is in the data folder, and with :memory: there is none unless it is given", () => {
  const socketOf = (...args: string[]): unknown => parseConfig(args)!.adminSocket;
  expect(socketOf("--data", "/var/lib/heartline")).toBe("/var/lib/heartline/admin.sock");
  expect(socketOf("--data", ":memory:")).toBeNull();
  expect(socketOf("--data", ":memory:", "--admin-socket", "a.sock")).toBe("a.sock");
  expect(errorOf("--admin-socket", "")).toContain("--admin-socket takes a <path>");
});

test("--help and -h show every option with its default", () => {
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
    /--lockout-scope .*address/,
    /--proxy-from .*none/,
    /--connections .*\(0\)/,
    /--connections-per-address .*\(100\)/,
    /--connection-rate .*\(20\)/,
    /--login-time .*\(120\)/,
    /--login-failures .*\(30\)/,
    /--rate-limit .*\(5000\)/,
    /--bad-lines .*\(1000\)/,
    /--outbox-size .*\(1048576\)/,
    /--outboxes-size .*\(268435456\)/,
    /--mailbox-messages .*\(100000\)/,
    /--mailbox-size .*\(67108864\)/,
    /--mailbox-share .*\(25\)/,
    /--consents .*\(256\)/,
    /--callbacks .*\(1000\)/,
    /--limit-loopback/,
    /--help/,
  ]) {
    expect(USAGE).toMatch(option);
  }
});

test.each([["process"], ["power"]])("--data :memory: contradicts --durability %s", (durability) => {
  expect(errorOf("--data", ":memory:", "--durability", durability)).toContain("--durability");
});

test("--data :memory: agrees with --durability none", () => {
  expect(parseConfig(["--data", ":memory:", "--durability", "none"])).toMatchObject({ data: ":memory:" });
  expect(parseConfig(["--data", ":memory:"])).toMatchObject({ data: ":memory:" });
});

describe("an invalid number is an error that names its option", () => {
  test.each([
    ...["", "x", "-1", "65536", "1.5", "0x10", "1e3", " 80", "80 ", "NaN", "Infinity", "+1", "٣"].map((n) => [
      "port",
      n,
    ]),
    ...["0", "-5", "63", "4096.5", "99999999999", "4k"].map((n) => ["buffer-size", n]),
    ...["0", "-1", "x", "1,5", "", "99999999"].map((n) => ["block-time", n]),
    ...["0", "-1", "x", "1,5", "", "99999999"].map((n) => ["heartbeat-interval", n]),
    ...["-1", "x", "", "Infinity"].map((n) => ["rate-limit", n]),
    ...["-1", "1.5", "1000001"].map((n) => ["connections-per-address", n]),
    ...["0", "-1", "x"].map((n) => ["login-time", n]),
    ...["0", "101", "x"].map((n) => ["mailbox-share", n]),
    ...["524287", "1073741825", "1 GB"].map((n) => ["outbox-size", n]),
    ...["0", "x"].map((n) => ["callbacks", n]),
  ] as [string, string][])("--%s=%s", (name, value) => {
    expect(errorOf(`--${name}=${value}`)).toContain(`--${name}`);
  });
});

test("TLS takes a certificate and its key, at its own port or instead of the plain port", () => {
  const files = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
  const { tls: besides } = parseConfig(files)!;
  expect(besides).toEqual({ chain: "cert.pem", key: "key.pem", port: 6002 });
  expect(parseConfig([...files, "--tls-port", "0"])!.tls!.port).toBe(0);
  expect(parseConfig([...files, "--tls-only"])!.tls!.port).toBeNull();
  expect(errorOf(...files.slice(0, 2))).toContain("--tls-key");
  expect(errorOf(...files.slice(2))).toContain("--tls-cert");
  expect(errorOf("--tls-only")).toContain("--tls-cert");
  expect(errorOf("--tls-cert", "", "--tls-key", "")).toContain("--tls-cert"); // Variables that are not set.
  expect(errorOf("--tls-port", "7")).toContain("--tls-cert");
  expect(errorOf(...files, "--tls-port", "x")).toContain("--tls-port");
  expect(errorOf(...files, "--tls-port", "7", "--tls-only")).toContain("--tls-port");
  expect(errorOf(...files, "--tls-only", "--proxy-from", "::1")).toContain("--proxy-from");
  expect(parseConfig([...files, "--proxy-from", "::1"])!.proxyFrom).not.toBeNull();
  expect(parseConfig([...files, "--tls-only", "--proxy-from", "::1", "--web", "0"])!.proxyFrom).not.toBeNull();
});

test("--web takes a port of this machine or an address, and --web-origin takes origins as browsers send them", () => {
  const webOf = (...args: string[]) => parseConfig(["--web", ...args])!.web;
  expect(webOf("8080")).toEqual({ host: "127.0.0.1", port: 8080, origins: null });
  expect(webOf("[::]:80")).toEqual({ host: "::", port: 80, origins: null });
  for (const text of ["", "65536", "localhost:80", "unix:/run/x", "1.2.3.4"])
    expect(errorOf("--web", text)).toContain("--web");
  const origins = (text: string) => webOf("1", "--web-origin", text)!.origins;
  expect(origins("https://chat.example.org:443,HTTP://[::1]:8080/")).toEqual([
    "https://chat.example.org",
    "http://[::1]:8080",
  ]);
  const wrong = [
    "",
    "*",
    "null",
    "chat.example.org",
    "https://a.example/page",
    "https://u@a.example",
    "ftp://a.example",
  ];
  for (const text of [...wrong, "https://a.example,"])
    expect(errorOf("--web", "1", "--web-origin", text)).toContain("origin");
  expect(errorOf("--web-origin", "https://a.example")).toContain("--web <address>");
});

describe("an invalid command line is an error of one line", () => {
  test.each([
    [["--nonsense"], "nonsense"],
    [["--nonsense", "5"], "nonsense"],
    [["--Port", "5"], "Port"],
    [["-p", "5"], "-p"],
    [["6001"], "6001"],
    [["--port"], "port"],
    [["--port", "--host", "::1"], "port"],
    [["--port", "-1"], '--port takes a value, not "-1"'],
    [["--port", "5", "--port", "-1"], 'takes a value, not "-1"'],
    [["--port", "1", "--port", "2"], "--port"],
    [["--port=1", "--port=1"], "--port"],
    [["--help=5"], "help"],
    [["--durability", "high"], "high"],
    [["--durability", ""], "--durability"],
    [["--log-level", "loud"], "trace, debug, info, warn, error or fatal"],
    [["--host", ""], "--host"],
    [["--data", ""], "--data"],
    [["--credentials", ""], "--credentials"],
  ] as [string[], string][])("%p", (args, named) => {
    const words = errorOf(...args);
    expect(words).toContain(named);
    expect(words).not.toContain("\n");
  });
});

describe("the options of a cluster", () => {
  const URL = "postgres://heartline:engine-secret@db1,db2:5433/chat?sslmode=require";
  const given = ["--cluster", URL, "--cluster-listen", "127.0.0.1:6010"];
  const tls = ["--cluster-ca", "ca.pem", "--cluster-cert", "node.pem", "--cluster-key", "key.pem"];

  test("have the same effect from every source", () => {
    const expected = { url: URL, listen: { host: "127.0.0.1", port: 6010 }, direct: null, tls: null, folder: null };
    expect(parseConfig(given)!.cluster).toEqual(expected);
    const env = { HEARTLINE_CLUSTER: URL, HEARTLINE_CLUSTER_LISTEN: "127.0.0.1:6010" };
    expect(readConfiguration([], env)!.config.cluster).toEqual(expected);
    expect(parseConfig(["--cluster=nats://n1:4222,n2", "--cluster-listen=[::1]:0"])!.cluster).toMatchObject({
      url: "nats://n1:4222,n2",
      listen: { host: "::1", port: 0 },
    });
  });

  test("have TLS between servers, also on loopback when it is given", () => {
    const expected = { authorities: "ca.pem", chain: "node.pem", key: "key.pem" };
    expect(parseConfig([...given, ...tls])!.cluster!.tls).toEqual(expected);
    const far = ["--cluster", URL, "--cluster-listen", "10.0.0.1:6010"];
    expect(parseConfig([...far, ...tls])!.cluster).toMatchObject({ listen: { host: "10.0.0.1" }, tls: expected });
  });

  test("have the address at which clients reach this server directly", () => {
    expect(parseConfig([...given, "--direct-listen", "10.0.0.1:6003"])!.cluster!.direct).toEqual({
      host: "10.0.0.1",
      port: 6003,
    });
  });

  test("put the admin socket in the data folder, and make none without one", () => {
    expect(parseConfig(given)!.adminSocket).toBeNull();
    const { cluster, adminSocket } = parseConfig([...given, "--data", "/var/lib/heartline"])!;
    expect(adminSocket).toBe("/var/lib/heartline/admin.sock");
    expect(cluster!.folder).toBe("/var/lib/heartline");
  });

  const refused: [args: string[], message: RegExp][] = [
    [["--cluster", URL], /--cluster takes --cluster-listen/],
    [["--cluster", URL, "--cluster-listen", "10.0.0.1:6010"], /between machines .* give --cluster-ca/],
    [["--cluster", URL, "--cluster-listen", "[fd00::1]:6010"], /between machines .* give --cluster-ca/],
    [[...given, ...tls.slice(2)], /TLS between servers takes --cluster-ca, --cluster-cert and --cluster-key/],
    [tls, /--cluster-ca <file> takes --cluster <url>/],
    [["--cluster-listen", "10.0.0.1:6010"], /--cluster-listen <address:port> takes --cluster <url>/],
    [["--workers", "2"], /--workers <number> takes --cluster <url>/],
    [[...given, "--workers", "2", "--port", "0"], /takes no port 0/],
    [[...given, "--workers", "2", "--web", "0"], /takes no port 0 for --port and --web/],
    [[...given, "--workers", "0"], /--workers takes a whole number from 1 to 256/],
    [["--direct-listen", "10.0.0.1:6003"], /--direct-listen <address:port> takes --cluster <url>/],
    [[...given, "--direct-listen", "0.0.0.0:6003"], /clients reach this server .* not "0\.0\.0\.0:6003"/],
    [
      ["--cluster", "mysql://root:engine-secret@db1", "--cluster-listen", "10.0.0.1:6010"],
      /postgres:\/\/ or nats:\/\//,
    ],
    [["--cluster", URL, "--cluster-listen", "0.0.0.0:6010"], /reach this server .* not "0\.0\.0\.0:6010"/],
    [["--cluster", URL, "--cluster-listen", "6010"], /takes <address>:<port>/],
    [[...given, "--durability", "power"], /it takes no --durability/],
    [[...given, "--salvage"], /it takes no --salvage/],
    [[...given, "--data", ":memory:"], /it takes no --data :memory:/],
  ];
  test.each(refused)("%j is refused in words without the password", (args, message) => {
    let text = "";
    try {
      parseConfig(args);
    } catch (error) {
      expect(error).toBeInstanceOf(UsageError);
      text = (error as Error).message;
    }
    expect(text).toMatch(message);
    expect(text).not.toContain("engine-secret");
  });
});
