/** One conversation: its head, its messages, and the field for the next one. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "./chat.ts";
import { Composer } from "./composer.tsx";
import { EVERYBODY } from "./conversations.ts";
import { groups } from "./groups.ts";
import { Back, Down, Everybody } from "./icons.tsx";
import { MessageGroup } from "./message-group.tsx";
import { Note } from "./note.tsx";
import { Avatar } from "./people.tsx";
import { count } from "./words.ts";

/** Messages that are shown at first, and with each press of the button for earlier ones. */
const SHOWN = 150;
/** The log is at its end when no more than this is below. */
const END_PX = 60;

interface Props {
  chat: Chat;
  name: string;
}

export function ConversationView({ chat, name }: Props) {
  const isEverybody = name === EVERYBODY;
  const title = isEverybody ? "Everybody" : name;
  const isBlocked = chat.blocked.has(name);
  const heading = useRef<HTMLHeadingElement>(null);
  // With a finger the keyboard of the phone would hide the messages.
  useEffect(() => {
    if (!matchMedia("(pointer: fine)").matches) heading.current!.focus();
  }, []);
  return (
    <section class="pane" aria-label={`Conversation with ${title}`}>
      <header class="head">
        <a class="quiet back" href="#" aria-label="Back to the list">
          <Back />
        </a>
        {isEverybody ? (
          <span class="avatar is-everybody">
            <Everybody />
          </span>
        ) : (
          <Avatar name={name} isOnline={chat.presence.has(name)} />
        )}
        <div class="head-name">
          <h2 ref={heading} tabIndex={-1}>
            {title}
          </h2>
          <p>{isEverybody ? online(chat) : isBlocked ? "Blocked" : chat.presence.has(name) ? "Online" : "Offline"}</p>
        </div>
        {!isEverybody && name !== chat.user && (
          <button class="plain" onClick={() => void chat.block(name, !isBlocked)}>
            {isBlocked ? "Unblock" : "Block"}
          </button>
        )}
      </header>
      <Note chat={chat} />
      <Log chat={chat} name={name} title={title} />
      <Composer chat={chat} name={name} title={title} />
    </section>
  );
}

function online(chat: Chat): string {
  const others = chat.presence.names.length + chat.presence.more;
  return others === 0 ? "Nobody else is online" : `${count(others, "other user")} online`;
}

function Log({ chat, name, title }: Props & { title: string }) {
  const [shown, setShown] = useState(SHOWN);
  const log = useRef<HTMLDivElement>(null);
  const [isAtEnd, setAtEnd] = useState(true);
  const all = chat.conversations.messages(name);
  const messages = all.slice(-shown);
  const last = messages.at(-1);
  const toEnd = (): void => log.current?.scrollTo({ top: log.current.scrollHeight });
  // What is new is shown when the end was shown, and what this user writes is always shown.
  useLayoutEffect(() => {
    if (isAtEnd || last?.state === "waiting") toEnd();
  }, [last?.id]);
  // The log gets smaller when the field below grows, or the keyboard of a phone opens.
  useEffect(() => {
    const observer = new ResizeObserver(() => {
      if (isAtEnd) toEnd();
    });
    observer.observe(log.current!);
    return () => observer.disconnect();
  }, [isAtEnd]);
  return (
    <div class="log-place">
      <div
        class="log"
        ref={log}
        role="log"
        aria-label={`Messages with ${title}`}
        aria-relevant="additions"
        tabIndex={0}
        onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) =>
          setAtEnd(scrollHeight - scrollTop - clientHeight < END_PX)
        }
      >
        {all.length > shown && (
          <button class="plain earlier" onClick={() => setShown(shown + SHOWN)}>
            Show earlier messages
          </button>
        )}
        {all.length === 0 && (
          <p class="hint is-empty">
            {name === EVERYBODY ? "What you write here goes to everybody who is online." : `Say hello to ${title}.`}
          </p>
        )}
        {groups(messages, chat.newAfterId, Date.now()).map((group) => (
          <MessageGroup key={group.messages[0]!.id} chat={chat} {...group} />
        ))}
      </div>
      {!isAtEnd && (
        <button class="to-end" onClick={toEnd} aria-label="Go to the newest message">
          <Down />
        </button>
      )}
    </div>
  );
}
