import { useEffect, useRef } from "preact/hooks";
import type { Chat } from "./chat.ts";
import { count } from "./words.ts";

/** Asks before the logout, because that deletes the messages in this browser. */
export function LogoutDialog({ chat, logout, stay }: { chat: Chat; logout: () => void; stay: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current!.showModal(), []);
  const unsent = chat.conversations.waiting.length;
  return (
    <dialog ref={dialog} aria-labelledby="leave-title" aria-describedby="leave-text" onClose={stay}>
      <h2 id="leave-title">Log out?</h2>
      <p id="leave-text">
        The messages in this browser are deleted. The server has no copy of them.
        {unsent > 0 && <strong> {count(unsent, "message")} not sent yet will be lost.</strong>}
      </p>
      <div class="buttons">
        <button class="plain" onClick={() => dialog.current!.close()}>
          Cancel
        </button>
        <button class="primary" onClick={logout}>
          Log out
        </button>
      </div>
    </dialog>
  );
}
