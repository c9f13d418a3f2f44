/** The page of the chat: starts it, and draws it again when something has changed. */
import { render } from "preact";
import { useEffect, useReducer } from "preact/hooks";
import { ChatView } from "./chat-view.tsx";
import { Elsewhere, LoginForm, Starting } from "./login-form.tsx";
import { Page } from "./page.ts";

const { protocol, host } = location;
const page = new Page(`${protocol === "https:" ? "wss" : "ws"}://${host}/chat`);

function App() {
  const [, draw] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    page.changed = () => draw(undefined);
    void page.start();
  }, []);
  const { screen } = page;
  switch (screen.kind) {
    case "starting":
      return <Starting />;
    case "login":
      return <LoginForm key={screen.user} {...screen} login={(user, password) => void page.login(user, password)} />;
    case "elsewhere":
      return (
        <Elsewhere user={screen.user} useHere={() => page.takeOver(screen.user)} useAnother={() => page.ask("")} />
      );
    case "chat":
      return <ChatView key={screen.chat.user} chat={screen.chat} logout={() => void page.logout()} />;
  }
}

render(<App />, document.getElementById("app")!);
