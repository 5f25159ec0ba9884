// The list of tasks as its URL: every view can be sent to a colleague. The names in the URL are those of the API.

import { inZone, timeText, type Zone } from "./times.ts";

export const STATUSES = ["PROCESSING", "SUCCESS", "DELIVERED", "FAILED"] as const;
export const STATES = ["queued", "scheduled", "running", "succeeded", "failed", "timed_out", "dead", "cancelled", "expired"] as const;
export const PAGE_SIZE = 50;
const MAX_CHARACTERS = 2000;

interface Filter {
  /** The word that is typed before the value. */
  word: string;
  kind: "status" | "states" | "time" | "text";
  example: string;
}

/** The filters of the API by their names. */
export const FILTERS = {
  status: { word: "status", kind: "status", example: "FAILED" },
  state: { word: "state", kind: "states", example: "failed,dead" },
  errorContains: { word: "error", kind: "text", example: "CUDA out of memory" },
  errorSignature: { word: "same-error", kind: "text", example: "HTTP 500: no model #" },
  idPrefix: { word: "id", kind: "text", example: "call_22" },
  createdAfter: { word: "after", kind: "time", example: "1h" },
  createdBefore: { word: "before", kind: "time", example: "2026-01-31T12:00" },
  finishedAfter: { word: "ended-after", kind: "time", example: "15m" },
  finishedBefore: { word: "ended-before", kind: "time", example: "2026-01-31T12:00" },
  tag: { word: "tag", kind: "text", example: "nightly" },
  fairnessKey: { word: "key", kind: "text", example: "customer-7" },
  workerId: { word: "worker", kind: "text", example: "w-91aa" },
  deliveryStatus: { word: "delivery", kind: "text", example: "MAX_RETRIES_EXCEEDED" },
  destination: { word: "destination", kind: "text", example: "https://hooks.example.com" },
  input: { word: "input", kind: "text", example: "a text of the input" },
} as const satisfies Record<string, Filter>;

export type FilterName = keyof typeof FILTERS;
export type Filters = Partial<Record<FilterName, string>>;

export interface View {
  endpoint: string | null;
  filters: Filters;
  /** Where the page begins; empty for the newest tasks. */
  cursor: string;
}

export const NAMES = Object.keys(FILTERS) as FilterName[];

/** Return the view that a query names. A wrong value stays, so that the API says what is wrong with it. */
export function viewOf(query: Record<string, string>): View {
  const endpoint = /^[1-9][0-9]{0,15}$/.test(query["endpoint"] ?? "") ? query["endpoint"]! : null;
  const filters: Filters = {};
  for (const name of NAMES) {
    const value = query[name]?.slice(0, MAX_CHARACTERS);
    if (value !== undefined && value !== "") filters[name] = value;
  }
  return { endpoint, filters, cursor: query["cursor"]?.slice(0, MAX_CHARACTERS) ?? "" };
}

/** Return the query of a view, without what is the same by default. */
export function queryOf(view: View): string {
  const parts = new URLSearchParams();
  if (view.endpoint !== null) parts.set("endpoint", view.endpoint);
  for (const name of NAMES) {
    const value = view.filters[name];
    if (value !== undefined) parts.set(name, value);
  }
  if (view.cursor !== "") parts.set("cursor", view.cursor);
  const text = parts.toString();
  return text === "" ? "" : `?${text}`;
}

/** Return the query of the newest tasks of an endpoint. */
export function listQuery(endpoint: string | number | null, filters: Filters = {}): string {
  return queryOf({ endpoint: endpoint === null ? null : String(endpoint), filters, cursor: "" });
}

/** Return the filters of the times at which tasks ended. */
export function periodOf({ finishedAfter, finishedBefore }: Filters): Filters {
  return { ...(finishedAfter === undefined ? {} : { finishedAfter }), ...(finishedBefore === undefined ? {} : { finishedBefore }) };
}

/** Return filters without one. */
export function without(filters: Filters, name: FilterName): Filters {
  const { [name]: _, ...rest } = filters;
  return rest;
}

export type Typed = { name: FilterName; value: string } | { fault: string };

/** Return the filter that was typed, such as `error:no model`. Text without a word is searched in errors. */
export function typed(text: string, now: number, zone: Zone): Typed {
  const found = /^\s*([a-z-]+)\s*:\s*(.*?)\s*$/s.exec(text);
  const name = found === null ? undefined : NAMES.find((one) => FILTERS[one].word === found[1]);
  if (found === null || (name === undefined && !/^[a-z-]+$/.test(found[1]!))) return { name: "errorContains", value: text.trim() };
  if (name === undefined) return { fault: `There is no filter "${found[1]}". There are: ${NAMES.map((one) => FILTERS[one].word).join(", ")}.` };
  const value = found[2]!;
  if (value === "") return { fault: `A value is needed, such as ${FILTERS[name].word}:${FILTERS[name].example}` };
  if (FILTERS[name].kind !== "time") return { name, value };
  const at = timeOf(value, now, zone);
  return at === null ? { fault: "A time is needed: 15m, 1h or 2d ago, or 2026-01-31T12:00" } : { name, value: String(at) };
}

/** Return a filter as it is shown: a time as a time, not as the number that the API takes. */
export function shownValue(name: FilterName, value: string, zone: Zone, now: number): string {
  const isNumber = FILTERS[name].kind === "time" && /^[0-9]{1,15}$/.test(value);
  return isNumber ? timeText(Number(value), zone, now) : value;
}

/** Return the time that a text names: a length before now, or a date with a time, in the zone that is shown. */
export function timeOf(text: string, now: number, zone: Zone): number | null {
  const ago = /^(?:last\s+)?([0-9]{1,4}(?:\.[0-9]+)?)\s*(s|m|h|d)$/.exec(text);
  if (ago !== null) return Math.round(now - Number(ago[1]) * { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[ago[2]!]!);
  if (/^[0-9]{12,15}$/.test(text)) return Number(text);
  if (!/^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?$/.test(text)) return null;
  const iso = text.length === 10 ? `${text}T00:00` : text.replace(" ", "T");
  const hasZone = /(Z|[+-][0-9]{2}:?[0-9]{2})$/.test(iso);
  const at = Date.parse(hasZone ? iso : `${iso}Z`);
  return Number.isNaN(at) ? null : hasZone ? at : inZone(at, zone);
}
