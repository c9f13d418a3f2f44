/** The list of conversations and of the users who are online, and the field that finds one. */
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { addressOf } from "./address.ts";
import type { Chat } from "./chat.ts";
import { EVERYBODY, type Message, type Summary } from "./conversations.ts";
import { Everybody } from "./icons.tsx";
import { isName, shownText } from "./text.ts";
import { shortTime } from "./times.ts";
import { count } from "./words.ts";

export function People({ chat }: { chat: Chat }) {
  const [sought, setSought] = useState("");
  const list = useRef<HTMLElement>(null);
  const field = useRef<HTMLInputElement>(null);
  // The focus was in the form of the login. With a finger the keyboard of the phone would hide the list.
  useEffect(() => {
    if (chat.current === null && matchMedia("(pointer: fine)").matches) field.current!.focus();
  }, []);
  const matches = (name: string): boolean => name.toLowerCase().includes(sought.trim().toLowerCase());
  const { summaries } = chat.conversations;
  const known = new Set(summaries.map(({ name }) => name));
  const talks = summaries.filter(({ name }) => matches(name));
  const others = chat.presence.names.filter((name) => !known.has(name) && matches(name));
  const isNew = isName(sought.trim()) && !known.has(sought.trim()) && !others.includes(sought.trim());
  const open = (name: string): void => {
    setSought("");
    location.hash = addressOf(name);
  };
  /** Arrow keys move through the list. */
  const move = (event: KeyboardEvent): void => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    const buttons = [...list.current!.querySelectorAll<HTMLElement>("input, .person")];
    const next = buttons[buttons.indexOf(document.activeElement as HTMLElement) + step];
    if (next === undefined) return;
    event.preventDefault();
    next.focus();
  };
  const row = (summary: Summary) => <Person key={summary.name} chat={chat} summary={summary} open={open} />;
  return (
    <nav class="people" aria-label="Conversations" ref={list} onKeyDown={move}>
      <form
        class="find"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          const [first] = [...(isNew ? [sought.trim()] : []), ...talks.map(({ name }) => name), ...others];
          if (sought.trim() !== "" && first !== undefined) open(first);
        }}
      >
        <label class="hidden" for="find">
          Find a user, or write to one by name
        </label>
        <input
          id="find"
          ref={field}
          type="search"
          placeholder="Find or write to…"
          value={sought}
          autocomplete="off"
          autocapitalize="none"
          spellcheck={false}
          onInput={({ currentTarget }) => setSought(currentTarget.value)}
        />
      </form>
      <div class="lists">
        {isNew && (
          <ul>
            <li>
              <button class="person" onClick={() => open(sought.trim())}>
                <Avatar name={sought.trim()} />
                <span class="person-name">Write to {sought.trim()}</span>
              </button>
            </li>
          </ul>
        )}
        {sought.trim() === "" && <ul>{row(chat.conversations.summary(EVERYBODY))}</ul>}
        {talks.length > 0 && <Section title="Conversations">{talks.map(row)}</Section>}
        {others.length > 0 && (
          <Section title="Online">{others.map((name) => row(chat.conversations.summary(name)))}</Section>
        )}
        {chat.presence.more > 0 && <p class="hint">{count(chat.presence.more, "more user")} online</p>}
        {talks.length + others.length === 0 && !isNew && sought.trim() !== "" && <p class="hint">Nobody found</p>}
      </div>
    </nav>
  );
}

function Section({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section>
      <h2>{title}</h2>
      <ul>{children}</ul>
    </section>
  );
}

interface PersonProps {
  chat: Chat;
  summary: Summary;
  open: (name: string) => void;
}

function Person({ chat, summary: { name, last, unread }, open }: PersonProps) {
  const isEverybody = name === EVERYBODY;
  const isBlocked = chat.blocked.has(name);
  const isOnline = chat.presence.has(name);
  return (
    <li>
      <button class="person" aria-current={chat.current === name ? "true" : undefined} onClick={() => open(name)}>
        {isEverybody ? (
          <span class="avatar is-everybody">
            <Everybody />
          </span>
        ) : (
          <Avatar name={name} isOnline={isOnline} />
        )}
        <span class="person-name">
          {isEverybody ? "Everybody" : name}
          {!isEverybody && <span class="hidden">{isBlocked ? "blocked" : isOnline ? "online" : "offline"}</span>}
        </span>
        {last !== null && <time class="person-time">{shortTime(last.timeMs, Date.now())}</time>}
        <span class="person-last">{isBlocked ? "Blocked" : preview(last)}</span>
        {unread > 0 && (
          <span class="unread">
            {unread > 999 ? "999+" : unread}
            <span class="hidden"> unread</span>
          </span>
        )}
      </button>
    </li>
  );
}

function preview(last: Message | null): string {
  if (last === null) return "";
  const text = shownText(last.text).slice(0, 100);
  if (last.state !== null) return `You: ${text}`;
  return last.conversation === EVERYBODY && last.from !== "" ? `${last.from}: ${text}` : text;
}

export function Avatar({ name, isOnline = false }: { name: string; isOnline?: boolean }) {
  return (
    <span class={`avatar hue-${hue(name)}${isOnline ? " is-online" : ""}`} aria-hidden="true">
      {name[0]!.toUpperCase()}
    </span>
  );
}

/** A number from 0 to 5 that a name always has. */
function hue(name: string): number {
  return [...name].reduce((sum, character) => (sum * 31 + character.charCodeAt(0)) % 997, 7) % 6;
}
