// The log of a worker, or a part of it, as it is read by `useLog`.

import { get, type Schemas } from "./api.ts";
import type { LogSource } from "./log-reader.ts";

export type WorkerLine = Schemas["LogLineView"];

const PAGE = 500;

export interface WantedLines {
  /** The first time, as the API takes it; undefined for the whole log. */
  from?: string | undefined;
  to?: string | undefined;
  keyword?: string;
  follows: boolean;
}

interface Place {
  time: string;
  offset: string;
}

interface LogEvent {
  after: Place | null;
  lines: WorkerLine[];
  next: Place | null;
}

export function workerLog(endpoint: string | number, worker: string, { from, to, keyword = "", follows }: WantedLines): LogSource<WorkerLine> {
  const path = ["serverless", endpoint, "workers", worker, "logs"];
  return {
    key: `${endpoint} ${worker} ${from ?? ""} ${to ?? ""} ${keyword}`,
    topic: to === undefined ? `log:${endpoint}:${worker}` : null,
    follows,
    takesEvents: keyword === "",
    newest: null,
    after: async (place, signal) => {
      const [time, offset] = place?.split(" ") ?? [];
      const query = { keyword: keyword || undefined, endTime: to, startTime: place === null ? from : undefined, searchAfterTime: time, searchAfterOffset: offset, pageSize: PAGE };
      const page = await get<Schemas["LogPageView"]>(path, query, signal);
      const next = page.nextSearchAfterTime === null ? null : `${page.nextSearchAfterTime} ${page.nextSearchAfterOffset ?? "0"}`;
      return { lines: page.logs, next, more: page.hasMore };
    },
    told: (event) => {
      const { after, lines, next } = event as LogEvent;
      return { before: textOf(after), part: { lines, next: textOf(next), more: false } };
    },
  };
}

function textOf(place: Place | null): string | null {
  return place === null ? null : `${place.time} ${place.offset}`;
}
