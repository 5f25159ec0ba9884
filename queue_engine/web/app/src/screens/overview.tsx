import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Counts, type Endpoint, get, type Schemas, send, type Worker } from "../api.ts";
import { type Concern, concernsOf, destinationConcerns, lacksWorkers, systemConcerns, worst } from "../attention.ts";
import { BulkDialog, type Order } from "../parts/bulk.tsx";
import { Action, Card, Empty, Foreign, Notice, Read, Title, useActions } from "../parts/common.tsx";
import { EndpointsTable, type Shortened } from "../parts/endpoints-table.tsx";
import { OverviewCharts } from "../parts/overview-charts.tsx";
import { State } from "../parts/shapes.tsx";
import { isLive } from "../events.ts";
import { listQuery } from "../filters.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { errorWords } from "./deliveries.tsx";
import { StartScreen } from "./start.tsx";
import { readSystem } from "./system.tsx";
import { can, isPaused, now, zone } from "../state.ts";
import { timeText } from "../times.ts";
import { trendConcerns } from "../trends.ts";

/** Endpoints whose counts and deliveries are read too. */
const MAX_COUNTED = 20;
const EVERY_MS = 5000;
const EXTRAS_MS = 10_000;

type Destination = Schemas["DestinationView"];

interface Shown {
  endpoints: Shortened[];
  counts: Map<string, Counts>;
  concerns: Concern[];
}

async function read(signal: AbortSignal): Promise<Shown> {
  const endpoints = await get<Endpoint[]>(["serverless"], {}, signal);
  const counts = new Map<string, Counts>();
  const queues = endpoints.filter((one) => one.serviceMode === "QUEUE").slice(0, MAX_COUNTED);
  const lacking = new Set(endpoints.filter(lacksWorkers).slice(0, MAX_COUNTED));
  const looked = endpoints.filter((one) => lacking.has(one) || queues.includes(one));
  const [system, destinations, ...found] = await Promise.all([
    readSystem(signal), readDestinations(signal),
    ...looked.map((one) => unlessDeleted(readConcerns(one, queues.includes(one) ? counts : null, lacking.has(one), signal))),
  ]);
  const concerns = [
    ...systemConcerns(system.warnings), ...destinationConcerns(destinations, (one) => errorWords((one as Destination).lastError)), ...found.flat(),
  ];
  return { endpoints, counts, concerns };
}

/** Return what is wrong with an endpoint. The counts of one with a queue become part of `counts`. */
async function readConcerns(endpoint: Endpoint, counts: Map<string, Counts> | null, isLacking: boolean, signal: AbortSignal): Promise<Concern[]> {
  const path = ["serverless", endpoint.id];
  const workers = isLacking ? await get<Worker[]>([...path, "workers"], {}, signal) : [];
  if (counts === null) return concernsOf(endpoint, workers, 0);
  const [own, { total: givenUp }] = await Promise.all([
    get<Counts>([...path, "tasks", "count"], {}, signal), get<{ total: number }>([...path, "deliveries"], { pageSize: 1 }, signal),
  ]);
  counts.set(endpoint.id, own);
  return [...concernsOf(endpoint, workers, givenUp), ...await trendConcerns(endpoint, own)];
}

/** An endpoint may be deleted after it was listed. It is no reason to show nothing of the others. */
async function unlessDeleted(found: Promise<Concern[]>): Promise<Concern[]> {
  return found.catch((error: unknown) => {
    if (error instanceof ApiError && error.status === 404) return [];
    throw error;
  });
}

/** Destinations belong to no endpoint, so a key that is limited to some endpoints does not see them. */
async function readDestinations(signal: AbortSignal): Promise<Destination[]> {
  return can("view_tenant") ? get<Destination[]>(["destinations"], {}, signal) : [];
}

/** Put the endpoints of an event in place of those that were read. What is not in the event stays for a while. */
function take(event: unknown, before: Shown | null): Shown | null {
  if (before === null) return null;
  const { endpoints } = event as { endpoints: (Shortened & { counts: Counts })[] };
  return { ...before, endpoints, counts: new Map(endpoints.map((one) => [one.id, one.counts])) };
}

export function OverviewScreen() {
  const shown = usePolled("overview", EVERY_MS, read, { name: "overview", take });
  // Workers and deliveries are not in the events.
  useEffect(() => {
    const timer = window.setInterval(() => { if (isLive.value && !isPaused.value && !document.hidden) shown.again(); }, EXTRAS_MS);
    return () => clearInterval(timer);
  }, []);
  // The first run stays until the person leaves it, although there is an endpoint after its first step.
  const isFirstRun = useRef(false);
  isFirstRun.current ||= shown.data?.endpoints.length === 0 && can("manage_tenant");
  if (isFirstRun.current) return <StartScreen />;
  return (
    <>
      <Title text="Overview" />
      <h1>Overview</h1>
      <Read from={shown} lines={8}>
        {(data) => (
          <>
            <Attention concerns={data.concerns} endpoints={data.endpoints} asOf={shown.asOf} again={shown.again} />
            <OverviewCharts endpoints={data.endpoints} />
            <EndpointsTable endpoints={data.endpoints} counts={data.counts} />
          </>
        )}
      </Read>
    </>
  );
}

