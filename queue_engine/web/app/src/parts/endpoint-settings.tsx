// The settings of an endpoint: the form that a new endpoint has, filled with what is stored, and the difference before it is saved.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, getTagged, patch, type Worker } from "../api.ts";
import { type Change, changesOf, type Stored, clashes, editingOf, type Editing, followed, mayClash, patchOf, settingText, storedOf, valuesNeeded, variablesText, workersReplaced } from "../changes.ts";
import { useDraft } from "../drafts.ts";
import { bodyOf, type FieldErrors, fieldErrors, type Setting, type Values } from "../new-endpoint.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { countText } from "../times.ts";
import { Action, Card, Foreign, Notice, Read } from "./common.tsx";
import { Broken, type Catalogue, labelOf, NO_ERRORS, Request, SettingFields } from "./endpoint-form.tsx";
import { JsonTree } from "./tree.tsx";

const SHOWN_WORKERS = 12;

interface Props {
  endpoint: Endpoint;
  workers: Worker[];
  again: () => void;
}

export function EndpointSettings(props: Props) {
  const catalogue = usePolled("catalogue", 0, (signal) => get<Catalogue>(["catalogue"], {}, signal));
  return <Read from={catalogue} lines={8}>{(known) => <Form {...props} catalogue={known} />}</Read>;
}

type Told = { kind: "none" } | { kind: "saved"; replaced: number } | { kind: "clash"; names: string[] } | { kind: "hidden" } | { kind: "refused"; error: ApiError };

function Form({ endpoint, workers, again, catalogue }: Props & { catalogue: Catalogue }) {
  const settings = catalogue.settings as Setting[];
  const stored = storedOf(endpoint, settings);
  const [form, setForm] = useDraft<Editing>(`settings of ${endpoint.id}`, editingOf(stored));
  const [told, tell] = useState<Told>({ kind: "none" });
  const element = useRef<HTMLFormElement>(null);
  // A view that was read before the latest change can still arrive after it.
  const isBehind = stored.at >= form.at && JSON.stringify(stored.body) !== JSON.stringify(form.base);
  useEffect(() => { if (isBehind) setForm((before) => followed(before, stored, settings)); }, [isBehind, stored.at]);
  useEffect(() => element.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus(), [told]);
  const typed = bodyOf(form.values, settings);
  const changes = changesOf(typed, form.base, settings);
  const needed = valuesNeeded(form.values);
  const replaced = changes.some((one) => one.setting.renewsWorkers) ? workersReplaced(endpoint, workers) : [];
  const errors = told.kind === "refused" ? fieldErrors(told.error.message, settings.map((one) => one.name)) : NO_ERRORS;
  const set = (change: Partial<Values>) => {
    if (told.kind === "saved") tell({ kind: "none" });
    setForm((before) => ({ ...before, values: { ...before.values, ...change } }));
  };
  const discard = () => { setForm(editingOf(stored)); tell({ kind: "none" }); };
  const path = ["serverless", endpoint.id];
  const tellClash = (latest: Stored) => {
    setForm((before) => ({ ...followed(before, latest, settings), at: latest.at }));
    tell({ kind: "clash", names: clashes(form, latest, settings) });
  };
  const save = async () => {
    try {
      const { data, tag } = await getTagged<Endpoint>(path);
      const latest = storedOf(data, settings);
      if (clashes(form, latest, settings).length > 0) return tellClash(latest);
      if (mayClash(form, latest, changes)) {
        setForm((before) => ({ ...followed(before, latest, settings), at: latest.at }));
        return tell({ kind: "hidden" });
      }
      const made = await patch<Endpoint>(path, JSON.stringify(patchOf(typed, changes)), tag);
      // What was typed since the request began is kept.
      setForm((before) => ({ ...followed({ ...before, base: typed }, storedOf(made, settings), settings), theirs: [] }));
      tell({ kind: "saved", replaced: replaced.length });
      again();
    } catch (caught) {
      const error = caught instanceof ApiError ? caught : new ApiError(-1, String(caught));
      if (error.status !== 412) return tell({ kind: "refused", error });
      await get<Endpoint>(path).then((found) => tellClash(storedOf(found, settings)), () => tell({ kind: "refused", error }));
    }
  };
  const because = changes.length === 0 ? "Nothing is changed" : needed.length > 0 ? `Type the value of ${needed.join(", ")}, or restore the name` : null;
  return (
    <form class="side" ref={element} onSubmit={(event) => event.preventDefault()}>
      <div class="stack">
        <Theirs form={form} mine={changes} />
        <SettingFields values={form.values} set={set} errors={errors} catalogue={catalogue} isChange />
        <Difference changes={changes} />
        {changes.length === 0 ? null : <Consequence endpoint={endpoint} changes={changes} replaced={replaced} />}
        {needed.length > 0 ? <Notice tone="warn">A stored value belongs to the name of its variable, and is never returned. Type the value of <Foreign text={needed.join(", ")} limit={300} />, or restore the name.</Notice> : null}
        <Outcome told={told} errors={errors} />
        <div class="row">
          <Action right="manage" kind="main" act={save} because={because}>Save</Action>
          {changes.length === 0 ? null : <button class="btn" type="button" onClick={discard}>Discard the changes</button>}
          <span class="muted">{changes.length === 0 ? "Nothing is changed." : `${countText(changes.length)} ${changes.length === 1 ? "setting is" : "settings are"} changed.`}</span>
        </div>
      </div>
      <aside class="stack">
        {changes.length === 0 ? null : <Request method="PATCH" path={`/v2/serverless/${endpoint.id}`} body={patchOf(typed, changes)} />}
        <details><summary>As the API returns it</summary><div class="card body"><JsonTree text={JSON.stringify(endpoint)} open /></div></details>
      </aside>
    </form>
  );
}

