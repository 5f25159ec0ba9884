import { useLocation } from "preact-iso";
import { useRef } from "preact/hooks";
import { get, type Operation, type Schemas, send } from "../api.ts";
import { Action, Card, Empty, Foreign, Notice, Read, Time, Title, useActions } from "../parts/common.tsx";
import { FilterWords, SkipWords, VERBS } from "../parts/bulk.tsx";
import { State } from "../parts/shapes.tsx";
import { type Filters, listQuery } from "../filters.ts";
import { moveRow, useKeys } from "../keys.ts";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { countText, lengthText } from "../times.ts";

const SIZE = 50;

export function BulkScreen() {
  const { query } = useLocation();
  const number = /^[1-9][0-9]{0,6}$/.test(query["page"] ?? "") ? Number(query["page"]) : 1;
  const shown = usePolled(`operations ${number}`, 3000, (signal) => get<Schemas["OperationPageView"]>(["operations"], { pageNumber: number, pageSize: SIZE }, signal));
  useKeys({ j: () => moveRow(1), k: () => moveRow(-1) });
  return (
    <>
      <Title text="Bulk operations" />
      <h1>Bulk operations</h1>
      <Read from={shown} lines={6}>{(page) => <Operations page={page} />}</Read>
    </>
  );
}

function Operations({ page }: { page: Schemas["OperationPageView"] }) {
  const to = (number: number) => `${viewUrl("bulk")}?page=${number}`;
  return (
    <Card id="operations" title="Operations" aside={<span class="muted">{countText(page.total)}, kept for seven days</span>}>
      {page.items.length === 0 ? <Empty>No bulk operation was made in the last seven days. Filter the <a href={viewUrl("tasks")}>tasks</a> of an endpoint, then retry, cancel or delete all that match.</Empty> : (
        <div class="wrap" tabIndex={0} role="region" aria-label="Operations">
          <table>
            <thead><tr><th scope="col">Operation</th><th scope="col">Endpoint</th><th scope="col">Change</th><th scope="col">Status</th><th scope="col">Began</th><th scope="col" class="num">Done</th><th scope="col" class="num">Skipped</th><th scope="col" class="num">Failed</th><th scope="col">Filter</th></tr></thead>
            <tbody>
              {page.items.map((one) => (
                <tr key={`${one.endpointId} ${one.operationId}`} data-row={one.operationId}>
                  <td class="mono"><a href={viewUrl("bulk", one.endpointId, one.operationId)}><Foreign text={one.operationId} limit={20} /></a></td>
                  <td>{one.endpointId}</td>
                  <td>{one.action}{one.dryRun ? ", counted only" : ""}</td>
                  <td><OperationState operation={one} /></td>
                  <td><Time at={one.startedAt} /></td>
                  <td class="num">{countText(one.done)}</td><td class="num">{countText(one.skipped)}</td><td class="num">{countText(one.failed)}</td>
                  <td class="clip">{one.filter ? <FilterWords filters={filtersOf(one)} /> : <span class="muted">{countText(one.total)} tasks by their ids</span>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {page.pages > 1 ? (
        <nav class="row pager" aria-label="Pages">
          {page.page > 1 ? <a class="btn" href={to(page.page - 1)}>Newer</a> : null}
          <span class="muted">Page {page.page} of {page.pages}</span>
          {page.page < page.pages ? <a class="btn" href={to(page.page + 1)}>Older</a> : null}
        </nav>
      ) : null}
    </Card>
  );
}

const TONES: Record<Operation["status"], string> = { running: "running", done: "succeeded", cancelled: "cancelled", failed: "failed" };

function OperationState({ operation }: { operation: Operation }) {
  return <State tone={TONES[operation.status]}>{operation.status === "cancelled" ? "stopped" : operation.status}</State>;
}

export function OperationScreen({ endpoint = "", operation = "" }: { endpoint?: string; operation?: string }) {
  const ended = useRef(false);
  const path = ["serverless", endpoint, "operations", operation];
  const shown = usePolled<Operation>(`operation ${endpoint} ${operation}`, ended.current ? 15_000 : 800, (signal) => get<Operation>(path, {}, signal), { name: `bulk:${endpoint}:${operation}`, take: (event) => event as Operation });
  ended.current = shown.data !== null && shown.data.status !== "running";
  const { run, error } = useActions(shown.again);
  const gone = <><h1>Bulk operation</h1><Empty>There is no such operation, or this key does not see it. Operations are kept for seven days. <a href={viewUrl("bulk")}>Bulk operations</a></Empty></>;
  return (
    <>
      <Title text="Bulk operation" />
      <Read from={shown} gone={gone} lines={6}>
        {(one) => (
          <>
            <div class="row spread">
              <div class="row"><a href={viewUrl("bulk")}>Bulk operations</a><span class="muted">/</span><h1>{VERBS[one.action].ask} tasks{one.dryRun ? " (counted only)" : ""}</h1><OperationState operation={one} /></div>
              {one.status === "running" ? <Action right="operate" kind="danger" act={run(() => send("POST", [...path, "cancel"]))}>Stop</Action> : null}
            </div>
            {error}
            <Progress operation={one} />
            <Facts operation={one} />
          </>
        )}
      </Read>
    </>
  );
}

function Progress({ operation }: { operation: Operation }) {
  const percent = Math.round(operation.progress * 1000) / 10;
  const seconds = ((operation.endedAt ?? Math.max(now.value, operation.updatedAt)) - operation.startedAt) / 1000;
  const rate = seconds > 0 ? Math.round((operation.done + operation.skipped + operation.failed) / seconds) : 0;
  const verb = VERBS[operation.action];
  return (
    <Card id="progress" title={operation.status === "running" ? `${verb.doing} …` : "Result"} aside={<span class="muted">{countText(rate)} tasks a second, {lengthText(seconds * 1000)}</span>}>
      <div class="body stack tight">
        <progress max="100" value={operation.status === "done" ? 100 : percent} aria-label="Progress">{percent} %</progress>
        <div class="grid4">
          <div class="figure"><span class="muted">{operation.dryRun ? "Would be changed" : verb.done[0]!.toUpperCase() + verb.done.slice(1)}</span><b>{countText(operation.done)}</b></div>
          <div class="figure"><span class="muted">Skipped</span><b>{countText(operation.skipped)}</b></div>
          <div class="figure"><span class="muted">Failed</span><b>{countText(operation.failed)}</b></div>
          <div class="figure"><span class="muted">Looked at</span><b>{countText(operation.scanned)}</b><span class="muted">of {countText(operation.total)}</span></div>
        </div>
        <SkipWords operation={operation} />
        {operation.error ? <Notice tone="bad"><Foreign text={operation.error} limit={1000} /></Notice> : null}
      </div>
    </Card>
  );
}

function Facts({ operation }: { operation: Operation }) {
  return (
    <Card id="facts" title="Facts">
      <div class="body">
        <dl class="facts">
          <dt>Operation</dt><dd class="mono"><Foreign text={operation.operationId} limit={64} /></dd>
          <dt>Endpoint</dt><dd><a href={viewUrl("endpoints", operation.endpointId)}>{operation.endpointId}</a></dd>
          <dt>Tasks</dt><dd>{operation.filter ? <><FilterWords filters={filtersOf(operation)} /> <a href={viewUrl("tasks") + listQuery(operation.endpointId, filtersOf(operation))}>Show what matches now</a></> : `${countText(operation.total)} by their ids`}</dd>
          <dt>Began</dt><dd><Time at={operation.startedAt} /></dd>
          <dt>Latest progress</dt><dd><Time at={operation.updatedAt} /></dd>
          <dt>Ended</dt><dd><Time at={operation.endedAt} /></dd>
        </dl>
      </div>
    </Card>
  );
}

/** Return the filters of an operation as a URL has them: states as one text. */
function filtersOf(operation: Operation): Filters {
  return Object.fromEntries(Object.entries(operation.filter ?? {}).map(([name, value]) => [name, Array.isArray(value) ? value.join(",") : String(value)])) as Filters;
}
