/**
 * The program `check`: examines what `serve` would use with the same options, and prints one line per finding. It
 * writes, creates and locks nothing. Exit codes: 0 without errors, 1 with errors, 2 for an invalid command line.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fingerprintOf } from "../auth/fingerprint.ts";
import { isFree } from "../cluster/ownership.ts";
import { openLog } from "../cluster/open-log.ts";
import { checkLastRecord } from "../cluster/takeover.ts";
import { plainPasswordsWarning, readCredentials } from "../auth/credentials.ts";
import { filterText } from "../display-filter.ts";
import { CONNECTIONS_LOW, CERTIFICATE_DAYS_LOW } from "../limits.ts";
import { fitDescriptors } from "../net/admission.ts";
import { type Certificate, readCertificate } from "../net/certificate.ts";
import { typed } from "../runtime/invocation.ts";
import { descriptorsMax } from "../runtime/kernel.ts";
import { print } from "../runtime/output.ts";
import { inspectFolder } from "../storage/inspection.ts";
import { ConfigError, UsageError } from "../usage-error.ts";
import { DATABASE } from "../storage/database.ts";
import { readClusterCertificate } from "./cluster-port.ts";
import { NO_PAGE, readPage } from "./page-files.ts";
import { type ClusterConfig, type Config, type Configuration, readConfiguration } from "./config.ts";

const USAGE = `Usage: ${typed("check")} [options of serve]

Examines the configuration, the credentials, the certificate, the data folder or the shared log, and the limit
on open files that serve would use with the same options, environment and file. It writes, creates and locks
nothing, and can run while a server runs. Each line of the output begins with ok, warning or error.

Exit code: 0 without errors, 1 with an error, 2 for an invalid command line.
`;

const DAY_MS = 24 * 3_600_000;

type Severity = "ok" | "warning" | "error";
type Finding = [severity: Severity, text: string];

export async function main(args: string[]): Promise<void> {
  let findings: Finding[];
  try {
    const configuration = readConfiguration(args, process.env);
    if (configuration === null) return await print(USAGE);
    findings = [...ofConfiguration(configuration), ...(await ofParts(configuration.config))];
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    if (!(error instanceof ConfigError)) {
      process.stderr.write(`heartline: ${filterText(error.message)} (${typed("help", "serve")} lists the options)\n`);
      process.exitCode = 2;
      return;
    }
    findings = error.findings.map((text): Finding => ["error", `configuration: ${text}`]);
  }
  await print(findings.map(([severity, text]) => `${severity}: ${filterText(text)}\n`).join(""));
  if (findings.some(([severity]) => severity === "error")) process.exitCode = 1;
}

function ofConfiguration({ file, settings, warnings }: Configuration): Finding[] {
  const from = file === null ? "without a file" : file;
  const all = [...settings.values()];
  const options = all.length === 1 ? "1 option is" : `${all.length} options are`;
  return [
    ["ok", `configuration: ${from}; ${options} given`],
    ...warnings.map((text): Finding => ["warning", `configuration: ${text}`]),
  ];
}

async function ofParts(config: Config): Promise<Finding[]> {
  const { cluster } = config;
  return [
    ...(await attempt("credentials", () => ofCredentials(config))),
    ...(await attempt("certificate", () => ofCertificate(config))),
    ...(await attempt("web", () => ofWeb(config))),
    ...(cluster === null
      ? await attempt("data folder", () => ofData(config))
      : [
          ...(await attempt("cluster", () => ofClusterCertificate(cluster))),
          ...(await attempt("cluster", () => ofCluster(cluster, config))),
        ]),
    ofDescriptors(config),
  ];
}

/** An error of `examine` is a finding. */
async function attempt(part: string, examine: () => Finding[] | Promise<Finding[]>): Promise<Finding[]> {
  try {
    return (await examine()).map(([severity, text]) => [severity, `${part}: ${text}`]);
  } catch (error) {
    return [["error", `${part}: ${(error as Error).message}`]];
  }
}

