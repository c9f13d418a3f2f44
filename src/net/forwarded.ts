import { type BlockList, isIPv4, isIPv6 } from "node:net";

/** An IPv6 socket shows IPv4 addresses as ::ffff:192.0.2.1. */
export function withoutMapping(address: string): string {
  return address.replace(/^::ffff:(?=.*\.)/i, "");
}

export function isListed(list: BlockList | null, address: string): boolean {
  return list?.check(address, address.includes(":") ? "ipv6" : "ipv4") === true;
}

/**
 * The client that a proxy names in `X-Forwarded-For`: the last address that is not one of the proxies, since each of
 * them adds the address of its own client at the end, and what comes before may be invented. The proxy's own address
 * when there is none, or when that part of the list is invalid.
 */
export function forwardedAddress(header: string | undefined, proxies: BlockList | null, proxy: string): string {
  const addresses = (header ?? "").split(",").map((each) => withoutMapping(each.trim()));
  for (const address of addresses.reverse()) {
    if (!isIPv4(address) && (!isIPv6(address) || address.includes("%"))) return proxy;
    if (!isListed(proxies, address)) return address;
  }
  return proxy;
}
