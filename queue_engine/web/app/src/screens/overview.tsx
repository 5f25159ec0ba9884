import { useEffect, useRef } from "preact/hooks";
import { type Counts, type Endpoint, get, type Schemas, type Worker } from "../api.ts";
import { type Concern, concernsOf, destinationConcerns, lacksWorkers, systemConcerns, worst } from "../attention.ts";
import { Card, Empty, Foreign, Notice, Read, Title } from "../parts/common.tsx";
import { EndpointsTable, type Shortened } from "../parts/endpoints-table.tsx";
import { OverviewCharts } from "../parts/overview-charts.tsx";
import { State } from "../parts/shapes.tsx";
import { isLive } from "../events.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { errorWords } from "./deliveries.tsx";
import { StartScreen } from "./start.tsx";
import { readSystem } from "./system.tsx";
import { can, isPaused, now, zone } from "../state.ts";
import { timeText } from "../times.ts";

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
  const queues = endpoints.filter((one) => one.serviceMode === "QUEUE").slice(0, MAX_COUNTED);
  const counts = new Map<string, Counts>();
  const givenUp = new Map<string, number>();
  await Promise.all(queues.map(async (one) => {
    counts.set(one.id, await get<Counts>(["serverless", one.id, "tasks", "count"], {}, signal));
    givenUp.set(one.id, (await get<{ total: number }>(["serverless", one.id, "deliveries"], { pageSize: 1 }, signal)).total);
  }));
  const lacking = endpoints.filter(lacksWorkers).slice(0, MAX_COUNTED);
  const workers = new Map(await Promise.all(lacking.map(async (one) => [one.id, await get<Worker[]>(["serverless", one.id, "workers"], {}, signal)] as const)));
  const [system, destinations] = await Promise.all([readSystem(signal), readDestinations(signal)]);
  const concerns = [
    ...systemConcerns(system.warnings), ...destinationConcerns(destinations, (one) => errorWords((one as Destination).lastError)),
    ...endpoints.flatMap((one) => concernsOf(one, workers.get(one.id) ?? [], givenUp.get(one.id) ?? 0)),
  ];
  return { endpoints, counts, concerns };
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
            <Attention concerns={data.concerns} asOf={shown.asOf} />
            <OverviewCharts endpoints={data.endpoints} />
            <EndpointsTable endpoints={data.endpoints} counts={data.counts} />
          </>
        )}
      </Read>
    </>
  );
}

function Attention({ concerns, asOf }: { concerns: Concern[]; asOf: number }) {
  const { list, more } = worst(concerns);
  const count = concerns.length === 0 ? "" : `${concerns.length}, worst first`;
  return (
    <Card id="attention" title="Needs attention" aside={<span class="muted">{count}</span>}>
      {list.length === 0 ? <Empty>Nothing was found wrong at {timeText(asOf + now.value - Date.now(), zone.value, now.value)}.</Empty> : (
        <div class="body stack tight">
          {list.map((one) => <ConcernNote key={`${one.endpoint} ${one.kind} ${one.title}`} concern={one} />)}
          {more > 0 ? <div class="muted">{more} more in the list of endpoints.</div> : null}
        </div>
      )}
    </Card>
  );
}

function ConcernNote({ concern }: { concern: Concern }) {
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
    </Notice>
  );
}
