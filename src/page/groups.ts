/** How messages stand together on the page. */
import type { Message } from "./conversations.ts";
import { day, isSameDay, isSoonAfter } from "./times.ts";

export interface Group {
  messages: Message[];
  /** A heading above the group, when it is the first one of a day; null otherwise. */
  day: string | null;
  /** Whether it begins with the first message that was unread. */
  isNew: boolean;
}

/** Messages of one sender that were sent within minutes are one group. Those after `newAfterId` were unread. */
export function groups(messages: readonly Message[], newAfterId: number, nowMs: number): Group[] {
  const found: Group[] = [];
  let before: Message | null = null;
  let isNewFound = false;
  for (const message of messages) {
    const isDay = before === null || !isSameDay(before.timeMs, message.timeMs);
    const isNew: boolean = !isNewFound && message.state === null && message.id > newAfterId;
    isNewFound ||= isNew;
    if (isDay || isNew || !isClose(before!, message))
      found.push({ messages: [message], day: isDay ? day(message.timeMs, nowMs) : null, isNew });
    else found.at(-1)!.messages.push(message);
    before = message;
  }
  return found;
}

function isClose(before: Message, message: Message): boolean {
  const isSameSender = before.from === message.from && (before.state === null) === (message.state === null);
  return isSameSender && isSoonAfter(before.timeMs, message.timeMs);
}
