import type { Field, Intruder } from "./intruder.ts";

/** What hostile clients do. */
export interface Attack {
  help: string;
  begin(field: Field): void;
}

export const ATTACKS = {
  drip: {
    help: "300 connections say one byte a second, and never a whole line; half of them are logged in",
    begin: (field) => {
      const line = "message somebody it takes a while to say this, and the end of it never comes";
      const all: Intruder[] = [];
      for (let i = 0; i < field.scaled(300); i++) all.push(field.open(i % 2 === 0 ? {} : { user: field.user(i >> 1) }));
      field.perSecond(all.length, (count) => {
        const at = Math.floor(count / all.length) % line.length;
        all[count % all.length]!.say(Buffer.from(line[at]!));
      });
    },
  },
} satisfies Record<string, Attack>;

export type AttackName = keyof typeof ATTACKS;
export const ATTACK_NAMES = Object.keys(ATTACKS) as AttackName[];
