import type { TCPSocketListener } from "bun";
import { ListenError, listenFailure } from "../net/listener.ts";
import { formatAddress } from "../runtime/host.ts";

/** The port of `--cluster-listen`. Other servers only learn its address: a connection is closed at once. */
export class ClusterPort {
  /** `<ip>:<port>`, as other servers see it. */
  readonly address: string;
  readonly #socket: TCPSocketListener;

  /** Throws ListenError. */
  constructor({ host, port }: { host: string; port: number }) {
    try {
      const socket = { open: (each: { terminate(): void }) => each.terminate(), data: () => {} };
      this.#socket = Bun.listen({ hostname: host, port, socket });
    } catch (error) {
      const reason = listenFailure(error, host, "--cluster-listen");
      throw new ListenError(`cannot listen on ${formatAddress(host, port)}: ${reason}`);
    }
    this.address = formatAddress(host, this.#socket.port);
  }

  stop(): void {
    this.#socket.stop();
  }
}