interface AttentionProps {
  concerns: Concern[];
  endpoints: Shortened[];
  asOf: number;
  again: () => void;
}

function Attention({ concerns, endpoints, asOf, again }: AttentionProps) {
  const { list, more } = worst(concerns);
  const count = concerns.length === 0 ? "" : `${concerns.length}, worst first`;
  // The question about all tasks of an error stays open when the concerns are read again.
  const [order, setOrder] = useState<Order | null>(null);
  const { run, error } = useActions(again);
  return (
    <Card id="attention" title="Needs attention" aside={<span class="muted">{count}</span>}>
      {list.length === 0 ? <Empty>Nothing was found wrong at {timeText(asOf + now.value - Date.now(), zone.value, now.value)}.</Empty> : (
        <div class="body stack tight">
          {error}
          {list.map((one) => <ConcernNote key={`${one.endpoint} ${one.kind} ${one.kind === "system" ? one.title : ""}`} concern={one} endpoint={endpoints.find((other) => other.id === one.endpoint)} run={run} ask={setOrder} />)}
          {more > 0 ? <div class="muted">{more} more in the list of endpoints.</div> : null}
        </div>
      )}
      {order === null ? null : <BulkDialog order={order} close={() => setOrder(null)} />}
    </Card>
  );
}

interface NoteProps {
  concern: Concern;
  /** The endpoint as it is now; undefined if it is of none, or was deleted. */
  endpoint: Shortened | undefined;
  run: (call: () => Promise<unknown>) => () => Promise<void>;
  ask: (order: Order) => void;
}

function ConcernNote({ concern, endpoint, run, ask }: NoteProps) {
  if (concern.kind === "system") return <Notice tone={concern.tone}><State tone={concern.tone === "bad" ? "failed" : "scheduled"}>system</State> <b><Foreign text={concern.title} limit={600} /></b> <a href={viewUrl("system")}>Open the system</a></Notice>;
  if (concern.kind === "destination") return <Notice tone={concern.tone}><State tone="scheduled">deliveries</State> <b><a href={viewUrl("deliveries", concern.endpoint)}><Foreign text={concern.name} limit={120} /></a>: {concern.title}</b> {concern.detail ? <Foreign text={concern.detail} limit={100} /> : null}</Notice>;
  const target = concern.kind === "workers" && concern.worker ? viewUrl("workers", concern.endpoint, concern.worker) : null;
  return (
    <Notice tone={concern.tone}>
      <State tone={concern.tone === "bad" ? "failed" : "scheduled"}>{concern.kind}</State>{" "}
      <b><a href={viewUrl("endpoints", concern.endpoint)}><Foreign text={concern.name} limit={80} /></a>: {concern.title}</b>{" "}
      {concern.detail ? <code><Foreign text={concern.detail} limit={300} /></code> : null}{" "}
      {target ? <a href={target}>Open its log</a> : null}
      {concern.kind === "deliveries" ? <a href={viewUrl("endpoints", concern.endpoint, "deliveries")}>Open the deliveries</a> : null}
      {concern.kind === "no workers" ? <a href={viewUrl("endpoints", concern.endpoint)}>Open the endpoint</a> : null}
      {concern.tasks === undefined ? null : <span class="row"><a class="btn" href={viewUrl("tasks") + listQuery(concern.endpoint, concern.tasks)}>Show the tasks<span class="vh"> of {concern.name}: {concern.kind}</span></a><Remedy concern={concern} endpoint={endpoint} run={run} ask={ask} /></span>}
    </Notice>
  );
}

/** What most likely puts it right. */
function Remedy({ concern, endpoint, run, ask }: NoteProps) {
  if (endpoint === undefined) return null;
  const path = ["serverless", endpoint.id];
  if (concern.kind === "errors") return <Action right="operate" act={async () => ask({ endpoint, action: "retry", target: { filter: concern.tasks ?? {} } })}>Retry them…</Action>;
  if (endpoint.paused) return <Action right="operate" act={run(() => send("POST", [...path, "resume"]))}>Resume the queue</Action>;
  if (endpoint.status === "STOPPED" || endpoint.status === "STOPPING") return <Action right="operate" act={run(() => send("POST", [...path, "start"]))}>Start</Action>;
  return <Action right="operate" act={run(() => send("PUT", [...path, "workers"], undefined, { count: endpoint.totalWorkers + 1 }))}>One worker more</Action>;
}
