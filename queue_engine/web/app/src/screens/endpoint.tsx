import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { type Counts, get, type Schemas, send, type Worker } from "../api.ts";
import { Action, Confirm, Empty, Foreign, Notice, Read, Title, useActions } from "../parts/common.tsx";
import { EndpointCharts } from "../parts/endpoint-charts.tsx";
import { EndpointLog } from "../parts/endpoint-log.tsx";
import { GivenUpDeliveries } from "../parts/given-up.tsx";
import { ErrorGroups } from "../parts/errors.tsx";
import { PlatformState, State } from "../parts/shapes.tsx";
import { EndpointSettings } from "../parts/later.tsx";
import { WebhookTest } from "../parts/webhook-test.tsx";
import { WorkersTable } from "../parts/workers-table.tsx";
import { type Filters, listQuery } from "../filters.ts";
import { BASE, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { countText } from "../times.ts";

const TABS = ["overview", "workers", "deliveries", "logs", "settings"] as const;

type Detail = Schemas["EndpointDetailView"];

/** What the views of an endpoint show, as the topic of the endpoint has it. */
interface Known {
  endpoint: Detail;
  counts: Counts;
  workers: Worker[];
}

async function readEndpoint(id: string, signal: AbortSignal): Promise<Known> {
  const path = ["serverless", id];
  const [endpoint, workers] = await Promise.all([get<Detail>(path, {}, signal), get<Worker[]>([...path, "workers"], {}, signal)]);
  return { endpoint, workers, counts: await get<Counts>([...path, "tasks", "count"], {}, signal) };
}

export function EndpointScreen({ endpoint = "", tab = "overview" }: { endpoint?: string; tab?: string }) {
  const shown = usePolled<Known>(endpoint, 3000, (signal) => readEndpoint(endpoint, signal), { name: `endpoint:${endpoint}`, take: (event) => event as Known });
  const gone = <><h1>Endpoint {endpoint}</h1><Empty>There is no such endpoint, or this key does not see it. It may have been deleted. <a href={viewUrl("endpoints")}>Endpoints</a></Empty></>;
  return (
    <>
      <Title text={shown.data?.endpoint.name ?? "Endpoint"} />
      <Read from={shown} gone={gone} lines={8}>
        {({ endpoint: one, counts, workers }) => (
          <>
            <Head endpoint={one} counts={counts} again={shown.again} />
            <nav class="tabs" aria-label="Of the endpoint">
              {TABS.map((name) => <a key={name} href={viewUrl("endpoints", one.id, name)} aria-current={name === tab ? "page" : undefined}>{name[0]!.toUpperCase() + name.slice(1)}</a>)}
              {one.serviceMode === "QUEUE" ? <a href={viewUrl("tasks") + listQuery(one.id)}>Tasks</a> : null}
            </nav>
            <Tab name={tab} endpoint={one} counts={counts} workers={workers} again={shown.again} />
          </>
        )}
      </Read>
    </>
  );
}

function Tab({ name, again, ...known }: Known & { name: string; again: () => void }) {
  switch (name) {
    case "overview": return <Overview {...known} />;
    case "workers": return <WorkersTable endpoint={known.endpoint} workers={known.workers} />;
    case "deliveries": return <><GivenUpDeliveries endpoint={known.endpoint} /><WebhookTest endpoint={known.endpoint} /></>;
    case "logs": return <EndpointLog endpoint={known.endpoint} />;
    case "settings": return <EndpointSettings key={known.endpoint.id} endpoint={known.endpoint} workers={known.workers} again={again} />;
    default: return <Empty>No such view: the endpoint has none of this name. <a href={viewUrl("endpoints", known.endpoint.id)}>Overview</a></Empty>;
  }
}

function Head({ endpoint, counts, again }: { endpoint: Detail; counts: Counts; again: () => void }) {
  const { run, error } = useActions(again);
  const { route } = useLocation();
  const [deleting, setDeleting] = useState(false);
  const isQueue = endpoint.serviceMode === "QUEUE";
  const isStopped = endpoint.status === "STOPPED" || endpoint.status === "STOPPING";
  const scale = (count: number) => run(() => send("PUT", ["serverless", endpoint.id, "workers"], undefined, { count }));
  return (
    <>
      <div class="row spread">
        <div class="row"><a href={viewUrl("endpoints")}>Endpoints</a><span class="muted">/</span><h1><Foreign text={endpoint.name} limit={120} /></h1><span class="muted">{endpoint.id}</span><PlatformState status={endpoint.status} />{endpoint.paused ? <State tone="scheduled">queue paused</State> : null}</div>
        <div class="row">
          <span class="row" role="group" aria-label="Workers wanted">
            <Action right="operate" act={scale(endpoint.totalWorkers - 1)} because={endpoint.totalWorkers === 0 ? "There is none to remove" : null}>−<span class="vh"> one worker less</span></Action>
            <b class="num">{endpoint.totalWorkers}</b>
            <Action right="operate" act={scale(endpoint.totalWorkers + 1)}>+<span class="vh"> one worker more</span></Action>
            <span class="muted">workers</span>
          </span>
          {isQueue ? (endpoint.paused
            ? <Action right="operate" kind="main" act={run(() => send("POST", ["serverless", endpoint.id, "resume"]))}>Resume the queue</Action>
            : <Action right="operate" act={run(() => send("POST", ["serverless", endpoint.id, "pause"]))}>Pause the queue</Action>) : null}
          {isStopped
            ? <Action right="operate" kind="main" act={run(() => send("POST", ["serverless", endpoint.id, "start"]))}>Start</Action>
            : <Action right="operate" act={run(() => send("POST", ["serverless", endpoint.id, "stop"]))}>Stop</Action>}
          <Action right="manage" kind="danger" act={async () => setDeleting(true)}>Delete…</Action>
        </div>
      </div>
      {error}
      {endpoint.error ? <Notice tone="bad"><Foreign text={endpoint.error} limit={1000} /></Notice> : null}
      {endpoint.paused ? <Notice tone="warn"><b>The queue is paused.</b> Tasks are accepted and wait; no further one begins until the queue is resumed. Those that run go on.</Notice> : null}
      {deleting ? <Confirm typed={endpoint.name} question={<Deletion endpoint={endpoint} counts={counts} />} yes="Delete the endpoint" close={() => setDeleting(false)} act={async () => { await send("DELETE", ["serverless", endpoint.id]); route(BASE); }} /> : null}
    </>
  );
}

function Deletion({ endpoint, counts }: { endpoint: Detail; counts: Counts }) {
  const kept = counts.success + counts.delivered + counts.failed;
  return (
    <>
      Delete the endpoint <b><Foreign text={endpoint.name} limit={120} /></b> with all its tasks and their results? This cannot be undone.
      {endpoint.serviceMode !== "QUEUE" ? null : <> <b>{tasksWord(counts.queued + counts.scheduled, "waits", "wait")}</b>, <b>{tasksWord(counts.running, "runs", "run")}</b>, and {countText(kept)} that have ended are stored.</>}
    </>
  );
}

function tasksWord(count: number, one: string, many: string): string {
  return count === 0 ? `no task ${one}` : count === 1 ? `1 task ${one}` : `${countText(count)} tasks ${many}`;
}

function Overview({ endpoint, counts: all, workers }: Known) {
  const isQueue = endpoint.serviceMode === "QUEUE";
  const figure = (word: string, value: number, filters: Filters) => (
    <a class="card figure" href={viewUrl("tasks") + listQuery(endpoint.id, filters)}><span class="muted">{word}</span><b>{countText(value)}</b></a>
  );
  return (
    <>
      {isQueue ? (
        <div class="grid4">
          {figure("Waiting for a worker", all.queued, { state: "queued" })}
          {figure("Waiting for a next attempt", all.scheduled, { state: "scheduled" })}
          {figure("Running", all.running, { state: "running" })}
          {figure("Failed, kept", all.failed, { status: "FAILED" })}
          {figure("Succeeded, kept", all.success, { status: "SUCCESS" })}
          {figure("Delivered, kept", all.delivered, { status: "DELIVERED" })}
        </div>
      ) : <Notice tone="info">An ALB endpoint has no queue: requests go to its workers at once.</Notice>}
      {isQueue ? <EndpointCharts endpoint={endpoint} /> : null}
      {isQueue && all.failed > 0 ? <ErrorGroups endpoint={endpoint} /> : null}
      <WorkersTable endpoint={endpoint} workers={workers} />
    </>
  );
}
