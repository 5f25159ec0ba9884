import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { type Endpoint, get, send, type Worker } from "../api.ts";
import { Action, Card, Confirm, Empty, ErrorNotice, Foreign, Read, Time, Title, useActions } from "../parts/common.tsx";
import { LogLines, MAX_LINES } from "../parts/log-lines.tsx";
import { type LogQuery, logQueryIn, LogSearch } from "../parts/log-search.tsx";
import { PlatformState } from "../parts/shapes.tsx";
import { useLog } from "../log-reader.ts";
import { workerLog } from "../worker-log.ts";
import { NEVER } from "../parts/payload.tsx";
import { givenQuery, PAYLOADS, viewUrl } from "../place.ts";
import { usePolled } from "../polled.ts";
import { now } from "../state.ts";
import { agoText } from "../times.ts";

export function WorkerScreen({ endpoint = "", worker = "" }: { endpoint?: string; worker?: string }) {
  const of = usePolled(`${endpoint}`, 10_000, (signal) => get<Endpoint>(["serverless", endpoint], {}, signal));
  const all = usePolled(`workers ${endpoint}`, 3000, (signal) => get<Worker[]>(["serverless", endpoint, "workers"], {}, signal));
  const found = all.data?.find((one) => one.workerId === worker);
  return (
    <>
      <Title text={`Worker ${worker}`} />
      <div class="row">
        <a href={viewUrl("endpoints", endpoint, "workers")}><Foreign text={of.data?.name ?? `endpoint ${endpoint}`} limit={80} /></a><span class="muted">/</span>
        <h1 class="mono"><Foreign text={worker} limit={63} /></h1>{found ? <PlatformState status={found.status} /> : null}
      </div>
      <Read from={all} lines={2}>{() => (found ? <Facts endpoint={endpoint} worker={found} again={all.again} /> : <Empty>This worker has ended. Its log can be read for a time after that.</Empty>)}</Read>
      {PAYLOADS === "never" ? <Card id="log" title="Log"><Empty>{NEVER}</Empty></Card> : <HiddenLog key={`${endpoint} ${worker}`} endpoint={endpoint} worker={worker} />}
    </>
  );
}

function Facts({ endpoint, worker, again }: { endpoint: string; worker: Worker; again: () => void }) {
  const { run, error } = useActions(again);
  const [draining, setDraining] = useState(false);
  const path = ["serverless", endpoint, "workers", worker.workerId];
  const because = worker.status === "STOPPING" ? "It is being stopped" : null;
  const buttons = (
    <>
      <Action right="operate" because={because} act={run(() => send("POST", [...path, "restart"]))}>Replace</Action>
      <Action right="operate" because={because} kind="danger" act={async () => setDraining(true)}>Remove…</Action>
    </>
  );
  return (
    <Card id="worker" title="Worker" aside={buttons}>
      {error}
      {draining ? <Confirm question="Remove this worker? Its tasks finish within the grace period or are queued again, and the endpoint has one worker less." yes="Remove the worker" close={() => setDraining(false)} act={async () => { await send("POST", [...path, "drain"]); again(); }} /> : null}
      <div class="body">
        <dl class="facts">
          <dt>Since</dt><dd><Time at={worker.createdAt} /></dd>
          <dt>Last report</dt><dd>{worker.lastHeartbeatAt === null ? "none yet" : agoText(now.value - worker.lastHeartbeatAt)}</dd>
          <dt>Running tasks</dt><dd>{worker.runningTasks}</dd>
          <dt>Restarts</dt><dd>{worker.restarts}</dd>
          <dt>GPU, region</dt><dd><Foreign text={[worker.gpuType, worker.region].filter(Boolean).join(", ") || "not known"} limit={80} /></dd>
          {worker.error ? <><dt>Error</dt><dd><code><Foreign text={worker.error} limit={2000} /></code></dd></> : null}
        </dl>
      </div>
    </Card>
  );
}

function HiddenLog({ endpoint, worker }: { endpoint: string; worker: string }) {
  const [isShown, setShown] = useState(PAYLOADS === "show");
  if (isShown) return <Log endpoint={endpoint} worker={worker} />;
  return <Card id="log" title="Log"><div class="body"><button class="btn" type="button" onClick={() => setShown(true)}>Show the log</button></div></Card>;
}

function Log({ endpoint, worker }: { endpoint: string; worker: string }) {
  const { query, route } = useLocation();
  const { keyword, since } = logQueryIn(query, "from");
  const [follows, setFollows] = useState(query["to"] === undefined);
  const log = useLog(workerLog(endpoint, worker, { from: since || undefined, to: query["to"], keyword, follows }));
  // Another time ends the period of an attempt.
  const look = (asked: LogQuery) => route(viewUrl("workers", endpoint, worker) + givenQuery({ keyword: asked.keyword, from: asked.since, to: asked.since === since ? query["to"] : undefined }));
  const part = since === "" && query["to"] === undefined ? null : <a class="btn" href={viewUrl("workers", endpoint, worker)}>Whole log</a>;
  const tools = (
    <>
      {part}
      <LogSearch keyword={keyword} since={since} look={look} />
      <button class="btn" type="button" aria-pressed={follows} onClick={() => setFollows(!follows)}>Follow</button>
    </>
  );
  return (
    <Card id="log" title="Log" aside={tools}>
      {log.error ? <ErrorNotice error={log.error} /> : null}
      {log.left ? <div class="body muted">Only the newest {MAX_LINES} lines are kept here.</div> : null}
      {log.lines.length === 0 ? <Empty>{log.isRead ? (keyword !== "" || since !== "" ? "No line matches." : "The container has written nothing.") : "Reading …"}</Empty> : <LogLines lines={log.lines} follows={follows} />}
    </Card>
  );
}
