// From nothing to a first task that has succeeded, by calls of the public API only.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, send, type Template, type Worker } from "../api.ts";
import { curlText } from "../curl.ts";
import { useDraft } from "../drafts.ts";
import { AgentCommand } from "../parts/agent-command.tsx";
import { Action, CopyButton, Empty, ErrorNotice, Foreign, Notice, Read, Title, useActions } from "../parts/common.tsx";
import { EndpointForm } from "../parts/later.tsx";
import { PlatformState, TaskState } from "../parts/shapes.tsx";
import { TemplateChoice } from "../parts/template-choice.tsx";
import { Timeline } from "../parts/timeline.tsx";
import { API_ORIGIN, BASE, PAYLOADS, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { lengthText } from "../times.ts";
import { useTask } from "./task.tsx";
import { endOf } from "../scan.ts";

const ENDPOINT_MS = 1000;
const MANY = 100;
const LOG_LINES = 12;

/** The first endpoint, and when it was created by the store's clock. */
interface First {
  id: string;
  template: string;
  at: number;
}

export function StartScreen() {
  const templates = usePolled("templates", 0, (signal) => get<Template[]>(["templates"], {}, signal));
  const [first, setFirst] = useDraft<First | null>("first endpoint", null);
  const [task, setTask] = useDraft<string | null>("first task", null);
  return (
    <>
      <Title text="First task" />
      <div class="stack tight"><h1>Run your first task</h1><p class="muted">Three steps, about a minute. All of it is the public API, and each step shows its <code>curl</code>.</p></div>
      <Read from={templates}>
        {(all) => {
          const template = all.find((one) => one.id === first?.template) ?? all[0];
          if (template === undefined) return <Notice tone="bad">The API has no template.</Notice>;
          return (
            <div class="steps">
              <EndpointStep templates={all} first={first} created={(id, name) => { setFirst({ id, template: name, at: now.value }); setTask(null); }} again={() => { setFirst(null); setTask(null); }} />
              <TaskStep key={template.id} template={template} endpoint={first?.id ?? null} isDone={task !== null} submitted={setTask} />
              <LifeStep template={template} endpoint={first?.id ?? null} task={task} submitted={setTask} />
            </div>
          );
        }}
      </Read>
    </>
  );
}

function Step({ number, isDone, title, aside, children }: { number: number; isDone: boolean; title: string; aside?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section class="card" aria-labelledby={`step-${number}`}>
      <div class={`body step ${isDone ? "done" : ""}`}>
        <span class="no">{isDone ? <>✓<span class="vh"> done</span></> : number}</span>
        <div class="stack tight"><div class="row spread"><h2 id={`step-${number}`}>{title}</h2>{aside}</div>{children}</div>
      </div>
    </section>
  );
}

function EndpointStep({ templates, first, created, again }: { templates: Template[]; first: First | null; created: (id: string, template: string) => void; again: () => void }) {
  const [chosen, choose] = useDraft("first template", templates[0]?.id ?? "");
  const { run, error } = useActions(() => undefined);
  const template = templates.find((one) => one.id === (first?.template ?? chosen)) ?? templates[0]!;
  const body = JSON.stringify(template.endpoint);
  const isExample = template.id === "example-worker";
  const create = run(async () => created((await send<{ id: string }>("POST", ["serverless"], body)).id, template.id));
  const aside = first !== null ? <button class="btn" type="button" onClick={again}>Another endpoint</button> : isExample ? <CopyButton text={() => curlText(API_ORIGIN, "POST", "/v2/serverless", body)}>Copy as curl</CopyButton> : null;
  return (
    <Step number={1} isDone={first !== null} title="An endpoint: what runs your tasks" aside={aside}>
      {first !== null ? <><Progress first={first} />{template.agentCommand === null ? null : <AgentCommand template={template} endpoint={first.id} />}</> : (
        <>
          <TemplateChoice templates={templates} chosen={template.id} choose={choose} />
          {isExample
            ? <div class="row"><Action right="manage_tenant" kind="main" act={create}>Create the endpoint</Action><span class="muted">2 workers of <code>python -m queue_engine.example_worker</code></span></div>
            : <EndpointForm template={template} created={(id) => created(id, template.id)} name="first" />}
          {error}
        </>
      )}
    </Step>
  );
}

/** The new endpoint until it runs; the error and the log of its workers when they do not come up. */
function Progress({ first }: { first: First }) {
  const { id } = first;
  const ready = useRef<number | null>(null);
  const shown = usePolled(`start ${id}`, ENDPOINT_MS, async (signal) => {
    const [one, workers] = await Promise.all([get<Endpoint>(["serverless", id], {}, signal), get<Worker[]>(["serverless", id, "workers"], {}, signal)]);
    return { one, workers };
  });
  return (
    <Read from={shown} lines={1} gone={<Notice tone="warn">The endpoint {id} was deleted.</Notice>}>
      {({ one, workers }) => {
        const broken = workers.find((worker) => worker.error !== null);
        const log = broken ?? workers[0];
        const isUp = one.totalWorkers > 0 && one.runningWorkers >= one.totalWorkers;
        if (isUp) ready.current ??= now.value - first.at;
        return (
          <>
            <Notice tone={one.status === "FAILED" ? "bad" : "info"}>
              <PlatformState status={one.status} /> <b><a href={viewUrl("endpoints", one.id)}><Foreign text={one.name} limit={80} /></a></b>: {one.runningWorkers} of {one.totalWorkers} workers run{isUp && ready.current !== null ? `, after ${lengthText(ready.current)}` : ""}.{" "}
              {broken?.error ? <code><Foreign text={broken.error} limit={300} /></code> : null} {log ? <a href={viewUrl("workers", one.id, log.workerId)}>A worker's log</a> : null}
            </Notice>
            {broken ? <LogTail endpoint={id} worker={broken.workerId} /> : null}
          </>
        );
      }}
    </Read>
  );
}

function LogTail({ endpoint, worker }: { endpoint: string; worker: string }) {
  const shown = usePolled(`log ${worker}`, 3000, (signal) => get<{ logs: { timestamp: string; log: string; offset: number }[] }>(["serverless", endpoint, "workers", worker, "logs"], { direction: "Backward", pageSize: LOG_LINES }, signal));
  if (PAYLOADS !== "show" || shown.data === null) return null;
  const lines = shown.data.logs.toReversed();
  if (lines.length === 0) return <p class="hint">It has written no line.</p>;
  return <pre class="log" tabIndex={0} aria-label="The latest lines of the worker's log">{lines.map((line) => <div key={`${line.timestamp} ${line.offset}`}><Foreign text={line.log} limit={500} /></div>)}</pre>;
}

/** What is typed of the first task. */
interface Typed {
  input: string;
  path: string;
  port: string;
  webhook: string;
  timeout: string;
  id: string;
}

function typedOf(template: Template): Typed {
  const { input, processUri, workerPort } = template.task;
  return { input: JSON.stringify(input, null, 2), path: String(processUri), port: String(workerPort), webhook: "", timeout: "", id: "" };
}

function TaskStep({ template, endpoint, isDone, submitted }: { template: Template; endpoint: string | null; isDone: boolean; submitted: (id: string) => void }) {
  const [typed, setTyped] = useDraft<Typed>(`task ${template.id}`, typedOf(template));
  const [error, setError] = useState<ApiError | null>(null);
  const fault = faultOf(typed.input);
  const submit = (times: number) => async () => {
    setError(null);
    try {
      submitted(await submitTasks(endpoint ?? "", typed, times));
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  const because = endpoint === null ? "Create the endpoint first" : fault;
  return (
    <Step number={2} isDone={isDone} title="A task: one JSON value" aside={<CopyButton text={() => curlText(API_ORIGIN, "POST", `/v2/serverless/${endpoint ?? "ENDPOINT"}/tasks`, bodyOf(typed))}>Copy as curl</CopyButton>}>
      <label for="task-input">Input</label>
      <textarea
        id="task-input" class="field" spellcheck={false} aria-describedby="input-hint" aria-invalid={fault !== null} value={typed.input}
        onInput={(event) => setTyped({ ...typed, input: event.currentTarget.value })}
        onKeyDown={(event) => { if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && because === null) void submit(1)(); }}
      />
      <p class="hint" id="input-hint">{fault ?? <>POSTed as it is to <code><Foreign text={typed.path} limit={255} /></code> of one worker. Big numbers keep their digits.</>}</p>
      <TaskFields typed={typed} change={(more) => setTyped({ ...typed, ...more })} />
      <div class="row">
        <Action right="submit" kind="main" act={submit(1)} because={because}>Submit <kbd>Ctrl Enter</kbd></Action>
        <Action right="submit" act={submit(MANY)} because={because}>Submit {MANY}</Action>
      </div>
      {error ? <ErrorNotice error={error} /> : null}
    </Step>
  );
}

function TaskFields({ typed, change }: { typed: Typed; change: (more: Partial<Typed>) => void }) {
  const field = (name: keyof Typed, label: string, placeholder = "") => (
    <div><label for={`task-${name}`}>{label}</label><input id={`task-${name}`} class="field" spellcheck={false} value={typed[name]} placeholder={placeholder} onInput={(event) => change({ [name]: event.currentTarget.value })} /></div>
  );
  return (
    <details id="task-fields">
      <summary>Path, port, webhook, timeout, id</summary>
      <div class="grid2 more">
        {field("path", "Path")}{field("port", "Port")}{field("webhook", "Webhook", "https://…, gets the result")}{field("timeout", "Timeout in seconds", "that of the endpoint")}{field("id", "Id", "a new one")}
      </div>
    </details>
  );
}

function LifeStep({ template, endpoint, task, submitted }: { template: Template; endpoint: string | null; task: string | null; submitted: (id: string) => void }) {
  return (
    <Step number={3} isDone={false} title="Its life, as it happens">
      {endpoint === null || task === null ? <Empty>It begins with the first task.</Empty> : <Life key={task} template={template} endpoint={endpoint} task={task} submitted={submitted} />}
    </Step>
  );
}

function Life({ template, endpoint, task, submitted }: { template: Template; endpoint: string; task: string; submitted: (id: string) => void }) {
  const { detail, life } = useTask(endpoint, task);
  return (
    <Read from={detail} gone={<Notice tone="warn">The task is no longer kept, or its endpoint was deleted.</Notice>}>
      {(found) => (
        <>
          <div class="row"><TaskState task={found.task} /> <a class="mono" href={viewUrl("tasks", endpoint, task)}><Foreign text={task} limit={255} /></a></div>
          <Read from={life}>{({ attempts, deliveries }) => <Timeline task={found.task} attempts={attempts} deliveries={deliveries} />}</Read>
          {found.task.finishedAt === null ? null : <Next template={template} endpoint={endpoint} task={task} submitted={submitted} />}
        </>
      )}
    </Read>
  );
}

/** What can be tried next, each by one click. */
function Next({ template, endpoint, task, submitted }: { template: Template; endpoint: string; task: string; submitted: (id: string) => void }) {
  const { run, error } = useActions(() => undefined);
  const [shows, setShows] = useState<"python" | "curl" | null>(null);
  const isExample = template.id === "example-worker";
  const give = (input: unknown) => run(async () => submitted(await submitTasks(endpoint, { ...typedOf(template), input: JSON.stringify(input) }, 1)));
  const text = shows === "curl" ? curlText(API_ORIGIN, "POST", `/v2/serverless/${endpoint}/tasks?wait=30`, bodyOf(typedOf(template))) : pythonText(template, endpoint);
  const addWebhook = () => {
    const details = document.getElementById("task-fields") as HTMLDetailsElement | null;
    if (details) details.open = true;
    document.getElementById("task-webhook")?.focus();
  };
  return (
    <section class="stack tight" aria-label="Next">
      <h3>Next</h3>
      <div class="row">
        <button class="btn" type="button" onClick={addWebhook}>Add a webhook</button>
        <button class="btn" type="button" aria-pressed={shows === "python"} onClick={() => setShows(shows === "python" ? null : "python")}>From Python</button>
        <button class="btn" type="button" aria-pressed={shows === "curl"} onClick={() => setShows(shows === "curl" ? null : "curl")}>From curl</button>
        {isExample ? <Action right="submit" act={give({ fail: "no model" })}>Make it fail</Action> : null}
        {isExample ? <Action right="submit" act={give({ exit: true })}>Kill a worker while it runs</Action> : null}
      </div>
      {error}
      {shows === null ? null : <><pre class="log" tabIndex={0} aria-label="The same as a program"><Foreign text={text} limit={4000} /></pre><div><CopyButton text={() => text}>Copy</CopyButton></div></>}
      <p><a href={viewUrl("tasks", endpoint, task)}>Open the task</a> · <a href={viewUrl("tasks")}>All tasks</a> · <a href={BASE}>Overview</a></p>
      {isExample ? <p class="muted">A worker that is killed comes up again, and its task begins anew on a worker, as often as its endpoint allows.</p> : null}
    </section>
  );
}

/** Submit the task some times. Return the id of the first. */
async function submitTasks(endpoint: string, typed: Typed, times: number): Promise<string> {
  const path = ["serverless", endpoint, "tasks"];
  const { taskId } = await send<{ taskId: string }>("POST", path, bodyOf(typed));
  const rest = bodyOf({ ...typed, id: "" });
  for (let sent = 1; sent < times; sent += 10) await Promise.all(Array.from({ length: Math.min(10, times - sent) }, () => send("POST", path, rest)));
  return taskId;
}

/** Return the body of a submission with the input as it was typed. What is no number stays text, for the API to refuse. */
function bodyOf({ input, path, port, webhook, timeout, id }: Typed): string {
  const fields = {
    ...(id === "" ? {} : { taskId: id }), workerPort: numberIn(port), processUri: path,
    ...(webhook === "" ? {} : { webhook }), ...(timeout === "" ? {} : { executionTimeoutSeconds: numberIn(timeout) }),
  };
  return `${JSON.stringify(fields).slice(0, -1)}, "input": ${input.trim()}}`;
}

function numberIn(text: string): number | string {
  return /^\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : text;
}

function pythonText(template: Template, endpoint: string): string {
  const { input, processUri, workerPort } = template.task;
  return `# pip install /path/to/clone (of the engine's repository)
from queue_engine.client import Client

client = Client("${API_ORIGIN}")  # the key is in QUEUE_ENGINE_API_KEY
task = client.endpoint("${endpoint}", port=${Number(workerPort)}).submit(${pythonValue(input)}, path=${JSON.stringify(processUri)})
print(task.result(timeout=60))
`;
}

function pythonValue(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value as object).map(([name, one]) => `${JSON.stringify(name)}: ${pythonValue(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}

function faultOf(text: string): string | null {
  const value = text.trim();
  if (value === "") return "An input is needed: any JSON value.";
  try {
    JSON.parse(value);
    return endOf(value, 0) === value.length ? null : "Only one JSON value.";
  } catch (error) {
    return error instanceof Error ? error.message : "This is not JSON.";
  }
}
