// The deliveries of an endpoint that were given up, and how all of a period are sent again.

import { useLocation } from "preact-iso";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, type Schemas, send } from "../api.ts";
import { Action, Card, Empty, ErrorNotice, Foreign, Notice, Read, Time, useActions } from "./common.tsx";
import { viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { countText } from "../times.ts";

type Page = Schemas["DeliveryPageView"];
type Part = Schemas["DeliveryCursorPageView"];
type Recovery = Schemas["RecoveryView"];

const EVERY_MS = 10_000;
const RECOVERY_MS = 2000;
const SIZE = 50;
/** Deliveries that the preview looks at. */
const COUNTED = 1000;
const HOUR_MS = 3_600_000;
const PERIODS: [string, number][] = [["the last hour", HOUR_MS], ["the last 12 hours", 12 * HOUR_MS], ["the last 7 days", 168 * HOUR_MS]];

export function GivenUpDeliveries({ endpoint }: { endpoint: Endpoint }) {
  const { query } = useLocation();
  const destination = query["destination"] ?? "";
  if (destination !== "" || query["cursor"] !== undefined) return <GivenUpPart endpoint={endpoint} destination={destination} cursor={query["cursor"] ?? ""} />;
  return <NewestGivenUp endpoint={endpoint} />;
}

function urlOf(endpoint: Endpoint, destination: string, cursor: string): string {
  const given = new URLSearchParams({ ...(destination === "" ? {} : { destination }), ...(cursor === "" ? {} : { cursor }) }).toString();
  return `${viewUrl("endpoints", endpoint.id, "deliveries")}${given === "" ? "" : `?${given}`}`;
}

/** Those to one destination, or those behind a cursor. A page looks at a limited number of deliveries. */
function GivenUpPart({ endpoint, destination, cursor }: { endpoint: Endpoint; destination: string; cursor: string }) {
  const asked = { cursor, pageSize: SIZE, ...(destination === "" ? {} : { destination }) };
  const shown = usePolled(`deliveries ${endpoint.id} ${destination} ${cursor}`, EVERY_MS, (signal) => get<Part>(["serverless", endpoint.id, "deliveries"], asked, signal));
  const { run, error } = useActions(shown.again);
  return (
    <Read from={shown}>
      {(part) => (
        <Card id="given-up" title="Results that were given up" aside={<><span class="muted">{countText(part.scanned)} looked at</span> <a class="btn" href={urlOf(endpoint, "", "")}>All destinations</a></>}>
          {destination === "" ? null : <div class="body">To <code><Foreign text={destination} limit={120} /></code></div>}
          {error}
          {part.items.length === 0 ? <Empty>{part.nextCursor === null ? "No further result was given up." : "None of these; others follow."}</Empty> : <Rows items={part.items} endpoint={endpoint} run={run} />}
          <nav class="row pager" aria-label="Pages">
            {cursor === "" ? null : <a class="btn" href={urlOf(endpoint, destination, "")}>Newest</a>}
            {part.nextCursor === null ? null : <a class="btn" href={urlOf(endpoint, destination, part.nextCursor)}>Older</a>}
          </nav>
        </Card>
      )}
    </Read>
  );
}

function Rows({ items, endpoint, run }: { items: Page["items"]; endpoint: Endpoint; run: (call: () => Promise<unknown>) => () => Promise<void> }) {
  return (
    <div class="wrap" tabIndex={0} role="region" aria-label="Results that were given up">
      <table>
        <thead><tr><th scope="col">Task</th><th scope="col">Given up</th><th scope="col" class="num">Attempts</th><th scope="col">Webhook</th><th scope="col">Error</th><th scope="col"><span class="vh">Actions</span></th></tr></thead>
        <tbody>
          {items.map((one) => (
            <tr key={one.taskId}>
              <td class="mono"><a href={viewUrl("tasks", endpoint.id, one.taskId)}><Foreign text={one.taskId} limit={60} /></a></td>
              <td><Time at={one.givenUpAt} /></td>
              <td class="num">{one.attempts}</td>
              <td class="clip mono" title={one.webhook ?? ""}><Foreign text={one.webhook ?? "–"} limit={200} /></td>
              <td class="clip"><Foreign text={one.error ?? "–"} limit={200} /></td>
              <td><Action right="operate" act={run(() => send("POST", ["serverless", endpoint.id, "tasks", one.taskId, "deliveries", "retry"]))}>Send again</Action></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function NewestGivenUp({ endpoint }: { endpoint: Endpoint }) {
  const shown = usePolled(`deliveries ${endpoint.id}`, EVERY_MS, (signal) => get<Page>(["serverless", endpoint.id, "deliveries"], { pageSize: SIZE }, signal));
  const { run, error } = useActions(shown.again);
  const [asks, setAsks] = useState(false);
  return (
    <>
      <RecoveryNote endpoint={endpoint} />
      <Read from={shown}>
        {(page) => (
          <Card id="given-up" title="Results that were given up" aside={<><span class="muted">{countText(page.total)}</span> <Action right="operate" act={async () => setAsks(true)} because={page.total === 0 ? "There is none" : null}>Send all again…</Action></>}>
            {error}
            {page.items.length === 0 ? <Empty>Every result has reached its webhook, waits for its next attempt, or has no webhook.</Empty> : <Rows items={page.items} endpoint={endpoint} run={run} />}
            {page.total > page.items.length ? <nav class="row pager" aria-label="Pages"><span class="muted">The newest {page.items.length} of {countText(page.total)} are shown.</span><a class="btn" href={urlOf(endpoint, "", placeOf(page))}>Older</a></nav> : null}
          </Card>
        )}
      </Read>
      {asks ? <RecoverDialog endpoint={endpoint} close={() => { setAsks(false); shown.again(); }} /> : null}
    </>
  );
}

/** The place of the last row, as a cursor of the API. */
function placeOf({ items }: Page): string {
  const last = items[items.length - 1];
  return last === undefined ? "" : `${last.givenUpAt}-${last.taskId}`;
}

/** The latest recovery; nothing without one. */
function RecoveryNote({ endpoint }: { endpoint: Endpoint }) {
  const shown = usePolled(`recovery ${endpoint.id}`, RECOVERY_MS, async (signal) => {
    try {
      return { found: await get<Recovery>(["serverless", endpoint.id, "deliveries", "recover"], {}, signal) };
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return { found: null };
      throw error;
    }
  });
  const { run, error } = useActions(shown.again);
  const found = shown.data?.found;
  if (!found) return null;
  const isRunning = found.state === "running";
  return (
    <Notice tone="info">
      <b>{isRunning ? "Given-up results are being sent again." : "The latest recovery has ended."}</b> {countText(found.recovered)} of {countText(found.total)} were made due.{" "}
      {isRunning ? <Action right="operate" act={run(() => send("DELETE", ["serverless", endpoint.id, "deliveries", "recover"]))}>Stop</Action> : null}
      {error}
    </Notice>
  );
}

function RecoverDialog({ endpoint, close }: { endpoint: Endpoint; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [period, setPeriod] = useState(HOUR_MS);
  const [page, setPage] = useState<Page | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const [busy, setBusy] = useState(false);
  const began = useRef(Math.floor(now.value));
  useEffect(() => {
    dialog.current?.showModal();
    get<Page>(["serverless", endpoint.id, "deliveries"], { pageSize: COUNTED }).then(setPage, (caught) => setError(caught as ApiError));
  }, []);
  const since = began.current - period;
  const count = page?.items.filter((one) => one.givenUpAt >= since).length ?? 0;
  const isMore = page !== null && count === page.items.length && page.total > count;
  const begin = async (event: Event) => {
    event.preventDefault();
    if (busy || count === 0) return;
    setBusy(true);
    try {
      await send<Recovery>("POST", ["serverless", endpoint.id, "deliveries", "recover"], JSON.stringify({ since }));
      close();
    } catch (caught) {
      setError(caught instanceof ApiError ? caught : new ApiError(-1, String(caught)));
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} class="card" onClose={close} aria-labelledby="recover-title">
      <form class="body stack" onSubmit={(event) => void begin(event)}>
        <h2 id="recover-title">Send given-up results of <Foreign text={endpoint.name} limit={80} /> again</h2>
        <div>
          <label for="period">Given up in</label>{" "}
          <select id="period" class="field narrow" value={period} onChange={(event) => setPeriod(Number(event.currentTarget.value))}>
            {PERIODS.map(([word, ms]) => <option key={ms} value={ms}>{word}</option>)}
          </select>
        </div>
        <p role="status">{page === null ? "Counting …" : `${isMore ? "More than " : ""}${countText(count)} ${count === 1 && !isMore ? "result" : "results"} would be sent again, a few at a time, behind fresh ones.`}</p>
        {error ? <ErrorNotice error={error} /> : null}
        <div class="row">
          <button class="btn main" type="submit" aria-disabled={count === 0 || busy ? "true" : undefined}>Send again</button>
          <button class="btn" type="button" autofocus onClick={close}>Close</button>
        </div>
      </form>
    </dialog>
  );
}
