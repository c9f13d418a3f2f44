/** The field for the next message. A line is a message: pasted lines become several. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "./chat.ts";
import { EVERYBODY, requestOf } from "./conversations.ts";
import { Send } from "./icons.tsx";
import { excessBytes, typedLines } from "./text.ts";
import { count } from "./words.ts";

/** Texts that were typed and not sent, by conversation. */
const drafts = new Map<string, string>();
const ROWS_MAX = 6;

interface Props {
  chat: Chat;
  name: string;
  title: string;
}

export function Composer({ chat, name, title }: Props) {
  const key = `${chat.user} ${name}`;
  const [text, setText] = useState(drafts.get(key) ?? "");
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) field.current!.focus();
  }, []);
  const change = (typed: string): void => {
    drafts.set(key, typed);
    setText(typed);
  };
  const lines = typedLines(text);
  const excess = Math.max(0, ...lines.map((line) => excessBytes(requestOf({ conversation: name, text: line }))));
  const isReady = lines.length > 0 && excess === 0;
  const send = (): void => {
    if (!isReady) return;
    for (const line of lines) chat.say(name, line);
    change("");
    field.current!.focus();
  };
  const label = name === EVERYBODY ? "Write to everybody" : `Write to ${title}`;
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <label class="hidden" for="composer">
        {label}
      </label>
      <div class="field">
        <textarea
          id="composer"
          ref={field}
          rows={Math.min(text.split("\n").length, ROWS_MAX)}
          value={text}
          placeholder={label}
          enterkeyhint="send"
          dir="auto"
          onInput={({ currentTarget }) => change(currentTarget.value)}
          onKeyDown={(event) => {
            // Input methods for Chinese, Japanese and Korean use Enter to choose a word.
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <button class="send" aria-label="Send" aria-disabled={!isReady}>
          <Send />
        </button>
      </div>
      <p class="hint" role="status">
        {excess > 0
          ? `A line is too long by ${count(excess, "byte")}.`
          : lines.length > 1 && `Each line is a message: ${count(lines.length, "message")}.`}
      </p>
    </form>
  );
}
