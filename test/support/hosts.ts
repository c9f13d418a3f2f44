/**
 * Machines of a test, each a network namespace of Linux (network_namespaces(7)) with an address of its own, on one
 * bridge. The caller is in a namespace of its own too (`unshare --net`), so nothing of them is seen outside, and they
 * end with the caller. Packets from one machine to another one can be dropped, in one direction or both.
 */
import { readFileSync } from "node:fs";

/** Where a process runs: its address, and the command that starts it there and replaces itself by it. */
export interface Host {
  address: string;
  prefix: readonly string[];
}

export const LOOPBACK: Host = { address: "127.0.0.1", prefix: [] };

const PROGRAMS = ["ip", "unshare", "nsenter", "setpriv"];
const BRIDGE = "machines";
const BITS = 24;
/** A hardware address that no machine has: the switch of a real network would drop these packets too. */
const NOWHERE = "02:00:00:00:00:00";
const TCP_ESTABLISHED = "01";

/** Why namespaces cannot be used here; null when they can. */
export function hostsObstacle(): string | null {
  if (process.getuid!() !== 0) return "network namespaces need root; run it as root, or in a container that has it";
  const missing = PROGRAMS.filter((program) => Bun.which(program) === null);
  if (missing.length > 0)
    return `${missing.join(" and ")} not found; install Debian's packages iproute2 and util-linux`;
  const { success, stderr } = Bun.spawnSync(["unshare", "--net", "ip", "link", "add", BRIDGE, "type", "bridge"]);
  return success ? null : `network namespaces cannot be made: ${stderr.toString().trim()}; run it outside a container`;
}

function run(...command: string[]): void {
  const { success, stderr } = Bun.spawnSync(command);
  if (!success) throw new Error(`${command.join(" ")}: ${stderr.toString().trim()}`);
}

/** One machine. */
export class Machine implements Host {
  readonly address: string;
  readonly prefix: readonly string[];
  /** A process that only keeps the namespace. */
  readonly #keeper: Bun.Subprocess;

  constructor(address: string, keeper: Bun.Subprocess) {
    this.address = address;
    this.#keeper = keeper;
    this.prefix = ["nsenter", `--net=/proc/${keeper.pid}/ns/net`];
  }

  run(...command: string[]): void {
    run(...this.prefix, ...command);
  }

  /** Drops all packets from this machine to the other one, until `heal`. */
  cut(to: Host): void {
    this.run("ip", "neigh", "replace", to.address, "lladdr", NOWHERE, "dev", "eth0", "nud", "permanent");
  }

  heal(to: Host): void {
    this.run("ip", "neigh", "del", to.address, "dev", "eth0");
  }

  /** Whether a process here is connected to that port of the other machine (proc_pid_net(5)). */
  isConnectedTo(to: Host, port: number): boolean {
    const address = to.address.split(".").map(Number).toReversed();
    const hex = (numbers: number[], digits: number): string =>
      numbers.map((each) => each.toString(16).padStart(digits, "0").toUpperCase()).join("");
    const remote = `${hex(address, 2)}:${hex([port], 4)}`;
    const rows = readFileSync(`/proc/${this.#keeper.pid}/net/tcp`, "latin1").split("\n");
    return rows.some((row) => row.includes(` ${remote} ${TCP_ESTABLISHED} `));
  }
}

/** The network of all machines. The caller has an address in it, so it reaches each of them. */
export class Network {
  #count = 0;

  constructor() {
    run("ip", "link", "set", "lo", "up");
    run("ip", "link", "add", BRIDGE, "type", "bridge");
    run("ip", "address", "add", `${addressOf(254)}/${BITS}`, "dev", BRIDGE);
    run("ip", "link", "set", BRIDGE, "up");
  }

  async add(): Promise<Machine> {
    const number = ++this.#count;
    const keeper = Bun.spawn(["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sleep", "infinity"], {
      stdio: ["ignore", "ignore", "ignore"],
    });
    const space = (pid: number | "self"): string =>
      Bun.spawnSync(["readlink", `/proc/${pid}/ns/net`]).stdout.toString();
    while (space(keeper.pid) === space("self")) await Bun.sleep(1); // `unshare` has not been executed.
    const machine = new Machine(addressOf(number), keeper);
    run("ip", "link", "add", `machine${number}`, "type", "veth", "peer", "name", "eth0", "netns", String(keeper.pid));
    run("ip", "link", "set", `machine${number}`, "master", BRIDGE, "up");
    machine.run("ip", "address", "add", `${machine.address}/${BITS}`, "dev", "eth0");
    for (const device of ["lo", "eth0"]) machine.run("ip", "link", "set", device, "up");
    return machine;
  }
}

function addressOf(number: number): string {
  return `10.77.0.${number}`;
}
