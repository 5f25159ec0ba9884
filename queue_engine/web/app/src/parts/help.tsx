import { useEffect, useRef } from "preact/hooks";
import { hasKeys, setKeys } from "../keys.ts";
import { viewUrl } from "../place.ts";

const KEYS: [string[], string][] = [
  [["Ctrl K"], "find an endpoint, a task, a worker or a view, or do something: cancel hello_1, pause whisper, go to keys"],
  [["/"], "add a filter"],
  [["g", "o"], "overview; then e endpoints, t tasks, d deliveries, w workers, b bulk operations, k keys, c credentials, a audit log, s system"],
  [["j"], "next row"],
  [["k"], "row before"],
  [["Enter"], "open the row"],
  [["x"], "select the row; Shift x all from the last selected one"],
  [["*"], "select all on the page"],
  [["r"], "retry the task, or those that are selected"],
  [["c"], "cancel the task, or those that are selected"],
  [["l"], "pause what is live, or go on"],
  [["Esc"], "close, or clear the selection"],
  [["?"], "this help"],
];

export function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="card" onClose={close} aria-labelledby="help">
      <div class="body stack">
        <h2 id="help">Keys</h2>
        <dl class="facts">{KEYS.map(([keys, words]) => <><dt>{keys.map((key) => <><kbd>{key}</kbd> </>)}</dt><dd>{words}</dd></>)}</dl>
        <div><label><input type="checkbox" checked={hasKeys.value} onChange={(event) => setKeys(event.currentTarget.checked)} /> Single keys work</label></div>
        <p class="muted">The first steps can be seen again under <a href={viewUrl("start")} onClick={close}>First task</a>.</p>
        <div><button class="btn" type="button" autofocus onClick={() => dialog.current?.close()}>Close</button></div>
      </div>
    </dialog>
  );
}
