// Parts of all views: times, texts of others, buttons, and the states of data that is read.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../api.ts";
import { shortened, visible } from "../hostile.ts";
import type { Polled } from "../polled.ts";
import { can, neededRole, now, zone } from "../state.ts";
import { fullText, timeText } from "../times.ts";

const SKELETON_MS = 150;
const SHOWN_CHARACTERS = 2000;

export function Title({ text }: { text: string }) {
  useEffect(() => { document.title = `${text} · queue-engine`; }, [text]);
  return null;
}

export function Time({ at }: { at: number | null }) {
  if (at === null) return <span class="muted">–</span>;
  return <time class="nowrap" title={fullText(at, zone.value, now.value)}>{timeText(at, zone.value, now.value)}</time>;
}

/** Text of others, which is shown and never run. */
export function Foreign({ text, limit = SHOWN_CHARACTERS }: { text: string; limit?: number }) {
  const { text: shown, more } = shortened(text, limit);
  return <bdi>{visible(shown)}{more > 0 ? <span class="muted"> … {more} more characters</span> : null}</bdi>;
}

interface ActionProps {
  right: string;
  act: () => Promise<void>;
  children: ComponentChildren;
  kind?: "main" | "danger" | undefined;
  /** Why the action is not possible now; null while it is. */
  because?: string | null;
}

/** A button that calls the API. Without the right it stays visible, and says which role it needs. */
export function Action({ right, act, children, kind, because = null }: ActionProps) {
  const [busy, setBusy] = useState(false);
  const refused = can(right) ? because : `Needs a key with the role ${neededRole(right)}`;
  const press = async () => {
    if (busy || refused !== null) return;
    setBusy(true);
    try {
      await act();
    } finally {
      setBusy(false);
    }
  };
  return (
    <button class={`btn ${kind ?? ""}`} type="button" aria-disabled={refused !== null || busy ? "true" : undefined} aria-busy={busy} title={refused ?? undefined} onClick={() => void press()}>
      {children}{refused === null ? null : <span class="vh">: {refused}</span>}
    </button>
  );
}

export function Notice({ tone, children }: { tone: "info" | "warn" | "bad"; children: ComponentChildren }) {
  return <div class={`note ${tone}`} role={tone === "bad" ? "alert" : "status"}><div>{children}</div></div>;
}

export function ErrorNotice({ error, again }: { error: ApiError; again?: () => void }) {
  const what = error.status === 403 ? "You may not see this" : error.status === 404 ? "Not found" : "This could not be read";
  return (
    <Notice tone="bad">
      <b>{what}.</b> <Foreign text={error.message} /> {again && error.status !== 403 ? <button class="btn" type="button" onClick={again}>Try again</button> : null}
    </Notice>
  );
}

/** Show data, a skeleton before there is any, and what went wrong beside data that is kept. */
export function Read<T>({ from, children, lines = 3, gone }: { from: Polled<T>; children: (data: T) => ComponentChildren; lines?: number; gone?: ComponentChildren }) {
  if (from.data === null) {
    if (from.error === null) return <Skeleton lines={lines} />;
    return from.error.status === 404 && gone ? <>{gone}</> : <ErrorNotice error={from.error} again={from.again} />;
  }
  if (from.error?.status === 404 && gone) return <>{gone}</>;
  return (
    <>
      {from.error ? <Notice tone="warn">As of {timeText(from.asOf + now.value - Date.now(), zone.value, now.value)}: <Foreign text={from.error.message} /> <button class="btn" type="button" onClick={from.again}>Try again</button></Notice> : null}
      {children(from.data)}
    </>
  );
}

export function Skeleton({ lines }: { lines: number }) {
  const [late, setLate] = useState(false);
  useEffect(() => {
    const timer = window.setTimeout(() => setLate(true), SKELETON_MS);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div class="skeleton" aria-busy="true" aria-label="Loading">
      {late ? Array.from({ length: lines }, (_, index) => <div key={index} class="bone" />) : null}
    </div>
  );
}

export function Empty({ children }: { children: ComponentChildren }) {
  return <div class="body muted empty">{children}</div>;
}

export function Card({ title, aside, children, id }: { title: string; aside?: ComponentChildren; children: ComponentChildren; id: string }) {
  return (
    <section class="card" aria-labelledby={id}>
      <header><h2 id={id}>{title}</h2><div class="row">{aside}</div></header>
      {children}
    </section>
  );
}

export function CopyButton({ text, children }: { text: () => string; children: ComponentChildren }) {
  const [done, setDone] = useState<boolean | null>(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      setDone(true);
    } catch {
      setDone(false);
    }
    window.setTimeout(() => setDone(null), 2000);
  };
  const word = done === null ? children : done ? "Copied" : "Cannot copy here";
  return <button class="btn" type="button" onClick={() => void copy()}><span aria-live="polite">{word}</span></button>;
}

interface ConfirmProps {
  question: ComponentChildren;
  yes: string;
  act: () => Promise<void>;
  close: () => void;
  /** The text that must be typed first, such as the name of what is deleted. */
  typed?: string;
}

/** A question before something that cannot be undone. */
export function Confirm({ question, yes, act, close, typed }: ConfirmProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const [text, setText] = useState("");
  const isReady = typed === undefined || text.trim() === typed;
  useEffect(() => dialog.current?.showModal(), []);
  const press = async (event: Event) => {
    event.preventDefault();
    if (!isReady || busy) return;
    setBusy(true);
    try {
      await act();
      close();
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} class="card" onClose={close} aria-label={yes}>
      <form class="body stack" onSubmit={(event) => void press(event)}>
        <div>{question}</div>
        {typed === undefined ? null : (
          <div>
            <label for="confirm-typed">Type <Foreign text={typed} limit={300} /> to confirm</label>
            <input id="confirm-typed" class="field" autocomplete="off" autocapitalize="off" spellcheck={false} autofocus value={text} onInput={(event) => setText(event.currentTarget.value)} />
          </div>
        )}
        {error ? <ErrorNotice error={error} /> : null}
        <div class="row">
          <button class="btn danger" type="submit" disabled={busy} aria-disabled={isReady ? undefined : "true"}>{yes}</button>
          <button class="btn" type="button" autofocus={typed === undefined} onClick={close}>Keep it</button>
        </div>
      </form>
    </dialog>
  );
}

/** Errors of actions of a view, shown until the next one. */
export function useActions(again: () => void) {
  const [error, setError] = useState<ApiError | null>(null);
  const run = (call: () => Promise<unknown>) => async () => {
    setError(null);
    try {
      await call();
      again();
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  return { run, error: error ? <Notice tone="bad"><b>Not done.</b> <Foreign text={error.message} /></Notice> : null };
}
