import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Attempt, type DeliveryAttempt, get, getTask, send, type Task, type TaskDetail, type Waiting } from "../api.ts";
import { CloneDialog, cloningDraft } from "../parts/clone.tsx";
import { Action, Card, Confirm, CopyButton, Empty, Foreign, Read, Time, Title, useActions } from "../parts/common.tsx";
import { DeliveryState, State, TaskState } from "../parts/shapes.tsx";
import { Payload } from "../parts/payload.tsx";
import { Timeline } from "../parts/timeline.tsx";
import { useDraft } from "../drafts.ts";
import { listQuery } from "../filters.ts";
import { useKeys } from "../keys.ts";
import { can, me, now } from "../state.ts";
import { BASE, PAYLOADS, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { countText, lengthText, sizeText } from "../times.ts";

interface Life {
  attempts: Attempt[];
  deliveries: DeliveryAttempt[];
}

/** The topic of a task: all but its input and output. */
interface Told extends Life {
  task: TaskDetail["task"];
}

/** Read a task and all that is known about its life: often while something happens to it, rarely after. */
export function useTask(endpoint: string, task: string) {
  const [settled, setSettled] = useState(false);
  const path = ["serverless", endpoint, "tasks", task];
  const topic = `task:${endpoint}:${task}`;
  const detail = usePolled<TaskDetail>(`${endpoint} ${task}`, settled ? 15_000 : 1500, async (signal) => {
    const found = await getTask(endpoint, task, signal);
    setSettled(isSettled(found.task));
    return found;
  }, { name: topic, take: (event, before) => (before === null ? null : { ...before, task: (event as Told).task }) });
  const life = usePolled<Life>(`life ${endpoint} ${task}`, settled ? 15_000 : 1500, async (signal) => {
    const [attempts, deliveries] = await Promise.all([
      get<Attempt[]>([...path, "attempts"], {}, signal),
      get<DeliveryAttempt[]>([...path, "deliveries"], {}, signal),
    ]);
    return { attempts, deliveries };
  }, { name: topic, take: (event) => event as Told });
  // The output is not in the events: it is read when the task has ended, or runs again.
  const state = detail.data?.task.finishedAt ?? null;
  const known = useRef<number | null | undefined>(undefined);
  useEffect(() => {
    if (known.current !== undefined && known.current !== state) detail.again();
    known.current = detail.data === null ? undefined : state;
  }, [state, detail.data === null]);
  const again = () => { setSettled(false); detail.again(); life.again(); };
  return { detail, life, again };
}

/** Return true if nothing happens to the task any more by itself. */
function isSettled(task: Task): boolean {
  const isTold = task.webhook === null || task.deliveryStatus === "SUCCESS" || task.deliveryStatus === "MAX_RETRIES_EXCEEDED";
  return task.finishedAt !== null && isTold;
}

export function TaskScreen({ endpoint = "", task = "" }: { endpoint?: string; task?: string }) {
  const { detail, life, again } = useTask(endpoint, task);
  const keptUntil = detail.data?.task.purgeAt ?? null;
  const gone = (
    <>
      <h1 class="mono"><Foreign text={task} limit={255} /></h1>
      <Empty>{keptUntil === null ? "There is no such task, or this key does not see it. An ended task is kept for a time that its endpoint's settings say, then removed." : <Kept until={keptUntil} />} <a href={viewUrl("tasks") + listQuery(endpoint)}>Tasks of the endpoint</a></Empty>
    </>
  );
  return (
    <>
      <Title text={`Task ${task}`} />
      <Read from={detail} gone={gone} lines={10}>
        {(found) => (
          <>
            <Head detail={found} again={again} />
            {found.task.error ? <div class="note bad"><div><b>Why it failed.</b> <code><Foreign text={found.task.error} limit={2000} /></code></div></div> : null}
            {found.task.waiting ? <Why waiting={found.task.waiting} endpoint={String(found.task.endpointId)} /> : null}
            <div class="side">
              <div class="stack">
                <Read from={life} lines={4}>{({ attempts, deliveries }) => <Timeline task={found.task} attempts={attempts} deliveries={deliveries} />}</Read>
                <div class="grid2">
                  <Payload id="input" title="Input" text={found.input} isCut={found.isInputCut} bytes={found.task.inputBytes} path={["serverless", endpoint, "tasks", task]} empty="No input." />
                  <Payload id="output" title="Output" text={found.output} isCut={found.isOutputCut} bytes={found.task.outputBytes ?? 0} path={["serverless", endpoint, "tasks", task]} empty={found.task.finishedAt === null ? "The task has not ended." : "The task has no output, or its output is null."} />
                </div>
              </div>
              <aside class="stack"><Facts task={found.task} /></aside>
            </div>
          </>
        )}
      </Read>
    </>
  );
}

/** Says until when a task was kept that has been shown and is gone. */
function Kept({ until }: { until: number }) {
  if (now.value < until) return <>The task was to be kept until <Time at={until} />. It was removed before.</>;
  return <>The task was kept until <Time at={until} />, and then removed with its data.</>;
}

function Head({ detail, again }: { detail: TaskDetail; again: () => void }) {
  const { task } = detail;
  const { run, error } = useActions(again);
  const { route } = useLocation();
  const [deleting, setDeleting] = useState(false);
  const [cloning, setCloning] = useDraft(cloningDraft(task), false);
  const path = ["serverless", task.endpointId, "tasks", task.taskId];
  const hasEnded = task.finishedAt !== null;
  const order = (right: string, word: string) => () => { if (can(right)) void run(() => send("POST", [...path, word]))(); };
  useKeys({ ...(hasEnded ? { r: order("operate", "retry") } : { c: order("cancel", "cancel") }) });
  const list = viewUrl("tasks") + listQuery(task.endpointId);
  return (
    <>
      <div class="row spread">
        <div class="row"><a href={viewUrl("tasks")}>Tasks</a><span class="muted">/</span><a href={list}><Foreign text={task.endpointName} limit={80} /></a><span class="muted">/</span><h1 class="mono"><Foreign text={task.taskId} limit={255} /></h1><TaskState task={task} /></div>
        <div class="row">
          <CopyButton text={() => curlOf(task)}>Copy as curl</CopyButton>
          <Action right="submit" act={async () => setCloning(true)}>Clone…</Action>
          {hasEnded
            ? <Action right="operate" kind={task.status === "FAILED" ? "main" : undefined} act={run(() => send("POST", [...path, "retry"]))}>Retry</Action>
            : <Action right="cancel" kind="danger" act={run(() => send("POST", [...path, "cancel"]))} because={task.cancelRequested ? "Cancellation was requested already" : null}>Cancel</Action>}
          {hasEnded && task.webhook !== null ? <Action right="operate" act={run(() => send("POST", [...path, "deliveries", "redeliver"]))}>Send again</Action> : null}
          {hasEnded ? <Action right="manage" kind="danger" act={async () => setDeleting(true)}>Delete…</Action> : null}
        </div>
      </div>
      {error}
      {cloning ? <CloneDialog detail={detail} close={() => setCloning(false)} /> : null}
      {deleting ? <Confirm question={<>Remove the task <b class="mono"><Foreign text={task.taskId} limit={255} /></b> with its input and output? This cannot be undone.</>} yes="Remove the task" close={() => setDeleting(false)} act={async () => { await send("DELETE", path); route(list); }} /> : null}
    </>
  );
}

const CALM = new Set(["NEXT", "ALL_BUSY", "SCHEDULED", "BACKOFF", "WORKERS_STARTING", "RATE_LIMIT", "KEY_LIMIT"]);

function Why({ waiting, endpoint }: { waiting: Waiting; endpoint: string }) {
  const isCalm = CALM.has(waiting.code);
  return (
    <Card id="why" title="Why is it waiting?" aside={<span class="muted">as of <Time at={waiting.asOf} /></span>}>
      <div class="body stack tight">
        <div class={`note ${isCalm ? "info" : "bad"}`}>
          <State tone={isCalm ? "queued" : "failed"}>{waiting.code}</State>
          <div>
            <b><Foreign text={waiting.message} limit={600} /></b>{" "}
            {waiting.until === null ? null : <>Until <Time at={waiting.until} />. </>}
            {waiting.etaSeconds === null ? null : <>Its turn comes in about {lengthText(waiting.etaSeconds * 1000)}; this is an estimate. </>}
            <a href={viewUrl("endpoints", endpoint)}>Open the endpoint</a>
          </div>
        </div>
      </div>
    </Card>
  );
}

function Facts({ task }: { task: TaskDetail["task"] }) {
  const headers = Object.entries(task.headers);
  const tags = (task.tags ?? []) as string[];
  const metadata = Object.entries(task.metadata ?? {});
  const [showsHeaders, setShowsHeaders] = useState(PAYLOADS === "show");
  return (
    <Card id="facts" title="Facts">
      <div class="body">
        <dl class="facts">
          <dt>Endpoint</dt><dd><a href={viewUrl("endpoints", task.endpointId)}><Foreign text={task.endpointName} limit={80} /></a> ({task.endpointId})</dd>
          <dt>Priority</dt><dd>{task.priority}</dd>
          <dt>Fairness key</dt><dd class="mono">{task.fairnessKey === null ? <span class="muted">none</span> : <Foreign text={task.fairnessKey} limit={40} />}</dd>
          <dt>Created</dt><dd><Time at={task.createdAt} /></dd>
          {task.runAt === null ? null : <><dt>Not before</dt><dd><Time at={task.runAt} /></dd></>}
          <dt>Started</dt><dd><Time at={task.startedAt} /></dd>
          <dt>Finished</dt><dd><Time at={task.finishedAt} /></dd>
          {task.nextAttemptAt === null ? null : <><dt>Next attempt</dt><dd><Time at={task.nextAttemptAt} /></dd></>}
          {task.expiresAt === null ? null : <><dt>Expires</dt><dd><Time at={task.expiresAt} /></dd></>}
          {task.purgeAt === null ? null : <><dt>Kept until</dt><dd><Time at={task.purgeAt} /></dd></>}
          <dt>Attempts</dt><dd>{task.attempts}</dd>
          {task.runs > 1 ? <><dt>Runs</dt><dd>{countText(task.runs)}, with retries by hand</dd></> : null}
          {task.lost + task.connectionsLost > 0 ? <><dt>Lost</dt><dd>{lostText(task)}</dd></> : null}
          {task.suspect ? <><dt>Suspect</dt><dd>attempts lost their worker or connection, so it may crash its worker and runs alone</dd></> : null}
          <dt>Worker</dt><dd class="mono">{task.workerId === null ? <span class="muted">none yet</span> : <a href={viewUrl("workers", task.endpointId, task.workerId)}><Foreign text={task.workerId} limit={63} /></a>}</dd>
          <dt>Request</dt><dd class="mono"><Foreign text={`POST :${task.workerPort}${task.processUri}`} limit={300} /></dd>
          {task.workerUrl === null ? null : <><dt>Sent to</dt><dd class="mono"><Foreign text={task.workerUrl} limit={300} /></dd></>}
          <dt>Sizes</dt><dd>input {sizeText(task.inputBytes)}{task.outputBytes === null ? "" : `, output ${sizeText(task.outputBytes)}`}</dd>
          <dt>Time limit</dt><dd>{task.executionTimeoutSeconds} s an attempt</dd>
          <dt>Queue limit</dt><dd>{task.queueTtlSeconds === null ? <span class="muted">none</span> : `${task.queueTtlSeconds} s`}</dd>
          <dt>Webhook</dt><dd class="mono">{task.webhook === null ? <span class="muted">none</span> : <Foreign text={task.webhook} limit={300} />}</dd>
          {task.webhook === null ? null : <><dt>Delivery</dt><dd><DeliveryState task={task} /> {task.deliveryAttempts === 1 ? "1 attempt" : `${task.deliveryAttempts} attempts`}</dd></>}
          {task.deliveryError ? <><dt>Given up</dt><dd><Foreign text={task.deliveryError} limit={300} /></dd></> : null}
          {task.nextDeliveryAt === null ? null : <><dt>Next delivery</dt><dd><Time at={task.nextDeliveryAt} /></dd></>}
          {task.deliveredAt === null ? null : <><dt>Delivered</dt><dd><Time at={task.deliveredAt} /></dd></>}
          {task.traceId === null ? null : <><dt>Trace</dt><dd class="mono"><Trace id={task.traceId} /></dd></>}
          {tags.length === 0 ? null : <><dt>Tags</dt><dd>{tags.map((tag) => <div key={tag}><a href={viewUrl("tasks") + listQuery(task.endpointId, { tag })}><Foreign text={tag} limit={64} /></a></div>)}</dd></>}
          {metadata.length === 0 ? null : <><dt>Metadata</dt><dd>{metadata.map(([name, value]) => <div key={name}><code><Foreign text={`${name}: ${value}`} limit={300} /></code></div>)}</dd></>}
          <dt>Headers</dt><dd>{!showsHeaders && PAYLOADS === "hidden" && headers.length > 0 ? <button class="btn" type="button" onClick={() => setShowsHeaders(true)}>Show {headers.length}</button> : PAYLOADS === "never" ? <span class="muted">kept out of the console</span> : headers.length === 0 ? <span class="muted">none</span> : headers.map(([name, value]) => <div key={name}><code><Foreign text={`${name}: ${value}`} limit={300} /></code></div>)}</dd>
        </dl>
      </div>
    </Card>
  );
}

/** The id of the trace, as a link where the installation says how traces are found. */
function Trace({ id }: { id: string }) {
  const template = me.value?.traceUrl ?? null;
  const shown = <Foreign text={id} limit={64} />;
  return template === null ? shown : <a href={template.replaceAll("{traceId}", encodeURIComponent(id))} target="_blank" rel="noopener noreferrer">{shown}<span class="vh">: open the trace in a new tab</span></a>;
}

/** Return how many attempts lost what, as `2 workers, 1 connection`. */
function lostText(task: TaskDetail["task"]): string {
  const counted = (count: number, word: string) => (count === 0 ? [] : [`${count} ${word}${count === 1 ? "" : "s"}`]);
  return [...counted(task.lost, "worker"), ...counted(task.connectionsLost, "connection")].join(", ");
}

/** Return a command that reads the task. A command that submits it again would need its secrets, which only the server has. */
function curlOf(task: Task): string {
  const url = `${location.origin}${BASE.replace(/\/console$/, "")}/v2/serverless/${task.endpointId}/tasks/${encodeURIComponent(task.taskId)}`;
  return `curl -s ${quoted(url)} -H "X-Api-Key: $QUEUE_ENGINE_API_KEY"`;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
