import type { ObservedStore } from "./host.ts";

/**
 * A rule that is switched off. A rule of the store is broken by a store that the simulation is given. All other rules
 * are single methods of classes that the core creates itself; nothing but these tests would use a way to inject them,
 * so the tests replace the method in the prototype.
 */
export interface Break {
  Store?: typeof ObservedStore;
  /** Replaces methods; returns the function that restores them. */
  apply?: () => () => void;
}

/** Replaces the method `name` of `target` by `make(method)`. */
export function without<T extends object, K extends keyof T>(
  target: T,
  name: K,
  make: (original: T[K]) => T[K],
): Break {
  const apply = (): (() => void) => {
    const own = Object.getOwnPropertyDescriptor(target, name)!;
    Object.defineProperty(target, name, { ...own, value: make(target[name]) });
    return () => Object.defineProperty(target, name, own);
  };
  return { apply };
}
