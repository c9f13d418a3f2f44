import { afterEach, describe, expect, test } from "bun:test";
import { endPrograms, run, runWith } from "../support/process.ts";

afterEach(endPrograms);

const cluster = (...args: string[]) => run("src/main.ts", "cluster", ...args);

describe("an invalid command line is one line and exit code 2:", () => {
  test.each([
    [[], "give a command"],
    [["wat"], 'there is no command "wat"'],
    [["init"], "give the URL of the cluster"],
    [["init", "postgres://a/b", "postgres://c/d"], "give one URL; several hosts are separated by commas"],
    [["init", "postgres://a/b", "--shards", "0"], '--shards takes a number from 1 to 256, not "0"'],
    [["init", "postgres://a/b", "--shards", "257"], '--shards takes a number from 1 to 256, not "257"'],
    [["init", "postgres://a/b", "--shards", "1.5"], '--shards takes a number from 1 to 256, not "1.5"'],
    [["import"], "give the data folder"],
    [["import", "data"], "give the URL of the cluster"],
    [["import", "data", "postgres://a/b"], "give one folder, and the URL with --cluster"],
    [["import", "data", "--shards", "3"], "only init takes --shards"],
    [["export"], "give the path of a new folder"],
    [["export", "data", "--wat"], "unknown option '--wat'"],
    [["init", "postgres://a/b", "--shards", "x"], '--shards takes a number from 1 to 256, not "x"'],
  ])("%j", async (args, reason) => {
    const hint = `${process.execPath} src/main.ts help cluster lists the options`;
    expect(await cluster(...args)).toEqual({ out: "", err: `heartline: ${reason} (${hint})\n`, code: 2 });
  });
});

describe("an invalid URL is one line without the password, and exit code 2:", () => {
  const form = "invalid URL of PostgreSQL: it has another form; write postgres://user:password@host:port/database, ";
  test.each([
    ["mysql://u:hidden@127.0.0.1/db", "invalid URL of a cluster: it must begin with postgres:// or nats://"],
    ["u:hidden@127.0.0.1/db", "invalid URL of a cluster: it must begin with postgres:// or nats://"],
    ["postgres://u:hidden@127.0.0.1", form],
    ["postgres://u:hidden@127.0.0.1/", form],
    ["postgres://u:hidden@/db", form],
    ["postgres://u:1/hidden@127.0.0.1/db", form],
    ["postgres://u:hidden@127.0.0.1:port/db", form],
    ["postgres://u:hidden@127.0.0.1,/db", form],
    ["postgres://u:hidden@127.0.0.1/%db", form],
    ["postgres://u:hidden%@127.0.0.1/db", form],
    ["postgres://u:hidden@127.0.0.1/db?sslmode=maybe", "invalid URL of PostgreSQL: 'sslmode' must be one of: disable,"],
    ["nats://u:hidden/name", "invalid NATS address: server 1 of the list is not a host with a port"],
    ["nats://127.0.0.1:4222,u:hidden/name", "invalid NATS address: server 2 of the list is not a host with a port"],
  ])("%s", async (url, reason) => {
    const { out, err, code } = await cluster("init", url);
    expect({ out, code }).toEqual({ out: "", code: 2 });
    expect(err).toStartWith(`heartline: ${reason}`);
    expect(err.trimEnd()).not.toContain("\n");
    expect(err).not.toContain("hidden");
  });
});

test("servers that cannot be reached are named in one line, in the order of the URL", async () => {
  const url = "postgres://u:hidden@127.0.0.1:1,[::1]:2/db";
  expect(await cluster("init", url)).toEqual({
    out: "",
    err:
      "heartline: cannot open PostgreSQL: 127.0.0.1:1 cannot be reached; [::1]:2 cannot be reached; " +
      "start the server, or correct the URL\n",
    code: 1,
  });
});

test.each(["import", "export"])(
  "%s names a server that it cannot reach in one line, with exit code 1",
  async (verb) => {
    const { out, err, code } = await cluster(verb, "/nowhere", "--cluster", "postgres://u:hidden@127.0.0.1:1/db");
    expect(err).toBe(
      "heartline: cannot open PostgreSQL: 127.0.0.1:1 cannot be reached; start the server, or correct the URL\n",
    );
    expect({ out, code }).toEqual({ out: "", code: 1 });
  },
);

test("without a URL on the command line it is read from the environment", async () => {
  const env = { HEARTLINE_CLUSTER: "postgres://u:hidden@127.0.0.1:1/db" };
  const { err, code } = await runWith({ env }, "src/main.ts", "cluster", "init");
  expect(err).toStartWith("heartline: cannot open PostgreSQL: 127.0.0.1:1 cannot be reached");
  expect(code).toBe(1);
});
