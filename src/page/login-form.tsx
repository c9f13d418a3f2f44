/** The screens without a chat: the login, the start, and a user whom another page shows. */
import { useEffect, useRef, useState } from "preact/hooks";
import { Mark } from "./icons.tsx";

interface LoginProps {
  user: string;
  reason: string;
  isBusy: boolean;
  login: (user: string, password: string) => void;
}

export function LoginForm({ user, reason, isBusy, login }: LoginProps) {
  const [name, setName] = useState(user);
  const [password, setPassword] = useState("");
  const nameField = useRef<HTMLInputElement>(null);
  const passwordField = useRef<HTMLInputElement>(null);
  // After a refusal the password is typed again.
  useEffect(() => {
    if (!isBusy) (name === "" ? nameField : passwordField).current?.select();
  }, [isBusy, reason]);
  const isComplete = name.trim() !== "" && password !== "";
  return (
    <main class="card">
      <Brand />
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (isComplete && !isBusy) login(name.trim(), password);
        }}
      >
        <label for="name">Name</label>
        <input
          id="name"
          ref={nameField}
          value={name}
          autocomplete="username"
          autocapitalize="none"
          spellcheck={false}
          required
          onInput={({ currentTarget }) => setName(currentTarget.value)}
        />
        <label for="password">Password</label>
        <input
          id="password"
          ref={passwordField}
          type="password"
          value={password}
          autocomplete="current-password"
          required
          aria-describedby="reason"
          onInput={({ currentTarget }) => setPassword(currentTarget.value)}
        />
        <p id="reason" class="reason" role="alert">
          {reason}
        </p>
        <button class="primary" aria-disabled={isBusy || !isComplete}>
          {isBusy ? "Logging in…" : "Log in"}
        </button>
      </form>
      <p class="hint">The operator of this server gives out names and passwords.</p>
    </main>
  );
}

export function Elsewhere({
  user,
  useHere,
  useAnother,
}: {
  user: string;
  useHere: () => void;
  useAnother: () => void;
}) {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => button.current?.focus(), []);
  return (
    <main class="card">
      <Brand />
      <p role="status">
        The chat of <strong>{user}</strong> is open in another tab.
      </p>
      <button class="primary" ref={button} onClick={useHere}>
        Use it here
      </button>
      <button class="plain" onClick={useAnother}>
        Log in as another user
      </button>
    </main>
  );
}

export function Starting() {
  return (
    <main class="card starting" aria-busy="true">
      <Brand />
    </main>
  );
}

function Brand() {
  return (
    <h1 class="brand">
      <Mark />
      Heartline
    </h1>
  );
}
