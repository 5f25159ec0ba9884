import { useRef, useState } from "preact/hooks";
import { ApiError, logIn } from "../api.ts";
import { Foreign, Notice, Title } from "../parts/common.tsx";
import { Brand } from "../parts/shell.tsx";
import { keepSession } from "../session.ts";

/** The form for an API key. `because` says why somebody who had a session must log in again. */
export function Login({ because, done }: { because: string | null; done: () => void }) {
  const field = useRef<HTMLInputElement>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      keepSession(await logIn({ apiKey: field.current?.value.trim() ?? "" }));
      done();
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
      setBusy(false);
    }
  };
  return (
    <main class="login" id="main">
      <Title text="Log in" />
      <Brand />
      <form class="card body stack" onSubmit={(event) => void submit(event)}>
        <h1>Log in</h1>
        {because ? <Notice tone="info">{because}</Notice> : null}
        <div>
          <label for="key">API key</label>
          <input id="key" ref={field} class="field mono" type="password" autocomplete="current-password" spellcheck={false} required autofocus aria-describedby="key-hint" />
          <p class="hint" id="key-hint">It is sent once, and not kept here. <code>queue-engine console --open</code> logs in without it.</p>
        </div>
        {error ? <Notice tone="bad"><Foreign text={error.message} /></Notice> : null}
        <div><button class="btn main" type="submit" disabled={busy}>Log in</button></div>
      </form>
    </main>
  );
}
