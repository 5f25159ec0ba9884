// From nothing to a first task that has succeeded, by calls of the public API only.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, send, type Task, type Template, type Worker } from "../api.ts";
import { Action, Card, CopyButton, Empty, ErrorNotice, Foreign, Notice, Read, Title } from "../parts/common.tsx";
import { PlatformState, TaskState } from "../parts/shapes.tsx";
import { Timeline } from "../parts/timeline.tsx";
import { BASE, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { useTask } from "./task.tsx";
import { endOf } from "../scan.ts";

const ENDPOINT_MS = 1000;
const MANY = 100;

export function StartScreen() {
  const templates = usePolled("templates", 0, (signal) => get<Template[]>(["templates"], {}, signal));
  const [endpoint, setEndpoint] = useState<string | null>(null);
  const [task, setTask] = useState<string | null>(null);
  return (
    <>
      <Title text="First task" />
      <div class="stack tight"><h1>Run your first task</h1><p class="muted">Three steps, about a minute. All of it is the public API, and each step shows its <code>curl</code>.</p></div>
      <Read from={templates}>
        {(all) => (
          <div class="steps">
            <EndpointStep templates={all} endpoint={endpoint} created={(id) => { setEndpoint(id); setTask(null); }} />
            <TaskStep template={all[0] ?? null} endpoint={endpoint} isDone={task !== null} submitted={setTask} />
            <LifeStep endpoint={endpoint} task={task} />
          </div>
        )}
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

function EndpointStep({ templates, endpoint, created }: { templates: Template[]; endpoint: string | null; created: (id: string) => void }) {
  const [kind, setKind] = useState(templates.length > 0 ? "example" : "own");
  const [error, setError] = useState<ApiError | null>(null);
  const text = useRef<HTMLTextAreaElement>(null);
  const example = templates[0];
  const body = example ? JSON.stringify(example.endpoint) : "";
  const create = async () => {
    setError(null);
    try {
      const asked = kind === "example" ? body : (text.current?.value ?? "");
      created((await send<{ id: string }>("POST", ["serverless"], asked)).id);
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  const choice = (name: string, title: string, words: string, isOff = false) => (
    <label class={kind === name ? "on" : ""}>
      <input type="radio" name="kind" checked={kind === name} disabled={isOff} onChange={() => setKind(name)} /> <b>{title}</b><br /><span class="muted">{words}</span>
    </label>
  );
  return (
    <Step number={1} isDone={endpoint !== null} title="An endpoint: what runs your tasks" aside={<CopyButton text={() => curl("POST", "/v2/serverless", kind === "example" ? body : (text.current?.value ?? ""))}>Copy as curl</CopyButton>}>
      {endpoint !== null ? <Progress endpoint={endpoint} /> : (
        <>
          <fieldset class="pick">
            <legend class="muted">Start with</legend>
            {choice("example", "Example worker", example ? "comes with queue-engine; waits a moment, logs, and echoes" : "only where workers are processes, with `queue-engine up`", !example)}
            {choice("own", "My command or image", "any HTTP server: a command or a container")}
            {choice("running", "A server that runs already", "an agent beside it takes the tasks")}
          </fieldset>
          {kind === "own" ? <OwnEndpoint field={text} /> : null}
          {kind === "running" ? <RunningServer /> : (
            <div class="row"><Action right="manage_tenant" kind="main" act={create}>Create the endpoint</Action>{kind === "example" ? <span class="muted">2 workers of <code>python -m queue_engine.example_worker</code></span> : null}</div>
          )}
          {error ? <ErrorNotice error={error} /> : null}
        </>
      )}
    </Step>
  );
}

const OWN = `{
  "name": "my-endpoint",
  "image": "registry.example/my-worker:1",
  "initializationCommand": "python serve.py",
  "resources": [{"region": "local", "gpuType": "CPU", "gpuCount": 1}],
  "workers": 1,
  "containerVolumeInGb": 20,
  "expose": {"port": 8000, "protocol": "http"},
  "serviceMode": "QUEUE"
}`;

function OwnEndpoint({ field }: { field: preact.RefObject<HTMLTextAreaElement | null> }) {
  return (
    <div>
      <label for="own">Endpoint</label>
      <textarea id="own" class="field tall" ref={field} spellcheck={false}>{OWN}</textarea>
      <p class="hint">The body of <code>POST /v2/serverless</code>. With the process backend the command is run with a free port in <code>$PORT</code>, and the image is only recorded.</p>
    </div>
  );
}

function RunningServer() {
  const text = 'queue-engine endpoints create --name mine --image none --resource local:CPU --workers 0 --port 8000\nqueue-engine agents --help';
  return (
    <div class="stack tight">
      <p class="muted">Create an endpoint without workers, then start an agent beside your server with a token of the endpoint. The guide “Workers that run already” has the whole command.</p>
      <pre class="log">{text}</pre>
      <div><CopyButton text={() => text}>Copy</CopyButton></div>
    </div>
  );
}

/** The new endpoint until it runs; the errors of its workers when they do not come up. */
function Progress({ endpoint }: { endpoint: string }) {
  const shown = usePolled(`start ${endpoint}`, ENDPOINT_MS, async (signal) => {
    const [one, workers] = await Promise.all([get<Endpoint>(["serverless", endpoint], {}, signal), get<Worker[]>(["serverless", endpoint, "workers"], {}, signal)]);
    return { one, workers };
  });
  return (
    <Read from={shown} lines={1}>
      {({ one, workers }) => {
        const broken = workers.find((worker) => worker.error !== null);
        const log = broken ?? workers[0];
        return (
          <Notice tone={one.status === "FAILED" ? "bad" : "info"}>
            <PlatformState status={one.status} /> <b><a href={viewUrl("endpoints", one.id)}><Foreign text={one.name} limit={80} /></a></b>: {one.runningWorkers} of {one.totalWorkers} workers run.{" "}
            {broken?.error ? <code><Foreign text={broken.error} limit={300} /></code> : null} {log ? <a href={viewUrl("workers", one.id, log.workerId)}>A worker's log</a> : null}
          </Notice>
        );
      }}
    </Read>
  );
}

function TaskStep({ template, endpoint, isDone, submitted }: { template: Template | null; endpoint: string | null; isDone: boolean; submitted: (id: string) => void }) {
  const field = useRef<HTMLTextAreaElement>(null);
  const [fault, setFault] = useState<string | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const task = template?.task ?? { workerPort: 8000, processUri: "/run", input: { prompt: "hello" } };
  const body = () => bodyOf(task, field.current?.value ?? "null");
  const submit = (times: number) => async () => {
    setError(null);
    try {
      const path = ["serverless", endpoint ?? "", "tasks"];
      const { taskId } = await send<{ taskId: string }>("POST", path, body());
      for (let sent = 1; sent < times; sent += 10) await Promise.all(Array.from({ length: Math.min(10, times - sent) }, () => send("POST", path, body())));
      submitted(taskId);
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
    }
  };
  const because = endpoint === null ? "Create the endpoint first" : fault;
  return (
    <Step number={2} isDone={isDone} title="A task: one JSON value" aside={<CopyButton text={() => curl("POST", `/v2/serverless/${endpoint ?? "ENDPOINT"}/tasks`, body())}>Copy as curl</CopyButton>}>
      <label for="task-input">Input</label>
      <textarea
        id="task-input" class="field" ref={field} spellcheck={false} aria-describedby="input-hint" aria-invalid={fault !== null}
        onInput={() => setFault(faultOf(field.current?.value ?? ""))}
        onKeyDown={(event) => { if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && because === null) void submit(1)(); }}
      >{JSON.stringify(task["input"], null, 2)}</textarea>
      <p class="hint" id="input-hint">{fault ?? <>POSTed as it is to <code>{String(task["processUri"])}</code> of one worker. Big numbers keep their digits.</>}</p>
      <div class="row">
        <Action right="submit" kind="main" act={submit(1)} because={because}>Submit <kbd>Ctrl Enter</kbd></Action>
        <Action right="submit" act={submit(MANY)} because={because}>Submit {MANY}</Action>
      </div>
      {error ? <ErrorNotice error={error} /> : null}
    </Step>
  );
}

function LifeStep({ endpoint, task }: { endpoint: string | null; task: string | null }) {
  return (
    <Step number={3} isDone={false} title="Its life, as it happens">
      {endpoint === null || task === null ? <Empty>It begins with the first task.</Empty> : <Life key={task} endpoint={endpoint} task={task} />}
    </Step>
  );
}

function Life({ endpoint, task }: { endpoint: string; task: string }) {
  const { detail, life } = useTask(endpoint, task);
  return (
    <Read from={detail}>
      {(found: { task: Task }) => (
        <>
          <div class="row"><TaskState task={found.task} /> <a class="mono" href={viewUrl("tasks", endpoint, task)}><Foreign text={task} limit={255} /></a></div>
          <Read from={life}>{({ attempts, deliveries }) => <Timeline task={found.task} attempts={attempts} deliveries={deliveries} />}</Read>
          {found.task.finishedAt === null ? null : (
            <Card id="next" title="Next">
              <div class="body">
                <p><a href={viewUrl("tasks", endpoint, task)}>Open the task</a> · <a href={viewUrl("tasks")}>All tasks</a> · <a href={BASE}>Overview</a></p>
                <p class="muted">The input <code>{'{"fail": "no model"}'}</code> makes a task fail, <code>{'{"exit": true}'}</code> ends a worker while it runs: submit one above and see what happens.</p>
              </div>
            </Card>
          )}
        </>
      )}
    </Read>
  );
}

/** Return the body of a submission with the input as it was typed. */
function bodyOf(task: Record<string, unknown>, input: string): string {
  const rest = JSON.stringify({ ...task, input: undefined });
  return `${rest.slice(0, -1)}, "input": ${input.trim()}}`;
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

function curl(method: string, path: string, body: string): string {
  const url = `${location.origin}${BASE.replace(/\/console$/, "")}${path}`;
  return `curl -s -X ${method} '${url}' -H "X-Api-Key: $QUEUE_ENGINE_API_KEY" -H 'Content-Type: application/json' -d '${body.replaceAll("'", "'\\''")}'`;
}
