/**
 * SIGHUP, and `reload` of the admin socket: reads the configuration, the credentials and the certificate again. All are
 * read before anything changes, so an error changes nothing. `Server` applies them.
 */
import { type Credentials, readAgain } from "../auth/credentials.ts";
import { filterText } from "../display-filter.ts";
import type { Certificate } from "../net/certificate.ts";
import type { Logger } from "../runtime/log.ts";
import { inSlices } from "../runtime/slices.ts";
import { ConfigError } from "../usage-error.ts";
import type { Config, Configuration } from "./config.ts";
import { TABLE } from "./options.ts";
import type { Server } from "./server.ts";
import type { Settings } from "./settings.ts";

/** The address for a server without `--host` while the sample credentials are in use. */
const LOOPBACK = "127.0.0.1";

/** The host to listen on. Everybody knows the sample passwords, so other machines reach them only on request. */
export function hostFor({ host, isHostGiven }: Config, { sample }: Credentials): string {
  return sample && !isHostGiven ? LOOPBACK : host;
}

export class Reloader {
  readonly #server: Server;
  readonly #log: Logger;
  /** Reads the configuration again. Throws ConfigError. */
  readonly #read: () => Configuration;
  /** What the server started with: options that need a restart are compared with it. */
  readonly #started: Configuration;
  readonly #startedHost: string;
  /** The options of the last reload. */
  #settings: Settings;
  /** What the last reload read and only a restart can change, a line for each option. */
  restarts: readonly string[] = [];
  #last: Promise<string[]> = Promise.resolve([]);

  constructor(
    server: Server,
    log: Logger,
    read: () => Configuration,
    started: Configuration,
    credentials: Credentials,
  ) {
    this.#server = server;
    this.#log = log;
    this.#read = read;
    this.#started = started;
    this.#startedHost = hostFor(started.config, credentials);
    this.#settings = started.settings;
  }

  /**
   * Resolves with the errors, one line each. With an error nothing has changed. All lines are logged. Many users take
   * seconds, in which the server serves its clients; another reload begins after this one.
   */
  reload(): Promise<string[]> {
    return (this.#last = this.#last.then(async () => {
      const errors = await this.#reload();
      for (const error of errors) this.#log.error({ event: "reload" }, `${error}; nothing has changed`);
      return errors;
    }));
  }

  async #reload(): Promise<string[]> {
    const errors: string[] = [];
    const attempt = async <T>(act: () => T | Promise<T>): Promise<T | null> => {
      try {
        return await act();
      } catch (error) {
        const found = error instanceof ConfigError ? error.findings : [(error as Error).message];
        errors.push(...found.map(filterText));
        return null;
      }
    };
    const next = await attempt(this.#read);
    if (next === null) return errors;
    const { config, settings } = next;
    const credentials = await attempt(() => readAgain(config.credentials, this.#server.credentials));
    const certificate = await attempt((): Certificate | null => this.#server.newCertificate(config.tls));
    if (credentials?.sample === true && !config.isHostGiven && this.#startedHost !== LOOPBACK) {
      const where = `others can reach the server, which listens on ${this.#startedHost}`;
      errors.push(`the passwords in ${config.credentials} are public, and ${where}`);
    }
    if (errors.length > 0 || credentials === null) return errors;
    await attempt(() => inSlices(this.#server.applying(config, credentials, certificate)));
    if (errors.length > 0) return errors;
    for (const name of this.#changed(this.#settings, settings, true)) {
      this.#log.info({ event: "reload" }, `${name} is ${textOf(name, settings)} from now on`);
    }
    this.#settings = settings;
    this.restarts = this.#restarts(next, credentials);
    for (const line of this.restarts) this.#log.warn({ event: "reload" }, line);
    return [];
  }

  /** The options whose values differ, of those that a reload changes or that need a restart. */
  #changed(before: Settings, after: Settings, isLive: boolean): string[] {
    const names = [...TABLE.keys()].filter((name) => TABLE.get(name)!.isLive === isLive);
    return names.filter((name) => valueOf(name, before) !== valueOf(name, after));
  }

  #restarts({ config, settings }: Configuration, credentials: Credentials): string[] {
    const { config: started } = this.#started;
    const lines = this.#changed(this.#started.settings, settings, false)
      .filter((name) => name !== "host")
      .map((name) => `${name} needs a restart: until then it is ${textOf(name, this.#started.settings)}`);
    if ((started.tls === null) !== (config.tls === null)) {
      lines.push(`tls-cert needs a restart: until then TLS is ${started.tls === null ? "off" : "on"}`);
    }
    if (hostFor(config, credentials) !== this.#startedHost) {
      lines.push(`host needs a restart: until then the server listens on ${this.#startedHost}`);
    }
    return lines;
  }
}

function valueOf(name: string, settings: Settings): string {
  return settings.get(name)?.text ?? TABLE.get(name)!.fallback;
}

/** The value for the log. */
function textOf(name: string, settings: Settings): string {
  return TABLE.get(name)!.isSecret === true && settings.has(name) ? "the present one" : valueOf(name, settings);
}
