import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Peer } from "./peer.ts";

/** The rate that the kernel allows: a server that only copies bytes. See baseline.c. */
export const baseline: Peer = {
  name: "baseline",
  about: "a plain C server on epoll that stores and checks nothing",
  protocol: "heartline",
  needs: { program: "cc", package: "gcc" },
  loginsAtOnce: 64,
  version: ["cc", "--version"],
  command: ({ sharedFolder, port }) => {
    const program = join(sharedFolder, "baseline");
    if (!existsSync(program)) {
      const source = join(import.meta.dir, "baseline.c");
      const { success, stderr } = Bun.spawnSync(["cc", "-O2", "-Wall", "-Wextra", "-o", program, source]);
      if (!success) throw new Error(`cc cannot compile ${source}: ${stderr.toString()}`);
    }
    return [program, String(port)];
  },
};
