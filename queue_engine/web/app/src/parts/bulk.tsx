// A bulk operation before it begins: what it would change is counted first, by the API, and shown with samples.

import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, type Operation, type Schemas, send, type Task } from "../api.ts";
import { ErrorNotice, Foreign } from "./common.tsx";
import { type Filters, FILTERS, NAMES, shownValue } from "../filters.ts";
import { TaskState } from "./shapes.tsx";
import { viewUrl } from "../place.ts";
import { now, zone } from "../state.ts";
import { countText } from "../times.ts";

export interface Order {
  endpoint: Pick<Endpoint, "id" | "name">;
  action: Operation["action"];
  target: { filter: Filters } | { taskIds: string[] };
}

/** From this number of tasks on, the number must be typed; for deletions always. */
const TYPED_FROM = 1000;
const SAMPLES = 5;
const POLL_MS = 400;

export const VERBS: Record<Operation["action"], { ask: string; done: string; doing: string }> = {
  retry: { ask: "Retry", done: "retried", doing: "Retrying" },
  cancel: { ask: "Cancel", done: "cancelled", doing: "Cancelling" },
  delete: { ask: "Delete", done: "deleted", doing: "Deleting" },
  redeliver: { ask: "Send again", done: "sent again", doing: "Sending again" },
};

export const SKIPS: Record<string, string> = {
  notFound: "do not exist any more", newer: "were submitted later", notEnded: "have not ended", ended: "have ended already",
  changed: "no longer match", requested: "are being cancelled already",
  noWebhook: "have no webhook", due: "are being sent already",
};