/** What others have changed since something was typed here. */
function Theirs({ form, mine }: { form: Editing; mine: Change[] }) {
  if (form.theirs.length === 0) return null;
  const both = form.theirs.filter((one) => mine.some((other) => other.setting.name === one.setting.name));
  return (
    <Notice tone="warn">
      <b>Changed elsewhere since you began:</b>{" "}
      {form.theirs.map((one, index) => <span key={one.setting.name}>{index > 0 ? "; " : ""}{labelOf(one.setting.name)}, <Foreign text={settingText(one.setting.name, one.before)} limit={120} /> → <Foreign text={settingText(one.setting.name, one.after)} limit={120} /></span>)}.{" "}
      {both.length === 0 ? "What you have typed is kept." : `You have changed ${both.map((one) => labelOf(one.setting.name)).join(", ")} too: saving writes your value.`}
    </Notice>
  );
}

function Difference({ changes }: { changes: Change[] }) {
  if (changes.length === 0) return null;
  return (
    <Card id="difference" title="Difference">
      <div class="wrap" tabIndex={0} role="region" aria-label="Difference">
        <table>
          <thead><tr><th scope="col">Setting</th><th scope="col">Stored</th><th scope="col">New</th><th scope="col">Workers</th></tr></thead>
          <tbody>{changes.map((one) => <Row key={one.setting.name} change={one} />)}</tbody>
        </table>
      </div>
    </Card>
  );
}

function Row({ change: { setting, before, after, isCleared } }: { change: Change }) {
  const next = setting.name === "environmentVars" ? variablesText(before, after) : settingText(setting.name, after);
  return (
    <tr>
      <th scope="row">{labelOf(setting.name)}</th>
      <td><Foreign text={settingText(setting.name, before)} limit={300} /></td>
      <td><b><Foreign text={next} limit={300} /></b>{isCleared && after !== null ? <span class="muted"> (default)</span> : null}</td>
      <td>{setting.renewsWorkers ? "replaced" : setting.name === "workers" ? "scaled" : <span class="muted">stay</span>}</td>
    </tr>
  );
}

/** What saving does to the workers. */
function Consequence({ endpoint, changes, replaced }: { endpoint: Endpoint; changes: Change[]; replaced: Worker[] }) {
  const scaled = changes.find((one) => one.setting.name === "workers");
  const more = scaled === undefined ? 0 : Number(scaled.after) - Number(scaled.before);
  const renews = changes.some((one) => one.setting.renewsWorkers);
  const isOff = endpoint.status === "STOPPED" || endpoint.status === "STOPPING";
  return (
    <Notice tone={replaced.length > 0 ? "warn" : "info"}>
      {!renews ? "No worker is replaced." : replaced.length === 0 ? "No worker runs now. Those that start later use the new settings." : (
        <>
          <b>{replaced.length === 1 ? "1 worker is replaced" : `${countText(replaced.length)} workers are replaced, one at a time`}:</b>{" "}
          {replaced.slice(0, SHOWN_WORKERS).map((one, index) => <span key={one.workerId}>{index > 0 ? ", " : ""}<a href={viewUrl("workers", endpoint.id, one.workerId)}><Foreign text={one.workerId} limit={63} /></a></span>)}
          {replaced.length > SHOWN_WORKERS ? ` and ${countText(replaced.length - SHOWN_WORKERS)} more` : ""}. Running tasks finish within the grace period or are queued again. Agents that were started by hand stay.
        </>
      )}
      {isOff || !Number.isFinite(more) || more === 0 ? "" : more > 0 ? ` ${countText(more)} more ${more === 1 ? "starts" : "start"}.` : ` ${countText(-more)} ${more === -1 ? "stops" : "stop"}, idle ones first.`}
    </Notice>
  );
}

function Outcome({ told, errors }: { told: Told; errors: FieldErrors }) {
  switch (told.kind) {
    case "none": return null;
    case "saved": return <Notice tone="info"><b>Saved.</b>{told.replaced > 0 ? " Workers are replaced now, one at a time." : ""}</Notice>;
    case "clash": return (
      <Notice tone="bad">
        <b>Not saved.</b>{" "}
        {told.names.length === 0 ? "The endpoint was changed elsewhere a moment ago. What you have typed is kept: save again." : `${told.names.map(labelOf).join(", ")} ${told.names.length === 1 ? "was" : "were"} changed elsewhere a moment ago. Look at the difference, and save again to write your value.`}
      </Notice>
    );
    case "hidden": return <Notice tone="bad"><b>Not saved.</b> The endpoint was changed elsewhere since you began, perhaps values of its environment, which are never shown. Save again to write yours.</Notice>;
    case "refused": return <Refusal error={told.error} errors={errors} />;
  }
}

function Refusal({ error, errors }: { error: ApiError; errors: FieldErrors }) {
  if (error.status === 0) return <Notice tone="bad"><b>It is not known whether this was saved.</b> <Foreign text={error.message} /> Saving again is harmless.</Notice>;
  return <Notice tone="bad"><b>Not saved.</b> {errors.byField.size === 0 ? <Foreign text={error.message} /> : <Broken errors={errors} />}</Notice>;
}
