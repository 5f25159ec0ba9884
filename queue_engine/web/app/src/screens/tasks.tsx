import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Counts, type Endpoint, get, type Task } from "../api.ts";
import { type Column, COLUMNS, keepColumns, readColumns } from "../columns.ts";
import { BulkDialog, type Order } from "../parts/bulk.tsx";
import { ColumnChoice } from "../parts/column-choice.tsx";
import { Action, Card, CopyButton, Empty, ErrorNotice, Foreign, Notice, Read, Time, Title } from "../parts/common.tsx";
import { ErrorGroups } from "../parts/errors.tsx";
import { FilterField } from "../parts/filter-field.tsx";
import { SavedViews } from "../parts/saved-views.tsx";
import { DeliveryState, TaskState } from "../parts/shapes.tsx";
import { type Filters, queryOf, type View, viewOf } from "../filters.ts";
import { focusedRow, moveRow, useKeys } from "../keys.ts";
import { linkOf, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { useTaskPage } from "../task-page.ts";
import { can, me, now, zone } from "../state.ts";
import { countText, lengthText, timeText } from "../times.ts";

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
              {chosen ? <Tasks key={chosen.id} endpoint={chosen} view={{ ...view, endpoint: chosen.id }} /> : <NoEndpoint id={view.endpoint} />}
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
  const choose = (event: Event) => route(viewUrl("tasks") + queryOf({ ...view, endpoint: (event.currentTarget as HTMLSelectElement).value, cursor: "" }));
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

function Tasks({ endpoint, view }: { endpoint: Endpoint; view: View }) {
  const { route } = useLocation();
  const [order, setOrder] = useState<Order | null>(null);
  const counts = usePolled(`counts ${endpoint.id}`, 3000, (signal) => get<Counts>(["serverless", endpoint.id, "tasks", "count"], {}, signal), { name: `endpoint:${endpoint.id}`, take: (event) => (event as { counts: Counts }).counts });
  const filter = (filters: Filters) => route(viewUrl("tasks") + queryOf({ ...view, filters, cursor: "" }));
  return (
    <>
      <Tabs view={view} counts={counts.data} />
      <div class="row">
        <FilterField filters={view.filters} change={filter} />
        <SavedViews view={view} />
        <CopyButton text={() => linkOf(zone.value)}>Copy link</CopyButton>
      </div>
      <Matching view={view} endpoint={endpoint} start={setOrder} />
      {counts.data === null || counts.data.failed > 0 ? <ErrorGroups endpoint={endpoint} filters={view.filters} /> : null}
      <TaskPage endpoint={endpoint} view={view} counts={counts.data} start={setOrder} />
      {order === null ? null : <BulkDialog order={order} close={() => setOrder(null)} />}
    </>
  );
}

function Tabs({ view, counts }: { view: View; counts: Counts | null }) {
  const tab = (word: string, status: string | null, count: number | undefined) => {
    const { status: _, ...others } = view.filters;
    const filters = status === null ? others : { ...others, status };
    return (
      <a href={viewUrl("tasks") + queryOf({ ...view, filters, cursor: "" })} aria-current={(view.filters.status ?? null) === status ? "page" : undefined}>
        {word} <span class="muted">{count === undefined ? "" : countText(count)}</span>
      </a>
    );
  };
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

/** Bulk operations on all tasks that match the filters, on this page or not. */
function Matching({ view, endpoint, start }: { view: View; endpoint: Endpoint; start: (order: Order) => void }) {
  const isEmpty = Object.keys(view.filters).length === 0;
  const because = isEmpty ? "Filter the tasks first" : null;
  const begin = (action: Order["action"]) => async () => start({ endpoint, action, target: { filter: view.filters } });
  return (
    <div class="row" role="group" aria-label="All tasks that match the filters">
      <span class="muted">All that match:</span>
      <Action right="operate" act={begin("retry")} because={because}>Retry all…</Action>
      <Action right="operate" act={begin("cancel")} because={because}>Cancel all…</Action>
      <Action right="operate" act={begin("redeliver")} because={because}>Send all again…</Action>
      <Action right="manage" kind="danger" act={begin("delete")} because={because}>Delete all…</Action>
    </div>
  );
}

function TaskPage({ endpoint, view, counts, start }: { endpoint: Endpoint; view: View; counts: Counts | null; start: (order: Order) => void }) {
  const page = useTaskPage(endpoint.id, view);
  const keyId = me.value?.keyId ?? "";
  const [columns, setColumns] = useState(() => readColumns(keyId));
  const choose = (chosen: readonly Column[]) => { keepColumns(keyId, chosen); setColumns(chosen); };
  const [selected, setSelected] = useState<ReadonlySet<string>>(new Set());
  const last = useRef<string | null>(null);
  useEffect(() => setSelected(new Set()), [queryOf(view)]);
  const ids = page.items.map((one) => one.taskId);
  const chosen = ids.filter((one) => selected.has(one));
  const select = (id: string | null, isRange = false) => {
    if (id === null) return;
    const from = last.current === null ? -1 : ids.indexOf(last.current);
    const to = ids.indexOf(id);
    const next = new Set(selected);
    if (isRange && from >= 0) for (const one of ids.slice(Math.min(from, to), Math.max(from, to) + 1)) next.add(one);
    else if (!next.delete(id)) next.add(id);
    last.current = id;
    setSelected(next);
  };
  const all = () => setSelected(chosen.length === ids.length ? new Set() : new Set(ids));
  const order = (action: Order["action"], right: string) => () => {
    const focused = focusedRow();
    const taskIds = chosen.length > 0 ? chosen : focused === null ? [] : [focused];
    if (taskIds.length > 0 && can(right)) start({ endpoint, action, target: { taskIds } });
  };
  useKeys({
    j: () => moveRow(1), k: () => moveRow(-1), x: () => select(focusedRow()), X: () => select(focusedRow(), true), "*": all,
    r: order("retry", "operate"), c: order("cancel", "operate"), Escape: () => setSelected(new Set()),
  });
  if (page.error !== null && page.items.length === 0) return <ErrorNotice error={page.error} again={page.again} />;
  const total = Object.keys(view.filters).length === 0 && counts !== null ? `${countText(counts.total)} tasks` : "Tasks";
  return (
    <>
      {page.error === null ? null : <Notice tone="warn"><Foreign text={page.error.message} /> What was read before is shown. <button class="btn" type="button" onClick={page.again}>Try again</button></Notice>}
      <Card id="tasks" title={total} aside={<><Place page={page} view={view} counts={counts} /><ColumnChoice columns={columns} change={choose} /></>}>
        {page.items.length === 0 ? <NoTasks page={page} view={view} /> : (
          <div class="wrap" tabIndex={0} role="region" aria-label="Tasks">
            <table>
              <thead>
                <tr>
                  <th scope="col"><input type="checkbox" aria-label="Select all on this page" checked={chosen.length === ids.length} onChange={all} /></th>
                  <th scope="col">Task</th>
                  {columns.map((one) => <th key={one} scope="col" class={one === "length" || one === "attempts" ? "num" : undefined}>{COLUMNS[one]}</th>)}
                </tr>
              </thead>
              <tbody>{page.items.map((one) => <Line key={one.taskId} task={one} columns={columns} isSelected={selected.has(one.taskId)} select={(isRange) => select(one.taskId, isRange)} />)}</tbody>
            </table>
          </div>
        )}
        <Pager page={page} view={view} />
      </Card>
      {chosen.length === 0 ? null : (
        <div class="bulk" role="region" aria-label="Selection">
          <b aria-live="polite">{countText(chosen.length)} selected</b>
          <span class="row">
            <Action right="operate" act={async () => order("retry", "operate")()}>Retry… <kbd>r</kbd></Action>
            <Action right="operate" act={async () => order("cancel", "operate")()}>Cancel… <kbd>c</kbd></Action>
            <Action right="operate" act={async () => order("redeliver", "operate")()}>Send again…</Action>
            <Action right="manage" act={async () => order("delete", "manage")()}>Delete…</Action>
            <button class="btn" type="button" onClick={() => setSelected(new Set())}>Clear <kbd>Esc</kbd></button>
          </span>
        </div>
      )}
    </>
  );
}

type Page = ReturnType<typeof useTaskPage>;

/** Where the page is, and how much was looked at for it. */
function Place({ page, view, counts }: { page: Page; view: View; counts: Counts | null }) {
  const of = counts === null ? "" : ` of ${countText(counts.total)}`;
  const looked = page.calls > 1 || !page.isDone ? `${countText(page.scanned)}${of} looked at` : "";
  const order = view.cursor === "" ? "newest first" : "older tasks";
  return (
    <>
      {page.newer > 0 ? <button class="btn" type="button" onClick={page.again}>{page.newer >= page.items.length ? `${page.newer} or more` : page.newer} newer: show</button> : null}
      <span class="muted" role="status">{[order, `${page.items.length} shown`, looked].filter(Boolean).join(", ")}</span>
      {page.isReading && page.calls > 0 ? <button class="btn" type="button" onClick={page.stop}>Stop</button> : null}
      {!page.isReading && page.asOf > 0 && !page.isFresh ? <span class="muted">as of {timeText(page.asOf, zone.value, now.value)} <button class="btn" type="button" onClick={page.again}>Read again</button></span> : null}
    </>
  );
}

function NoTasks({ page, view }: { page: Page; view: View }) {
  if (page.isReading) return <Empty>Looking …</Empty>;
  if (!page.isDone) return <Empty>Stopped after {countText(page.scanned)} tasks, none of which matches. <button class="btn" type="button" onClick={page.more}>Go on</button></Empty>;
  if (view.cursor !== "") return <Empty>There are no older tasks.</Empty>;
  const isFiltered = Object.keys(view.filters).length > 0;
  return <Empty>{isFiltered ? "No task of this endpoint matches the filters." : "This endpoint has no tasks. Ended tasks are kept for a time that the endpoint's settings say."}</Empty>;
}

interface LineProps {
  task: Task;
  columns: readonly Column[];
  isSelected: boolean;
  select: (isRange: boolean) => void;
}

function Line({ task, columns, isSelected, select }: LineProps) {
  return (
    <tr data-row={task.taskId} aria-selected={isSelected}>
      <td><input type="checkbox" aria-label={`Select ${task.taskId}`} checked={isSelected} onClick={(event) => select(event.shiftKey)} /></td>
      <td class="mono"><a href={viewUrl("tasks", task.endpointId, task.taskId)}><Foreign text={task.taskId} limit={60} /></a></td>
      {columns.map((one) => <Cell key={one} task={task} column={one} />)}
    </tr>
  );
}

function Cell({ task, column }: { task: Task; column: Column }) {
  switch (column) {
    case "state": return <td><TaskState task={task} /></td>;
    case "created": return <td><Time at={task.createdAt} /></td>;
    case "started": return <td><Time at={task.startedAt} /></td>;
    case "finished": return <td><Time at={task.finishedAt} /></td>;
    case "length": return <td class="num nowrap">{lengthOf(task)}</td>;
    case "attempts": return <td class="num">{task.attempts}</td>;
    case "priority": return <td>{task.priority}</td>;
    case "key": return <td class="mono">{task.fairnessKey === null ? "–" : <Foreign text={task.fairnessKey} limit={40} />}</td>;
    case "tags": return <td class="clip">{task.tags.length === 0 ? "–" : <Foreign text={task.tags.join(", ")} limit={120} />}</td>;
    case "delivery": return <td><DeliveryState task={task} /></td>;
    case "webhook": return <td class="clip mono">{task.webhook === null ? "–" : <Foreign text={task.webhook} limit={120} />}</td>;
    case "error": return <td class="clip mono" title={task.error ?? ""}>{task.error ? <Foreign text={task.error} limit={300} /> : null}</td>;
  }
}

function lengthOf(task: Task): string {
  const isRunning = task.state === "running" && task.startedAt !== null;
  const length = task.durationMs ?? (isRunning ? now.value - (task.startedAt ?? 0) : null);
  return length === null ? "–" : lengthText(length);
}

function Pager({ page, view }: { page: Page; view: View }) {
  const older = page.isDone && page.next !== null ? viewUrl("tasks") + queryOf({ ...view, cursor: page.next }) : null;
  if (view.cursor === "" && older === null) return null;
  return (
    <nav class="row pager" aria-label="Pages">
      {view.cursor === "" ? null : <a class="btn" href={viewUrl("tasks") + queryOf({ ...view, cursor: "" })}>Newest</a>}
      {older === null ? null : <a class="btn" href={older}>Older</a>}
    </nav>
  );
}
