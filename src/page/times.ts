/** Times of messages, in the language and the time zone of the browser. */

/** Messages of one sender within this time stand together. */
const GROUP_MS = 5 * 60_000;

/** `14:05` */
export function clock(timeMs: number, locale?: string): string {
  return new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" }).format(timeMs);
}

/** Number of days, by the calendar, from `timeMs` to `nowMs`. */
function daysAgo(timeMs: number, nowMs: number): number {
  const midnight = (ms: number): number => new Date(ms).setHours(0, 0, 0, 0);
  return Math.round((midnight(nowMs) - midnight(timeMs)) / 86_400_000);
}

/** The heading above the messages of a day: `Today`, `Yesterday`, `Friday`, or a date. */
export function day(timeMs: number, nowMs: number, locale?: string): string {
  const days = daysAgo(timeMs, nowMs);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days > 1 && days < 7) return new Intl.DateTimeFormat(locale, { weekday: "long" }).format(timeMs);
  return new Intl.DateTimeFormat(locale, { day: "numeric", month: "long", year: "numeric" }).format(timeMs);
}

/** In a list: the clock today, before that the day in short. */
export function shortTime(timeMs: number, nowMs: number, locale?: string): string {
  const days = daysAgo(timeMs, nowMs);
  if (days === 0) return clock(timeMs, locale);
  if (days === 1) return "Yesterday";
  if (days > 1 && days < 7) return new Intl.DateTimeFormat(locale, { weekday: "short" }).format(timeMs);
  return new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" }).format(timeMs);
}

export function isSameDay(a: number, b: number): boolean {
  return daysAgo(a, b) === 0;
}

/** Whether a message stands close to the one before it, of the same sender. */
export function isSoonAfter(beforeMs: number, timeMs: number): boolean {
  return timeMs - beforeMs < GROUP_MS && isSameDay(beforeMs, timeMs);
}
