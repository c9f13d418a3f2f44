import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Peer } from "./peer.ts";

/** Without flood penalties. 512 bytes per line, 3 commands per turn and 32 KiB per slow reader are built in. */
const CONFIG = `
[Global]
Name = bench.local
Info = bench
Listen = 127.0.0.1
MotdPhrase = "x"
ServerUID = root
ServerGID = root
[Limits]
MaxConnections = 0
MaxConnectionsIP = 0
MaxJoins = 0
MaxNickLength = 20
MaxPenaltyTime = 0
MaxListSize = 0
PingTimeout = 3600
PongTimeout = 3600
[Options]
DNS = no
Ident = no
PAM = no
`;

export const ngircd: Peer = {
  name: "ngircd",
  about: "ngIRCd: messages have no reply, absent users receive nothing",
  protocol: "irc",
  needs: { program: "ngircd", package: "ngircd" },
  loginsAtOnce: 8, // Its listen backlog is 10.
  version: ["ngircd", "--version"],
  command: ({ folder, port }) => {
    const file = join(folder, "ngircd.conf");
    writeFileSync(file, CONFIG.replace("[Limits]", `Ports = ${port}\n[Limits]`));
    return ["ngircd", "-n", "-f", file];
  },
};
