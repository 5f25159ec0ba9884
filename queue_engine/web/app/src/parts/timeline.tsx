import { useState } from "preact/hooks";
import type { Attempt, DeliveryAttempt, TaskDetail } from "../api.ts";
import { Card, ErrorNotice, Foreign, Time } from "./common.tsx";
import { LogLines, MAX_LINES } from "./log-lines.tsx";
import { State } from "./shapes.tsx";
import { useLog } from "../log-reader.ts";
import { PAYLOADS, viewUrl } from "../place.ts";
import { now } from "../state.ts";
import { barOf, type Row, rowsOf, spanOf, sumsOf } from "../timeline.ts";
import { agoText, lengthText } from "../times.ts";
import { workerLog } from "../worker-log.ts";

type Task = TaskDetail["task"];

const AROUND_MS = 1000;

const OUTCOMES: Record<string, string> = {
  running: "runs now", ok: "succeeded", error: "failed", timeout: "timed out", busy: "the container was busy", no_connection: "no connection to the container",
  connection_lost: "the connection was lost", lost: "the worker was lost", released: "released, does not count", cancelled: "cancelled",
};

export function Timeline({ task, attempts, deliveries }: { task: Task; attempts: Attempt[]; deliveries: DeliveryAttempt[] }) {
  const at = now.value;
  const rows = rowsOf(task, attempts, deliveries, at);
  const span = spanOf(rows, at);
  const sums = sumsOf(rows, at);
  const parts = [`${lengthText(sums.waiting)} waiting`, `${lengthText(sums.running)} in attempts`];
  if (deliveries.length > 0) parts.push(`${lengthText(sums.delivering)} to deliver`);
  return (
    <Card id="timeline" title="Timeline" aside={<span class="muted">{lengthText(span.end - span.start)} {task.finishedAt === null ? "so far" : "in all"}: {parts.join(", ")}</span>}>
      <div class="tl">
        <div class="axis" /><div class="axis"><Time at={span.start} /><Time at={span.end} /></div><div class="axis" />
        {rows.map((row, index) => <TimelineRow key={`${row.label} ${row.start}`} row={row} task={task} span={span} at={at} isLast={index === rows.length - 1} />)}
      </div>
    </Card>
  );
}

function TimelineRow({ row, task, span, at, isLast }: { row: Row; task: Task; span: { start: number; end: number }; at: number; isLast: boolean }) {
  const { x, width } = barOf(row, span, at);
  const detail = detailOf(row, task, at);
  const more = detail === null ? (isLast ? " last" : "") : " more";
  const fill = { "timed-out": "failed", dead: "failed", cancelled: "queued" }[row.tone] ?? row.tone;
  return (
    <>
      <div class={`what${more}`}><State tone={row.tone}>{row.label}</State></div>
      <div class={`bars${more}`}>
        <svg viewBox="0 0 1000 20" preserveAspectRatio="none" aria-hidden="true"><rect class="f-muted" x="0" y="9.4" width="1000" height="1" /><rect class={`f-${fill}`} x={x} y="3" width={width} height="14" rx="2" /></svg>
      </div>
      <div class={`num nowrap${more}`}>{lengthText((row.end ?? at) - row.start)}{row.end === null ? " …" : ""}</div>
      {detail === null ? null : <><div class={`detail0${isLast ? " last" : ""}`} /><div class={`detail${isLast ? " last" : ""}`}>{detail}</div></>}
    </>
  );
}

function detailOf(row: Row, task: Task, at: number) {
  if (row.attempt) return <AttemptDetail row={row} task={task} />;
  if (row.delivery) {
    const { status, error, response, trigger } = row.delivery as DeliveryAttempt;
    return <>POST <Foreign text={hostOf(task.webhook)} limit={100} /> · {status === null ? "no response" : <b>{status}</b>}{error ? <> · <Foreign text={error} limit={100} /></> : null}{trigger === "result" ? null : <> · by hand ({trigger})</>}{response ? <> · <code><Foreign text={response} limit={200} /></code></> : null}</>;
  }
  if (row.until !== undefined) return <>the next attempt to deliver is {agoText(at - row.until)}{task.deliveryParked ? "; the receiver does not respond, so all its deliveries wait" : ""}</>;
  const next = row.end === null && task.nextAttemptAt !== null ? <>the {task.startedAt === null ? "first" : "next"} attempt is due {agoText(at - task.nextAttemptAt)}</> : null;
  const expiry = row.end === null && task.expiresAt !== null ? <>expires {agoText(at - task.expiresAt)}, if no attempt begins: <code>queueTtlSeconds</code> is {task.queueTtlSeconds}</> : null;
  return next === null ? expiry : <>{next}{expiry === null ? null : <>; {expiry}</>}</>;
}

function AttemptDetail({ row, task }: { row: Row; task: Task }) {
  const attempt = row.attempt!;
  const [isShown, setShown] = useState(false);
  const from = attempt.startedAt - AROUND_MS;
  const to = attempt.endedAt === null ? undefined : attempt.endedAt + AROUND_MS;
  const log = `${viewUrl("workers", task.endpointId, attempt.workerId)}?from=${from}${to === undefined ? "" : `&to=${to}`}`;
  return (
    <>
      worker <a href={viewUrl("workers", task.endpointId, attempt.workerId)}><Foreign text={attempt.workerId} limit={63} /></a> · {OUTCOMES[attempt.outcome] ?? attempt.outcome}
      {attempt.tries > 1 ? ` · ${attempt.tries} tries` : ""}{attempt.error ? <>: <Foreign text={attempt.error} limit={300} /></> : null} · <a href={log}>its log in this time</a>
      {PAYLOADS === "never" ? null : <> <button class="btn" type="button" aria-expanded={isShown} onClick={() => setShown(!isShown)}>{isShown ? "Hide the log" : "Show the log"}</button></>}
      {isShown ? <AttemptLog endpoint={task.endpointId} worker={attempt.workerId} from={from} to={to} /> : null}
    </>
  );
}

/** What the worker wrote while it ran the attempt. A worker may run several tasks at once, and its lines name none. */
function AttemptLog({ endpoint, worker, from, to }: { endpoint: number; worker: string; from: number; to: number | undefined }) {
  const log = useLog(workerLog(endpoint, worker, { from: String(from), to: to === undefined ? undefined : String(to), follows: to === undefined }));
  return (
    <div class="stack tight">
      <span class="muted">Lines of this worker from a second before the attempt to a second after it. If it runs several tasks at once, lines of the others are among them.</span>
      {log.error ? <ErrorNotice error={log.error} /> : null}
      {log.left ? <span class="muted">Only the newest {MAX_LINES} lines are shown.</span> : null}
      {log.lines.length > 0 ? <LogLines lines={log.lines} follows={to === undefined} /> : log.isRead ? <span class="muted">The worker wrote nothing in this time, or its log is no longer kept.</span> : <span class="muted">Reading …</span>}
    </div>
  );
}

function hostOf(url: string | null): string {
  try {
    return new URL(url ?? "").host;
  } catch {
    return "the webhook";
  }
}
