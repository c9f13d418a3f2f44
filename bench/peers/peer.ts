import type { ProtocolName } from "../load/protocol-adapter.ts";

/** A kind of server that can be measured: how to start it, and which protocol its clients use. */
export interface Peer {
  name: string;
  /** For the report: what it is, and how its work differs from that of Heartline. */
  about: string;
  protocol: ProtocolName;
  /** The program that it needs, and the Debian package that provides it; null when nothing must be installed. */
  needs: { program: string; package: string } | null;
  /** Its clients have resumable sessions and acknowledge once per second. */
  resumable?: true;
  /** How many clients may log in at the same time. */
  loginsAtOnce: number;
  /** Writes its files into `site.folder` and returns the command that starts it on 127.0.0.1. */
  command(site: Site): string[];
  /** The command that prints its version; null for a server of this checkout. */
  version: string[] | null;
}

/** Where a server runs: its folders, port and users. */
export interface Site {
  /** For this run only. */
  folder: string;
  /** For all runs of one benchmark. */
  sharedFolder: string;
  /** A free port; a server that prints `listening on <ip>:<port>` may take another one. */
  port: number;
  /** Credentials file. */
  credentials: string;
}

/** Servers are often in folders that are on the PATH of root only. */
export const PATH = `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;

export function isInstalled({ needs }: Peer): boolean {
  return needs === null || Bun.which(needs.program, { PATH }) !== null;
}