function ofCredentials({ credentials: file, isHostGiven }: Config): Finding[] {
  const { users, sample } = readCredentials(file);
  const findings: Finding[] = [["ok", `${file} has ${users.length} users`]];
  const plain = plainPasswordsWarning(users, file);
  if (sample) {
    const where = isHostGiven ? "" : "; serve listens on 127.0.0.1 only, unless --host is given";
    findings.push(["warning", `the passwords in ${file} are public, since it is the sample file${where}`]);
  } else if (plain !== null) findings.push(["warning", plain]);
  return findings;
}

function ofCertificate({ tls }: Config): Finding[] {
  if (tls === null) return [["ok", "TLS is off"]];
  return [ofExpiry(tls.chain, readCertificate(tls.chain, tls.key), "clients")];
}

function ofExpiry(file: string, { outdated, expiresMs }: Certificate, users: string): Finding {
  if (outdated !== null) return ["error", `${outdated}; ${users} will not trust it`];
  const days = Math.floor((expiresMs - Date.now()) / DAY_MS);
  const text = `${file} expires on ${new Date(expiresMs).toISOString()}, in ${days} days`;
  return days < CERTIFICATE_DAYS_LOW ? ["warning", `${text}; renew it`] : ["ok", text];
}

/** The certificate for other servers. */
function ofClusterCertificate({ tls, listen }: ClusterConfig): Finding[] {
  if (tls === null) return [];
  return [ofExpiry(tls.chain, readClusterCertificate(tls, listen.host), "other servers")];
}

function ofData({ data }: Config): Finding[] {
  if (data === ":memory:") return [["ok", ":memory: stores nothing on disk"]];
  const { errors, isMissing, examined } = inspectFolder(data);
  if (errors.length > 0) return errors.map((error) => ["error", `${data}: ${error}`]);
  if (isMissing) return [["warning", `${data} does not exist yet; serve creates it`]];
  return [["ok", `${data}; ${examined}`]];
}

/** Reads the states of the shards. */
async function ofCluster({ url, folder }: ClusterConfig, { credentials: file }: Config): Promise<Finding[]> {
  const findings: Finding[] = [];
  if (folder !== null && existsSync(join(folder, DATABASE))) {
    findings.push(["error", `${folder} has the messages of a server without --cluster; --data names another folder`]);
  }
  const log = await openLog(url);
  try {
    for (const warning of log.warnings) findings.push(["warning", warning]);
    const fingerprint = await fingerprintOf(readCredentials(file).users);
    for (const [shard, state] of (await log.states()).entries()) {
      await checkLastRecord(log, shard, state);
      const { owner, head } = state;
      const who = isFree(state) ? "no owner" : `the owner ${owner!.address}, which may have ended`;
      findings.push(["ok", `${log.engine}; shard ${shard} has ${who}; its last record is ${head}`]);
      if (isFree(state) || owner!.credentials === fingerprint) continue;
      const text = `the owner of shard ${shard} has other users or passwords than ${file}`;
      findings.push(["warning", `${text}; all servers of a cluster need the same`]);
    }
    return findings;
  } finally {
    await log.close();
  }
}

async function ofWeb({ web }: Config): Promise<Finding[]> {
  if (web === null) return [];
  const page = await readPage();
  return [page === null ? ["warning", NO_PAGE] : ["ok", `the page has ${page.size} files`]];
}

function ofDescriptors({ limits }: Config): Finding {
  const descriptors = descriptorsMax();
  const { connectionsMax } = fitDescriptors(limits, descriptors);
  const text = `open-file limit: ${descriptors}, for ${connectionsMax} connections`;
  const wanted = limits.connectionsMax || CONNECTIONS_LOW;
  if (connectionsMax >= wanted) return ["ok", text];
  return ["warning", `${text} and not ${wanted}; raise it with ulimit -n, or LimitNOFILE in a systemd unit`];
}
