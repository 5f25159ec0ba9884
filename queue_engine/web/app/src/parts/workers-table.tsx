import type { Endpoint, Worker } from "../api.ts";
import { Card, Empty, Foreign, Time } from "./common.tsx";
import { PlatformState } from "./shapes.tsx";
import { viewUrl } from "../place.ts";
import { now } from "../state.ts";
import { agoText } from "../times.ts";

export function WorkersTable({ endpoint, workers }: { endpoint: Endpoint; workers: Worker[] }) {
  return (
    <Card id="workers" title="Workers" aside={<span class="muted">{endpoint.runningWorkers} running, {endpoint.totalWorkers} wanted</span>}>
      {workers.length === 0 ? <Empty>{endpoint.totalWorkers === 0 ? "The endpoint should have no worker, so its tasks wait." : "No worker has been started yet. The controller starts them; does one run?"}</Empty> : (
        <div class="wrap" tabIndex={0} role="region" aria-label="Workers">
          <table>
            <thead><tr><th scope="col">Worker</th><th scope="col">State</th><th scope="col" class="num">Running tasks</th><th scope="col" class="num">Restarts</th><th scope="col">Last report</th><th scope="col">Since</th><th scope="col">GPU, region</th><th scope="col">Error</th></tr></thead>
            <tbody>
              {workers.map((one) => (
                <tr key={one.workerId}>
                  <td class="mono"><a href={viewUrl("workers", endpoint.id, one.workerId)}><Foreign text={one.workerId} limit={63} /></a></td>
                  <td><PlatformState status={one.status} /></td>
                  <td class="num">{one.runningTasks}</td>
                  <td class="num">{one.restarts}</td>
                  <td class="nowrap">{one.lastHeartbeatAt === null ? <span class="muted">none yet</span> : agoText(now.value - one.lastHeartbeatAt)}</td>
                  <td><Time at={one.createdAt} /></td>
                  <td class="muted"><Foreign text={[one.gpuType, one.region].filter(Boolean).join(", ") || "–"} limit={60} /></td>
                  <td class="clip" title={one.error ?? ""}>{one.error ? <Foreign text={one.error} limit={300} /> : null}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}
