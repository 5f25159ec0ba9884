import { useLocation } from "preact-iso";
import { get, type Schemas } from "../api.ts";
import { Card, Empty, Foreign, Read, Time, Title } from "../parts/common.tsx";
import { PlatformState } from "../parts/shapes.tsx";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { agoText } from "../times.ts";

const EVERY_MS = 5000;
const SIZE = 200;

/** Workers of all endpoints, in pages of endpoints. */
export function WorkersScreen() {
  const { query } = useLocation();
  const cursor = /^[1-9][0-9]{0,15}$/.test(query["cursor"] ?? "") ? query["cursor"] : undefined;
  const shown = usePolled(`all workers ${cursor ?? ""}`, EVERY_MS, (signal) => get<Schemas["WorkersPageView"]>(["workers"], { pageSize: SIZE, cursor }, signal));
  return (
    <>
      <Title text="Workers" />
      <h1>Workers</h1>
      <Read from={shown} lines={8}>
        {(page) => (
          <Card id="workers" title="Workers of all endpoints" aside={<span class="muted">{running(page)}</span>}>
            {page.items.length === 0 ? <Empty>There is no {cursor === undefined ? "worker" : "further worker"}.</Empty> : <Table page={page} />}
            {cursor === undefined && page.nextCursor === null ? null : (
              <nav class="row pager" aria-label="Pages">
                {cursor === undefined ? null : <a class="btn" href={viewUrl("workers")}>First page</a>}
                {page.nextCursor === null ? null : <a class="btn" href={`${viewUrl("workers")}?cursor=${page.nextCursor}`}>Older endpoints</a>}
              </nav>
            )}
          </Card>
        )}
      </Read>
    </>
  );
}

function running(page: Schemas["WorkersPageView"]): string {
  return `${page.items.filter((one) => one.status === "RUNNING").length} of ${page.items.length} run`;
}

function Table({ page }: { page: Schemas["WorkersPageView"] }) {
  return (
    <div class="wrap" tabIndex={0} role="region" aria-label="Workers of all endpoints">
      <table>
        <thead><tr><th scope="col">Endpoint</th><th scope="col">Worker</th><th scope="col">State</th><th scope="col" class="num">Running tasks</th><th scope="col" class="num">Restarts</th><th scope="col">Last report</th><th scope="col">Since</th><th scope="col">Error</th></tr></thead>
        <tbody>
          {page.items.map((one) => (
            <tr key={`${one.endpointId} ${one.workerId}`}>
              <td><a href={viewUrl("endpoints", one.endpointId, "workers")}><Foreign text={one.endpointName} limit={80} /></a></td>
              <td class="mono"><a href={viewUrl("workers", one.endpointId, one.workerId)}><Foreign text={one.workerId} limit={63} /></a></td>
              <td><PlatformState status={one.status} /></td>
              <td class="num">{one.runningTasks}</td>
              <td class="num">{one.restarts}</td>
              <td class="nowrap">{one.lastHeartbeatAt === null ? <span class="muted">none yet</span> : agoText(now.value - one.lastHeartbeatAt)}</td>
              <td><Time at={one.createdAt} /></td>
              <td class="clip" title={one.error ?? ""}>{one.error ? <Foreign text={one.error} limit={300} /> : null}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
