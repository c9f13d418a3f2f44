/** The chat: the list of conversations, and the one that is open. The address after `#` says which one that is. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { conversationAt } from "./address.ts";
import type { Chat } from "./chat.ts";
import { ConversationView } from "./conversation-view.tsx";
import { EVERYBODY, type Message } from "./conversations.ts";
import { Leave, Mark } from "./icons.tsx";
import { LogoutDialog } from "./logout-dialog.tsx";
import { Note } from "./note.tsx";
import { People } from "./people.tsx";
import { shownText } from "./text.ts";

const TITLE = document.title;

export function ChatView({ chat, logout }: { chat: Chat; logout: () => void }) {
  const [isLeaving, setLeaving] = useState(false);
  const announcement = useAnnouncement(chat);
  useAddress(chat);
  useAttention(chat);
  const { unread } = chat.conversations;
  useLayoutEffect(() => void (document.title = unread > 0 ? `(${unread}) ${TITLE}` : TITLE));
  useEffect(() => () => void (document.title = TITLE), []);
  return (
    <main class={chat.current === null ? "chat is-list" : "chat"}>
      <h1 class="hidden">The chat of {chat.user}</h1>
      <div class="sidebar">
        <header class="self">
          <Mark />
          <div class="self-name">
            <p class="self-title">{chat.user}</p>
            <p class={`connection is-${chat.connection}`}>{CONNECTIONS[chat.connection]}</p>
          </div>
          <button class="quiet" aria-label="Log out" title="Log out" onClick={() => setLeaving(true)}>
            <Leave />
          </button>
        </header>
        {chat.current === null && <Note chat={chat} />}
        <People chat={chat} />
      </div>
      {chat.current === null ? (
        <div class="pane is-empty">
          <p>Choose somebody to write to.</p>
        </div>
      ) : (
        <ConversationView key={chat.current} chat={chat} name={chat.current} />
      )}
      <p class="hidden" role="status">
        {announcement}
      </p>
      {isLeaving && <LogoutDialog chat={chat} logout={logout} stay={() => setLeaving(false)} />}
    </main>
  );
}

const CONNECTIONS: Record<Chat["connection"], string> = {
  connecting: "Connecting…",
  online: "Online",
  lost: "No connection",
};

function useAddress(chat: Chat): void {
  useLayoutEffect(() => {
    const read = (): void => chat.open(conversationAt(location.hash));
    read();
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, [chat]);
}

/** What arrives in the open conversation is read only while the page is looked at. */
function useAttention(chat: Chat): void {
  useEffect(() => {
    const look = (): void => chat.watch(document.visibilityState === "visible" && document.hasFocus());
    look();
    const events = ["focus", "blur", "visibilitychange"];
    for (const event of events) addEventListener(event, look);
    return () => {
      for (const event of events) removeEventListener(event, look);
    };
  }, [chat]);
}

/** For screen readers: messages of conversations that are not open. Those of the open one are read by its log. */
function useAnnouncement(chat: Chat): string {
  const [announcement, announce] = useState("");
  const last = useRef("");
  useEffect(() => {
    chat.arrived = ({ conversation, from, text }: Message) => {
      if (conversation === chat.current) return;
      const where = conversation === EVERYBODY ? " to everybody" : "";
      // The same text again would not be read.
      const words = `${from === "" ? "The operator" : from}${where}: ${shownText(text)}`;
      last.current = words === last.current ? `${words} ` : words;
      announce(last.current);
    };
  }, [chat]);
  return announcement;
}
