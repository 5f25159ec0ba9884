// The logs of all workers of an endpoint, merged by time: what to look for and since when is in the URL.

import { useLocation } from "preact-iso";
import { useState } from "preact/hooks";
import { type Endpoint, get, type Schemas } from "../api.ts";
import { Card, Empty, ErrorNotice } from "./common.tsx";
import { LogLines, MAX_LINES } from "./log-lines.tsx";
import { type LogQuery, logQueryIn, LogSearch } from "./log-search.tsx";
import { NEVER } from "./payload.tsx";
import { type LogSource, useLog } from "../log-reader.ts";
import { givenQuery, PAYLOADS, viewUrl } from "../place.ts";

type Page = Schemas["EndpointLogPageView"];
type Line = Page["logs"][number];

const PAGE = 500;

interface LogEvent {
  after: string | null;
  lines: Line[];
  next: string | null;
}

export function EndpointLog({ endpoint }: { endpoint: Endpoint }) {
  const [isShown, setShown] = useState(PAYLOADS === "show");
  if (PAYLOADS === "never") return <Card id="logs" title="Logs of all workers"><Empty>{NEVER}</Empty></Card>;
  if (isShown) return <Log endpoint={endpoint} />;
  return <Card id="logs" title="Logs of all workers"><div class="body"><button class="btn" type="button" onClick={() => setShown(true)}>Show the logs</button></div></Card>;
}

function Log({ endpoint }: { endpoint: Endpoint }) {
  const { query, route } = useLocation();
  const { keyword, since } = logQueryIn(query, "since");
  const [follows, setFollows] = useState(true);
  const log = useLog(sourceOf(endpoint.id, keyword, since, follows));
  const look = (asked: LogQuery) => route(viewUrl("endpoints", endpoint.id, "logs") + givenQuery({ keyword: asked.keyword, since: asked.since }));
  const tools = (
    <>
      <LogSearch keyword={keyword} since={since} look={look} />
      <button class="btn" type="button" aria-pressed={follows} onClick={() => setFollows(!follows)}>Follow</button>
    </>
  );
  return (
    <Card id="logs" title="Logs of all workers" aside={tools}>
      {log.error ? <ErrorNotice error={log.error} /> : null}
      {log.left ? <div class="body muted">Only the newest {MAX_LINES} lines are kept here.</div> : null}
      {log.complete ? null : <div class="body muted">The endpoint has more than 100 logs; those that were written last are shown.</div>}
      {log.lines.length === 0 ? <Empty>{log.isRead ? (keyword !== "" || since !== "" ? "No line matches." : "No worker has written anything.") : "Reading …"}</Empty> : <LogLines lines={log.lines} follows={follows} endpoint={endpoint.id} />}
    </Card>
  );
}

/** Return the log of an endpoint: its newest lines, or those since a time, and then what is added. */
function sourceOf(endpoint: string, keyword: string, since: string, follows: boolean): LogSource<Line> {
  const path = ["serverless", endpoint, "logs"];
  const given = { keyword: keyword || undefined, pageSize: PAGE };
  return {
    key: `${endpoint} ${since} ${keyword}`,
    topic: `logs:${endpoint}`,
    follows,
    takesEvents: keyword === "",
    newest: since !== "" ? null : async (signal) => {
      const page = await get<Page>(path, { ...given, direction: "Backward" }, signal);
      const newest = page.logs[0];
      const next = newest === undefined ? null : `${Date.parse(newest.timestamp)}-${newest.offset}-${newest.workerId}`;
      return { lines: [...page.logs].reverse(), next, more: true, complete: page.complete };
    },
    after: async (place, signal) => {
      const page = await get<Page>(path, { ...given, cursor: place ?? undefined, startTime: place === null ? since || undefined : undefined }, signal);
      return { lines: page.logs, next: page.nextCursor, more: page.hasMore, complete: page.complete };
    },
    told: (event) => {
      const { after, lines, next } = event as LogEvent;
      return { before: after, part: { lines, next, more: false } };
    },
  };
}
