import type { ProtocolName } from "../load/protocol-adapter.ts";

/** A server that can be measured. */
export interface Peer {
  name: string;
  /** In words, for a report: what it is, and what of its work differs from ours. */
  about: string;
  protocol: ProtocolName;
  /** The program that it needs, and the Debian package that has it; null when everything is here. */
  needs: { program: string; package: string } | null;
  /** Its clients' sessions outlive their connections, and are confirmed once a second. */
  resumable?: true;
  /** How many clients may log in at the same time. */
  loginsAtOnce: number;
  /** The command that starts it on 127.0.0.1, when files are written into `folder`. */
  command(site: Site): string[];
  /** The command that prints its version; null when it is this checkout's. */
  version: string[] | null;
}

/** Where a server runs. */
export interface Site {
  /** For this run alone; and one that the runs share. */
  folder: string;
  sharedFolder: string;
  /** A free port; a server that prints `listening on <ip>:<port>` may take another one. */
  port: number;
  credentials: string;
}

/** Servers are often where only root looks for programs. */
export const PATH = `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;

export function isInstalled({ needs }: Peer): boolean {
  return needs === null || Bun.which(needs.program, { PATH }) !== null;
}
