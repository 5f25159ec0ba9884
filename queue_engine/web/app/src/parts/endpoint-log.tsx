// The logs of all workers of an endpoint, merged by time: what to look for and since when is in the URL.

import { useLocation } from "preact-iso";
import { useEffect, useState } from "preact/hooks";
import { ApiError, type Endpoint, get, type Schemas } from "../api.ts";
import { Card, Empty, ErrorNotice } from "./common.tsx";
import { LogLines, MAX_LINES } from "./log-lines.tsx";
import { NEVER } from "./payload.tsx";
import { follow, isLive } from "../events.ts";
import { PAYLOADS, viewUrl } from "../place.ts";
import { isPaused } from "../state.ts";

type Page = Schemas["EndpointLogPageView"];
type Line = Page["logs"][number];

const PAGE = 500;
const FOLLOW_MS = 2000;
const MAX_KEYWORD = 255;

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
  const keyword = (query["keyword"] ?? "").slice(0, MAX_KEYWORD);
  const since = query["since"] ?? "";
  const [follows, setFollows] = useState(true);
  const log = useEndpointLog(endpoint.id, keyword, since, follows);
  const look = (event: Event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const asked = new URLSearchParams();
    for (const name of ["keyword", "since"]) {
      const value = ((form.get(name) as string | null) ?? "").trim();
      if (value !== "") asked.set(name, value);
    }
    const text = asked.toString();
    route(`${viewUrl("endpoints", endpoint.id, "logs")}${text ? `?${text}` : ""}`);
  };
  const tools = (
    <>
      <form class="row" onSubmit={look}>
        <input key={`k ${keyword}`} class="field narrow" name="keyword" type="search" defaultValue={keyword} maxLength={MAX_KEYWORD} aria-label="Only lines with this text" placeholder="only lines with …" />
        <input key={`s ${since}`} class="field narrow" name="since" type="search" defaultValue={since} aria-label="From this time on, in UTC" placeholder="from 2026-01-31T12:00:00" />
        <button class="btn" type="submit">Look</button>
      </form>
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

/** Read the newest lines, or those since a time, and then what is added. */
function useEndpointLog(endpoint: string, keyword: string, since: string, follows: boolean) {
  const [held, hold] = useState<{ lines: Line[]; left: boolean; complete: boolean; isRead: boolean; error: ApiError | null }>({ lines: [], left: false, complete: true, isRead: false, error: null });
  const topic = `logs:${endpoint}`;
  useEffect(() => (follows ? follow(topic, () => null) : undefined), [topic, follows]);
  const isTold = follows && isLive.value;
  useEffect(() => {
    const ended = new AbortController();
    const path = ["serverless", endpoint, "logs"];
    const given = { keyword: keyword || undefined, pageSize: PAGE };
    let timer = 0;
    let cursor: string | undefined;
    let hasBegun = since !== "";
    let isReading = true;
    let isMissed = false;
    const add = (lines: Line[], complete: boolean | null) => hold((before) => {
      const all = [...before.lines, ...lines];
      return { lines: all.slice(-MAX_LINES), left: before.left || all.length > MAX_LINES, complete: complete ?? before.complete, isRead: true, error: null };
    });
    /** Read the newest page backward, so that a long log is not read from its beginning. */
    const begin = async () => {
      const page = await get<Page>(path, { ...given, direction: "Backward" }, ended.signal);
      const newest = page.logs[0];
      if (ended.signal.aborted) return;
      if (newest !== undefined) cursor = `${Date.parse(newest.timestamp)}-${newest.offset}-${newest.workerId}`;
      add([...page.logs].reverse(), page.complete);
      hasBegun = true;
    };
    const readOn = async () => {
      let more = true;
      while (more && !ended.signal.aborted) {
        const page = await get<Page>(path, { ...given, cursor, startTime: cursor === undefined ? since || undefined : undefined }, ended.signal);
        if (ended.signal.aborted) return;
        cursor = page.nextCursor ?? cursor;
        add(page.logs, page.complete);
        more = page.hasMore;
      }
    };
    const step = async () => {
      if (document.hidden || isPaused.value) { timer = window.setTimeout(() => void step(), FOLLOW_MS); return; }
      try {
        if (!hasBegun) await begin();
        await readOn();
      } catch (caught) {
        if (ended.signal.aborted) return;
        const error = caught instanceof ApiError ? caught : new ApiError(-1, String(caught));
        hold((before) => ({ ...before, isRead: true, error }));
        if (error.status === 400) return;
      }
      isReading = false;
      if (isMissed) return again();
      if (follows && !isTold) timer = window.setTimeout(() => void step(), FOLLOW_MS);
    };
    /** Read on from the newest line that is known. During a read it is noted only. */
    const again = () => {
      isMissed = isReading;
      if (isReading) return;
      isReading = true;
      void step();
    };
    // Events have the lines that were added, if no line was missed and none is left out.
    const took = (event: unknown) => {
      if (event === null || ended.signal.aborted) return;
      const { after, lines, next } = event as LogEvent;
      const isNext = !isReading && keyword === "" && after !== null && after === cursor;
      if (!isNext) return again();
      cursor = next ?? cursor;
      if (lines.length > 0) add(lines, null);
    };
    const unfollow = isTold ? follow(topic, took) : null;
    hold({ lines: [], left: false, complete: true, isRead: false, error: null });
    void step();
    return () => { ended.abort(); clearTimeout(timer); unfollow?.(); };
  }, [endpoint, keyword, since, follows, isTold]);
  return held;
}
