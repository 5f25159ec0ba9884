import type { Counts, Endpoint } from "../api.ts";
import { Card, Empty, Foreign } from "./common.tsx";
import { PlatformState, State } from "./shapes.tsx";
import { viewUrl } from "../place.ts";
import { listQuery } from "../filters.ts";
import { can } from "../state.ts";
import { countText } from "../times.ts";

/** What a list shows of an endpoint, as the topic of the overview has it. */
export type Shortened = Pick<Endpoint, "id" | "name" | "status" | "serviceMode" | "totalWorkers" | "runningWorkers" | "queuedTasks" | "runningTasks" | "paused">;

export function EndpointsTable({ endpoints, counts }: { endpoints: Shortened[]; counts: Map<string, Counts> }) {
  const create = can("manage_tenant") ? <a class="btn main" href={viewUrl("endpoints", "new")}>New endpoint</a> : null;
  return (
    <Card id="endpoints" title="Endpoints" aside={create}>
      {endpoints.length === 0 ? <Empty>There is no endpoint that this key sees. An endpoint is what runs tasks.</Empty> : (
        <div class="wrap" tabIndex={0} role="region" aria-label="Endpoints">
          <table>
            <thead><tr><th scope="col">Name</th><th scope="col">Mode</th><th scope="col">State</th><th scope="col" class="num">Workers</th><th scope="col" class="num">Waiting</th><th scope="col" class="num">Running</th><th scope="col" class="num">Succeeded, kept</th><th scope="col" class="num">Failed, kept</th></tr></thead>
            <tbody>{endpoints.map((one) => <Line key={one.id} endpoint={one} counts={counts.get(one.id)} />)}</tbody>
          </table>
        </div>
      )}
    </Card>
  );
}

function Line({ endpoint, counts }: { endpoint: Shortened; counts: Counts | undefined }) {
  const tasks = (status: string | null) => viewUrl("tasks") + listQuery(endpoint.id, status === null ? {} : { status });
  const isQueue = endpoint.serviceMode === "QUEUE";
  return (
    <tr data-row={endpoint.id}>
      <td><a href={viewUrl("endpoints", endpoint.id)}><Foreign text={endpoint.name} limit={60} /></a> <span class="muted">{endpoint.id}</span></td>
      <td class="muted">{endpoint.serviceMode}</td>
      <td><PlatformState status={endpoint.status} />{endpoint.paused ? <State tone="scheduled">paused</State> : null}</td>
      <td class="num">{endpoint.runningWorkers} / {endpoint.totalWorkers}</td>
      <td class="num">{isQueue ? <a href={tasks("PROCESSING")}>{countText(endpoint.queuedTasks)}</a> : "–"}</td>
      <td class="num">{isQueue ? <a href={tasks("PROCESSING")}>{countText(endpoint.runningTasks)}</a> : "–"}</td>
      <td class="num">{counts ? countText(counts.success + counts.delivered) : "–"}</td>
      <td class="num">{counts ? <a href={tasks("FAILED")}>{countText(counts.failed)}</a> : "–"}</td>
    </tr>
  );
}
