/**
 * The environment variables of the programs: HEARTLINE_PORT stands for the option `--port`. The programs `serve`,
 * `check` and `ctl` use them; `chat` takes the password only.
 */

export type Environment = Readonly<Record<string, string | undefined>>;

const PREFIX = "HEARTLINE_";
const PASSWORD = "HEARTLINE_PASSWORD";

/** The variable of an option, which is given without dashes in front. */
export function variableOf(option: string): string {
  return PREFIX + option.toUpperCase().replaceAll("-", "_");
}

/** Names of variables that look like options of this project and belong to none of `options`. */
export function unknownVariables(env: Environment, options: Iterable<string>): string[] {
  const known = new Set([PASSWORD, ...[...options].map(variableOf)]);
  return Object.keys(env)
    .filter((name) => name.startsWith(PREFIX) && !known.has(name))
    .sort();
}

/** Returns the password and removes it, so that no program that is started later inherits it; null without one. */
export function takePassword(env: Record<string, string | undefined>): string | null {
  const password = env[PASSWORD] ?? null;
  delete env[PASSWORD];
  return password;
}
