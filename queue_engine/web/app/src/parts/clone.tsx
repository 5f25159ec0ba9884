// A copy of a task, with another input or without its webhook. The server makes it, because only the server has the
// headers and the key of the webhook.

import type { ComponentChildren } from "preact";
import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, send, type TaskDetail } from "../api.ts";
import { ErrorNotice, Foreign } from "./common.tsx";
import { MAX_EDITED, copyBody, faultOf } from "../copies.ts";
import { forgetDraft, useDraft } from "../drafts.ts";
import { PAYLOADS, viewUrl } from "../place.ts";
import { countText, sizeText } from "../times.ts";

/** Return the name of the draft that says if the dialog of a task is open. A session that ends takes it from the page. */
export function cloningDraft(task: TaskDetail["task"]): string {
  return `copying ${task.endpointId} ${task.taskId}`;
}

type Source = "same" | "edited" | "file";

export function CloneDialog({ detail: { task, input, isInputCut }, close }: { detail: TaskDetail; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { route } = useLocation();
  const draft = `input of the copy of ${task.endpointId} ${task.taskId}`;
  const [edited, setEdited] = useDraft<string | null>(draft, null);
  const [source, setSource] = useState<Source>(edited === null ? "same" : "edited");
  const text = edited ?? input;
  const [file, setFile] = useState<File | null>(null);
  const [sends, setSends] = useState(true);
  const [fault, setFault] = useState<string | null>(null);
  const [refusal, setRefusal] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const id = useRef(newId());
  useEffect(() => dialog.current?.showModal(), []);
  const isHidden = PAYLOADS === "never";
  const isLarge = isInputCut || input.length > MAX_EDITED;
  const edit = (value: string) => { setEdited(value); setFault(null); };
  const leave = () => { if (source === "same") forgetDraft(draft); close(); };
  const begin = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setRefusal(null);
    try {
      const given = source === "same" ? null : source === "edited" ? text : file === null ? "" : await file.text();
      const wrong = given === null ? null : faultOf(given);
      setFault(wrong);
      if (wrong === null) {
        // The id makes a repeated request harmless, as after a lost connection.
        const made = await send<{ taskId: string }>("POST", ["serverless", task.endpointId, "tasks", task.taskId, "clone"], copyBody(id.current, given, sends));
        forgetDraft(draft);
        close();
        route(viewUrl("tasks", task.endpointId, made.taskId));
        return;
      }
    } catch (caught) {
      setRefusal(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
    setBusy(false);
  };
  return (
    <dialog ref={dialog} class="card wide" onClose={leave} aria-labelledby="clone-title">
      <form class="body stack" onSubmit={(event) => void begin(event)}>
        <h2 id="clone-title">Submit a copy of <span class="mono"><Foreign text={task.taskId} limit={80} /></span></h2>
        <fieldset class="pick stack tight">
          <legend>Input of the copy</legend>
          <Choice value="same" chosen={source} choose={setSource}>the same{isHidden ? "" : `, ${sizeText(task.inputBytes)}`}</Choice>
          {isLarge || isHidden ? null : <Choice value="edited" chosen={source} choose={setSource}>edited here</Choice>}
          <Choice value="file" chosen={source} choose={setSource}>from a file</Choice>
          {isLarge && !isHidden ? <span class="muted">More than {countText(MAX_EDITED)} characters are not edited here: download the input, change it, and choose the file.</span> : null}
        </fieldset>
        {source === "edited" ? <textarea class="field code" rows={12} spellcheck={false} aria-label="Input of the copy, as JSON" value={text} onInput={(event) => edit(event.currentTarget.value)} /> : null}
        {source === "file" ? <input class="field" type="file" accept=".json,application/json" aria-label="File with the input, as JSON" onChange={(event) => { setFile(event.currentTarget.files?.[0] ?? null); setFault(null); }} /> : null}
        {task.webhook === null ? null : (
          <label><input type="checkbox" checked={sends} onChange={() => setSends(!sends)} /> Send its result to <span class="mono"><Foreign text={task.webhook} limit={120} /></span></label>
        )}
        {fault ? <div class="note bad" role="alert"><div><b>The input is not JSON.</b> <Foreign text={fault} limit={200} /></div></div> : null}
        {refusal ? <ErrorNotice error={refusal} /> : null}
        <div class="row">
          <button class="btn main" type="submit" aria-disabled={busy ? "true" : undefined}>Submit the copy</button>
          <button class="btn" type="button" onClick={leave}>Close</button>
        </div>
      </form>
    </dialog>
  );
}

function Choice({ value, chosen, choose, children }: { value: Source; chosen: Source; choose: (value: Source) => void; children: ComponentChildren }) {
  return <label><input type="radio" name="source" value={value} checked={chosen === value} onChange={() => choose(value)} /> {children}</label>;
}

function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
