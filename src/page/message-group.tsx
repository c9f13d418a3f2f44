/** Messages of one sender. All texts of users become text nodes. */
import type { Chat } from "./chat.ts";
import { EVERYBODY, type Message } from "./conversations.ts";
import type { Group } from "./groups.ts";
import { shownText, textParts } from "./text.ts";
import { clock } from "./times.ts";
import { explainState } from "./words.ts";

export function MessageGroup({ chat, messages, day, isNew }: Group & { chat: Chat }) {
  const { from, state, conversation } = messages[0]!;
  const isOwn = state !== null;
  return (
    <>
      {day !== null && <h3 class="day">{day}</h3>}
      {isNew && <p class="new">New</p>}
      <div class={isOwn ? "group is-own" : "group"}>
        <p class={conversation === EVERYBODY && !isOwn ? "from" : "hidden"}>
          {isOwn ? "You" : from === "" ? "The operator" : from}
        </p>
        {messages.map((message) => (
          <Bubble key={message.id} chat={chat} message={message} />
        ))}
      </div>
    </>
  );
}

function Bubble({ chat, message }: { chat: Chat; message: Message }) {
  const state = explainState(message);
  const isFailed = message.state === "refused" || message.state === "unknown";
  return (
    <div class={isFailed ? "bubble is-failed" : "bubble"}>
      <p class="text" dir="auto">
        {textParts(shownText(message.text)).map(({ text, href }) =>
          href === null ? text : <Link text={text} href={href} />,
        )}
      </p>
      <p class="meta">
        <time dateTime={new Date(message.timeMs).toISOString()}>{clock(message.timeMs)}</time>
        {state !== null && (
          <span class={`state is-${message.state}`} title={state.words}>
            <span aria-hidden="true"> {state.sign}</span>
            <span class="hidden">, {state.words}</span>
          </span>
        )}
      </p>
      {isFailed && (
        <p class="failure">
          {state!.words[0]!.toUpperCase()}
          {state!.words.slice(1)}.{" "}
          <button class="link" onClick={() => chat.sayAgain(message)}>
            Send again
          </button>{" "}
          <button class="link" onClick={() => chat.remove(message)}>
            Remove
          </button>
        </p>
      )}
    </div>
  );
}

function Link({ text, href }: { text: string; href: string }) {
  return (
    <a href={href} target="_blank" rel="noopener noreferrer">
      {text}
    </a>
  );
}
