import type { Counts, Endpoint } from "../api.ts";
import { Card, Empty, Foreign } from "./common.tsx";
import { PlatformState } from "./shapes.tsx";
import { viewUrl } from "../place.ts";
import { queryOf } from "../filters.ts";
import { can } from "../state.ts";
import { countText } from "../times.ts";

export function EndpointsTable({ endpoints, counts }: { endpoints: Endpoint[]; counts: Map<string, Counts> }) {
  const create = can("manage_tenant") ? <a class="btn main" href={viewUrl("start")}>New endpoint</a> : null;
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

function Line({ endpoint, counts }: { endpoint: Endpoint; counts: Counts | undefined }) {
  const tasks = (status: string | null) => viewUrl("tasks") + queryOf({ endpoint: endpoint.id, status, page: 1 });
  const isQueue = endpoint.serviceMode === "QUEUE";
  return (
    <tr>
      <td><a href={viewUrl("endpoints", endpoint.id)}><Foreign text={endpoint.name} limit={60} /></a> <span class="muted">{endpoint.id}</span></td>
      <td class="muted">{endpoint.serviceMode}</td>
      <td><PlatformState status={endpoint.status} /></td>
      <td class="num">{endpoint.runningWorkers} / {endpoint.totalWorkers}</td>
      <td class="num">{isQueue ? <a href={tasks("PROCESSING")}>{countText(endpoint.queuedTasks)}</a> : "–"}</td>
      <td class="num">{isQueue ? <a href={tasks("PROCESSING")}>{countText(endpoint.runningTasks)}</a> : "–"}</td>
      <td class="num">{counts ? countText(counts.success + counts.delivered) : "–"}</td>
      <td class="num">{counts ? <a href={tasks("FAILED")}>{countText(counts.failed)}</a> : "–"}</td>
    </tr>
  );
}
