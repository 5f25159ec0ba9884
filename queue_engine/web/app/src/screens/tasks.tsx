import { useLocation } from "preact-iso";
import { type Counts, type Endpoint, get, type Schemas, type Task } from "../api.ts";
import { Card, Empty, Foreign, Read, Time, Title } from "../parts/common.tsx";
import { DeliveryState, TaskState } from "../parts/shapes.tsx";
import { PAGE_SIZE, queryOf, type View, viewOf } from "../filters.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { countText, lengthText } from "../times.ts";

export function TasksScreen() {
  const { query } = useLocation();
  const view = viewOf(query);
  const endpoints = usePolled("endpoints", 10_000, (signal) => get<Endpoint[]>(["serverless"], {}, signal));
  return (
    <>
      <Title text="Tasks" />
      <Read from={endpoints}>
        {(all) => {
          const queues = all.filter((one) => one.serviceMode === "QUEUE");
          const chosen = queues.find((one) => one.id === view.endpoint) ?? (view.endpoint === null ? queues[0] : undefined);
          return (
            <>
              <div class="row spread"><h1>Tasks</h1><EndpointChoice endpoints={queues} view={view} chosen={chosen?.id ?? null} /></div>
              {chosen ? <Tasks endpoint={chosen} view={{ ...view, endpoint: chosen.id }} /> : <NoEndpoint id={view.endpoint} />}
            </>
          );
        }}
      </Read>
    </>
  );
}

function NoEndpoint({ id }: { id: string | null }) {
  const text = id === null ? "There is no endpoint with a queue, so there are no tasks." : `There is no endpoint ${id} with a queue that this key sees.`;
  return <Empty>{text} <a href={viewUrl("endpoints")}>Endpoints</a></Empty>;
}

function EndpointChoice({ endpoints, view, chosen }: { endpoints: Endpoint[]; view: View; chosen: string | null }) {
  const { route } = useLocation();
  const choose = (event: Event) => route(viewUrl("tasks") + queryOf({ ...view, endpoint: (event.currentTarget as HTMLSelectElement).value, page: 1 }));
  return (
    <div class="row">
      <label for="endpoint">Endpoint</label>
      <select id="endpoint" class="field narrow" value={chosen ?? ""} onChange={choose}>
        {chosen === null ? <option value="">choose</option> : null}
        {endpoints.map((one) => <option key={one.id} value={one.id}>{one.name} ({one.id})</option>)}
      </select>
    </div>
  );
}

interface Shown {
  page: Schemas["TaskPageView"];
  counts: Counts;
}

function Tasks({ endpoint, view }: { endpoint: Endpoint; view: View }) {
  const shown = usePolled<Shown>(queryOf(view), 3000, async (signal) => {
    const query = { pageNumber: view.page, pageSize: PAGE_SIZE, status: view.status ?? undefined };
    const [page, counts] = await Promise.all([
      get<Schemas["TaskPageView"]>(["serverless", endpoint.id, "tasks"], query, signal),
      get<Counts>(["serverless", endpoint.id, "tasks", "count"], {}, signal),
    ]);
    return { page, counts };
  });
  return (
    <>
      <Tabs view={view} counts={shown.data?.counts ?? null} />
      <Read from={shown} lines={10}>{({ page }) => <TaskTable page={page} view={view} />}</Read>
    </>
  );
}

function Tabs({ view, counts }: { view: View; counts: Counts | null }) {
  const tab = (word: string, status: string | null, count: number | undefined) => (
    <a href={viewUrl("tasks") + queryOf({ ...view, status, page: 1 })} aria-current={view.status === status ? "page" : undefined}>
      {word} <span class="muted">{count === undefined ? "" : countText(count)}</span>
    </a>
  );
  return (
    <nav class="tabs" aria-label="By status">
      {tab("All", null, counts?.total)}
      {tab("Waiting and running", "PROCESSING", counts?.processing)}
      {tab("Succeeded", "SUCCESS", counts?.success)}
      {tab("Delivered", "DELIVERED", counts?.delivered)}
      {tab("Failed", "FAILED", counts?.failed)}
    </nav>
  );
}

function TaskTable({ page, view }: { page: Schemas["TaskPageView"]; view: View }) {
  if (page.items.length === 0) {
    const text = page.total > 0 ? "This page has no tasks any more." : view.status === null ? "This endpoint has no tasks. Ended tasks are kept for a time that the endpoint's settings say." : "No task of this endpoint has this status.";
    return <Card id="tasks" title="Tasks"><Empty>{text}</Empty></Card>;
  }
  const first = (page.page - 1) * page.size + 1;
  const place = `Newest first, ${countText(first)}–${countText(first + page.items.length - 1)} of ${countText(page.total)}`;
  return (
    <Card id="tasks" title={`${countText(page.total)} tasks`} aside={<span class="muted">{place}</span>}>
      <div class="wrap" tabIndex={0} role="region" aria-label="Tasks">
        <table>
          <thead><tr><th scope="col">Task</th><th scope="col">State</th><th scope="col">Created</th><th scope="col" class="num">Since or ran</th><th scope="col" class="num">Attempts</th><th scope="col">Delivery</th><th scope="col">Why it failed</th></tr></thead>
          <tbody>{page.items.map((one) => <Line key={one.taskId} task={one} />)}</tbody>
        </table>
      </div>
      <Pager page={page} view={view} />
    </Card>
  );
}

function Line({ task }: { task: Task }) {
  const isRunning = task.state === "running" && task.startedAt !== null;
  const length = task.durationMs ?? (isRunning ? now.value - (task.startedAt ?? 0) : null);
  return (
    <tr>
      <td class="mono"><a href={viewUrl("tasks", task.endpointId, task.taskId)}><Foreign text={task.taskId} limit={60} /></a></td>
      <td><TaskState task={task} /></td>
      <td><Time at={task.createdAt} /></td>
      <td class="num nowrap">{length === null ? "–" : lengthText(length)}</td>
      <td class="num">{task.attempts}</td>
      <td><DeliveryState task={task} /></td>
      <td class="clip mono" title={task.error ?? ""}>{task.error ? <Foreign text={task.error} limit={300} /> : null}</td>
    </tr>
  );
}

function Pager({ page, view }: { page: Schemas["TaskPageView"]; view: View }) {
  if (page.pages <= 1) return null;
  const to = (number: number) => viewUrl("tasks") + queryOf({ ...view, page: number });
  return (
    <nav class="row pager" aria-label="Pages">
      {page.page > 1 ? <a class="btn" href={to(page.page - 1)}>Newer</a> : null}
      <span class="muted">Page {countText(page.page)} of {countText(page.pages)}</span>
      {page.page < page.pages ? <a class="btn" href={to(page.page + 1)}>Older</a> : null}
    </nav>
  );
}
