/** Ports on which a client listens: for the calls of a callback session, and for private chats. */
import { once } from "node:events";
import type { AddressInfo, Server } from "node:net";

/**
 * Listens on all addresses: `::`, which includes IPv4, or `0.0.0.0` on a machine without IPv6. Port 0 takes a free one.
 * Resolves with the port; rejects with the system's error.
 */
export async function listenOnAllAddresses(server: Server, port: number): Promise<number> {
  const listen = async (host: string): Promise<void> => {
    server.listen(port, host);
    await once(server, "listening");
  };
  await listen("::").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "EADDRINUSE" || error.code === "EACCES") throw error;
    return listen("0.0.0.0");
  });
  return (server.address() as AddressInfo).port;
}
