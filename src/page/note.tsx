import type { Chat } from "./chat.ts";

/** The sentence about the connection or the last request. Its place is always there, so that screen readers read it. */
export function Note({ chat }: { chat: Chat }) {
  return (
    <div class={`note-place is-${chat.connection}`} role="status">
      {chat.note !== "" && <p class="note">{chat.note}</p>}
    </div>
  );
}