export function BulkDialog({ order, close }: { order: Order; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { route } = useLocation();
  const { preview, samples, error } = usePreview(order);
  const [typed, setTyped] = useState("");
  const [refusal, setRefusal] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const id = useRef(operationId());
  useEffect(() => dialog.current?.showModal(), []);
  const verb = VERBS[order.action];
  const count = preview?.status === "done" ? preview.done : null;
  const isTyped = count !== null && (order.action === "delete" || count > TYPED_FROM);
  const isReady = count !== null && count > 0 && (!isTyped || typed.replaceAll(",", "").trim() === String(count));
  const begin = async (event: Event) => {
    event.preventDefault();
    if (!isReady || busy) return;
    setBusy(true);
    try {
      // The id makes a repeated request harmless, as after a lost connection.
      const begun = await send<Operation>("POST", ["serverless", order.endpoint.id, "operations"], bodyOf(order, { operationId: id.current }));
      close();
      route(viewUrl("bulk", order.endpoint.id, begun.operationId));
    } catch (caught) {
      setRefusal(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} class="card" onClose={close} aria-labelledby="bulk-title">
      <form class="body stack" onSubmit={(event) => void begin(event)}>
        <h2 id="bulk-title">{verb.ask}{order.action === "redeliver" ? ": results of " : " "}tasks of <Foreign text={order.endpoint.name} limit={80} /></h2>
        <Target order={order} />
        <div role="status">
          {error ? <ErrorNotice error={error} /> : preview === null || preview.status === "running" ? <Counting preview={preview} /> : <Preview preview={preview} verb={verb} />}
        </div>
        {samples.length > 0 && count !== 0 ? <Samples tasks={samples} /> : null}
        {isTyped && count > 0 ? (
          <div>
            <label for="typed">Type {countText(count)} to {verb.ask.toLowerCase()} so many tasks{order.action === "delete" ? ". This cannot be undone" : ""}</label>
            <input id="typed" class="field narrow" inputMode="numeric" autocomplete="off" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
          </div>
        ) : null}
        {refusal ? <ErrorNotice error={refusal} /> : null}
        <div class="row">
          <button class={`btn ${order.action === "delete" ? "danger" : "main"}`} type="submit" aria-disabled={!isReady || busy ? "true" : undefined}>{verb.ask}{count === null ? "" : ` ${countText(count)}`}</button>
          <button class="btn" type="button" autofocus onClick={close}>Close</button>
        </div>
      </form>
    </dialog>
  );
}

function Target({ order: { target } }: { order: Order }) {
  if ("taskIds" in target) return <p class="muted">{countText(target.taskIds.length)} selected {target.taskIds.length === 1 ? "task" : "tasks"}.</p>;
  return <p><FilterWords filters={target.filter} /></p>;
}

export function FilterWords({ filters }: { filters: Filters }) {
  const given = NAMES.filter((one) => filters[one] !== undefined);
  return <span class="row">{given.map((name) => <span class="token" key={name}><Foreign text={`${FILTERS[name].word}:${shownValue(name, String(filters[name]), zone.value, now.value)}`} limit={80} /></span>)}</span>;
}

function Counting({ preview }: { preview: Operation | null }) {
  return <span class="muted">Counting … {preview === null ? "" : `${countText(preview.matched)} match so far, ${Math.round(preview.progress * 100)} % looked at`}</span>;
}

function Preview({ preview, verb }: { preview: Operation; verb: { done: string } }) {
  if (preview.status !== "done") return <span>The count ended as {preview.status}{preview.error ? <>: <Foreign text={preview.error} limit={300} /></> : null}.</span>;
  return (
    <>
      <b>{countText(preview.done)}</b> of {countText(preview.matched)} that match would be {verb.done}. <SkipWords operation={preview} />
      <span class="muted"> Tasks that are submitted from now on are not touched.</span>
    </>
  );
}

export function SkipWords({ operation }: { operation: Operation }) {
  const reasons = Object.entries(operation.skipReasons ?? {}).filter(([, count]) => count > 0);
  if (operation.skipped === 0) return null;
  return <span>{countText(operation.skipped)} skipped{reasons.length === 0 ? "" : ": "}{reasons.map(([reason, count]) => `${countText(count)} ${SKIPS[reason] ?? reason}`).join(", ")}.</span>;
}

function Samples({ tasks }: { tasks: Task[] }) {
  return (
    <div class="wrap" tabIndex={0} role="region" aria-label="Samples">
      <table>
        <caption class="vh">Samples</caption>
        <tbody>{tasks.map((one) => <tr key={one.taskId}><td class="mono"><Foreign text={one.taskId} limit={40} /></td><td><TaskState task={one} /></td><td class="clip mono">{one.error ? <Foreign text={one.error} limit={120} /> : null}</td></tr>)}</tbody>
      </table>
    </div>
  );
}

/** Let the API count the tasks, without a change. A dialog that is closed ends the count. */
function usePreview(order: Order): { preview: Operation | null; samples: Task[]; error: ApiError | null } {
  const [preview, setPreview] = useState<Operation | null>(null);
  const [samples, setSamples] = useState<Task[]>([]);
  const [error, setError] = useState<ApiError | null>(null);
  useEffect(() => {
    let isOpen = true;
    let begun: Operation | null = null;
    const path = ["serverless", order.endpoint.id, "operations"];
    const count = async () => {
      begun = await send<Operation>("POST", path, bodyOf(order, { dryRun: true }));
      while (isOpen && begun.status === "running") {
        setPreview(begun);
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        begun = await get<Operation>([...path, begun.operationId]);
      }
      if (isOpen) setPreview(begun);
    };
    const sample = async () => {
      if (!("filter" in order.target)) return;
      const page = await get<Schemas["TaskCursorPageView"]>(["serverless", order.endpoint.id, "tasks"], { ...order.target.filter, cursor: "", pageSize: SAMPLES });
      if (isOpen) setSamples(page.items);
    };
    const failed = (caught: unknown) => { if (isOpen) setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught))); };
    count().catch(failed);
    sample().catch(failed);
    return () => {
      isOpen = false;
      if (begun?.status === "running") void send("POST", [...path, begun.operationId, "cancel"]).catch(() => null);
    };
  }, []);
  return { preview, samples, error };
}

function bodyOf(order: Order, more: object): string {
  return JSON.stringify({ action: order.action, ...order.target, ...more });
}

function operationId(): string {
  return [...crypto.getRandomValues(new Uint8Array(10))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
