import { join } from "node:path";
import { COMPILER, compiled } from "../program.ts";
import type { Peer } from "./peer.ts";

/** The rate that the kernel allows: a server that only copies bytes. See baseline.c. */
export const baseline: Peer = {
  name: "baseline",
  about: "a plain C server on epoll that stores and checks nothing",
  protocol: "heartline",
  needs: COMPILER,
  loginsAtOnce: 64,
  version: [COMPILER.program, "--version"],
  command: ({ sharedFolder, port }) => [compiled(join(import.meta.dir, "baseline.c"), sharedFolder), String(port)],
};
