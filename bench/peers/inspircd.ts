import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Peer } from "./peer.ts";

/** Without flood penalties. A `netbuffersize` above 65,534 is silently replaced by a small one. */
const CONFIG = `
<server name="bench.local" description="bench" network="bench" id="001">
<admin name="bench" nick="bench" email="bench@bench.local">
<bind address="127.0.0.1" port="PORT" type="clients">
<connect name="main" allow="*" timeout="60" pingfreq="1h" hardsendq="64M" softsendq="32M" recvq="4M" threshold="1000000"
  commandrate="1000000000" fakelag="no" localmax="100000" globalmax="100000" maxconnwarn="no" resolvehostnames="no"
  useident="no" limit="100000" maxchans="1000">
<performance netbuffersize="65534" somaxconn="4096" softlimit="100000" clonesonconnect="no" quietbursts="yes">
<pid file="FOLDER/inspircd.pid">
`;

export const inspircd: Peer = {
  name: "inspircd",
  about: "InspIRCd: messages have no reply, absent users receive nothing",
  protocol: "irc",
  needs: { program: "inspircd", package: "inspircd" },
  loginsAtOnce: 64,
  version: ["inspircd", "--version"],
  command: ({ folder, port }) => {
    const file = join(folder, "inspircd.conf");
    writeFileSync(file, CONFIG.replace("PORT", String(port)).replace("FOLDER", folder));
    return ["inspircd", "--runasroot", "--nofork", "--nolog", `--config=${file}`];
  },
};
