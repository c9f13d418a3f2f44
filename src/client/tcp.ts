/** The transport over TCP and TLS, by the sockets of Node, which Bun has too. */
import { type LookupFunction, type Socket, connect as connectTcp, isIP } from "node:net";
import { type ConnectionOptions, TLSSocket, checkServerIdentity, connect as connectTls } from "node:tls";
import { isThisMachine, nameInCertificate, readHost } from "../runtime/host.ts";
import { ChatError } from "./errors.ts";
import { handshakeFailure, untrusted } from "./handshake.ts";
import type { HostAddresses } from "./host-addresses.ts";
import type { OpenTransport, ServerAddress, Transport, TransportListener } from "./transport.ts";

/** Opens connections over TCP or TLS to one of the addresses of a host. */
export function openTcp(addresses: HostAddresses): OpenTransport {
  return async (address, listener, signal) => {
    const target = await addresses.next();
    try {
      return await connectTo(target, addresses, address, listener, signal);
    } catch (error) {
      if (target !== address.host) addresses.refused(target);
      throw error;
    }
  };
}

function connectTo(
  target: string,
  addresses: HostAddresses,
  address: ServerAddress,
  listener: TransportListener,
  signal: AbortSignal,
): Promise<Transport> {
  const { tls, connected } = address;
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const { socket, opens } = newSocket(target, address);
    const onAbort = (): void => {
      socket.destroy();
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort);
    let isOpen = false;
    socket.once("connect", () => {
      const { localAddress = "", remoteAddress = "" } = socket;
      connected?.(localAddress, isThisMachine(localAddress, remoteAddress));
    });
    socket.once(opens, () => {
      if (socket instanceof TLSSocket && !socket.authorized) {
        reject(untrusted(address, socket.getPeerCertificate(), String(socket.authorizationError)));
        return void socket.destroy();
      }
      isOpen = true;
      signal.removeEventListener("abort", onAbort);
      socket.setNoDelay(true);
      resolve(transportOf(socket, addresses));
    });
    socket.on("data", (chunk: Buffer) => listener.data(chunk));
    socket.on("error", (error: NodeJS.ErrnoException) => {
      if (isOpen) return; // `close` follows.
      const isHandshake = tls !== false && error.syscall !== "connect" && error.syscall !== "getaddrinfo";
      // When the connection ended during the handshake, `close` follows and rejects.
      if (!isHandshake) reject(error);
      else if (error.code !== "ECONNRESET") reject(handshakeFailure(error));
    });
    socket.once("close", () => {
      signal.removeEventListener("abort", onAbort);
      const hint = tls === false ? "" : "; perhaps there is no TLS at that port";
      if (isOpen) listener.closed();
      else reject(new ChatError("closed", `the connection was closed at once${hint}`));
    });
  });
}

/** A socket that connects, and the event after which bytes may be sent. */
function newSocket(to: string, { host: text, port, tls }: ServerAddress): { socket: Socket; opens: string } {
  const host = readHost(to);
  const target = { host, port, ...(host === "localhost" ? { lookup: lookupLocalhost } : {}) };
  if (tls === false) return { socket: connectTcp(target), opens: "connect" };
  const name = nameInCertificate(readHost(text));
  const options: ConnectionOptions = {
    ...(tls === true ? {} : tls),
    ...target,
    // `openTcp` does it, before anything is sent: there the certificate is at hand, for the words of the error.
    rejectUnauthorized: false,
    checkServerIdentity: (_host, certificate) => checkServerIdentity(name, certificate),
  };
  if (isIP(name) === 0) options.servername = name; // RFC 6066 allows no address there.
  return { socket: connectTls(options), opens: "secureConnect" };
}

/** `localhost` is this machine (RFC 6761): both addresses are tried, whatever the resolver of the system knows. */
const lookupLocalhost: LookupFunction = (_host, _options, callback) => {
  const addresses = [
    { address: "127.0.0.1", family: 4 },
    { address: "::1", family: 6 },
  ];
  callback(null, addresses);
};

function transportOf(socket: Socket, addresses: HostAddresses): Transport {
  const { remoteAddress = "" } = socket;
  return {
    write: (bytes) => void socket.write(bytes),
    // A server that is away would not take the rest.
    close: () => void (socket.writableLength > 0 ? socket.destroy() : socket.destroySoon()),
    // A TLS socket has no call for that.
    abandon: () => void (socket instanceof TLSSocket ? socket.destroy() : socket.resetAndDestroy()),
    verdict: (isAccepted) => (isAccepted ? addresses.accepted(remoteAddress) : addresses.refused(remoteAddress)),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
  };
}
