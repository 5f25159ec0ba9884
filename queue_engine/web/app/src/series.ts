// Figures over time, as charts show them: the period in the URL, rates, gaps, a summary in words and a table.

import { countText, lengthText, timeText, type Zone } from "./times.ts";

export type Values = (number | null)[];

export interface Series {
  from: number;
  to: number;
  stepSeconds: number;
  metrics: Record<string, Values>;
}

/** The figures that a view asks for. */
export const METRICS = "queued,running,scheduled,undelivered,oldest,slots,submitted,succeeded,failed,covered,waitP50,waitP95,runP50,runP95";

const HOUR = 3_600_000;
export const RANGES = { "1h": HOUR, "24h": 24 * HOUR, "14d": 14 * 24 * HOUR } as const;
export type Range = keyof typeof RANGES;

/** The period of a view: one of the ranges that end now, or two times in epoch milliseconds. */
export type Span = { range: Range } | { from: number; to: number };

/** Return the period in the query of an URL: the latest hour without one. */
export function spanIn(query: Record<string, string | undefined>): Span {
  const from = Number(query["from"]);
  const to = Number(query["to"]);
  if (query["from"] && query["to"] && Number.isSafeInteger(from) && Number.isSafeInteger(to) && 0 <= from && from < to) return { from, to };
  const range = query["range"];
  return { range: range === "24h" || range === "14d" ? range : "1h" };
}

/** Return the query of a period for an URL: nothing for the latest hour. */
export function spanQuery(span: Span): string {
  if ("from" in span) return `?from=${span.from}&to=${span.to}`;
  return span.range === "1h" ? "" : `?range=${span.range}`;
}

/** Return the query of a period for the API. `now` is the store's time. */
export function askedFor(span: Span, now: number): Record<string, number | string> {
  const period = "from" in span ? { from: span.from, to: span.to } : { from: Math.max(0, Math.round(now - RANGES[span.range])) };
  return { metric: METRICS, ...period };
}

/** Return how often the period is read again: as often as there is a new sample, and never if it is over. */
export function everyMs(span: Span): number {
  return "from" in span ? 0 : 30_000;
}

/** A line of a chart. */
export interface Line {
  word: string;
  tone: "queued" | "running" | "succeeded" | "failed" | "scheduled";
  values: Values;
  unit: "count" | "rate" | "ms";
}

export function valuesOf(series: Series, name: string): Values {
  return series.metrics[name] ?? [];
}

/** Add two figures. The sum of a gap is a gap. */
export function added(one: Values, other: Values): Values {
  return one.map((value, index) => (value === null || other[index] == null ? null : value + other[index]!));
}

/** Return a count of tasks as tasks a minute. After a gap it includes the tasks of the gap, so the time that is covered divides it. */
export function perMinute(series: Series, name: string): Values {
  const covered = valuesOf(series, "covered");
  return valuesOf(series, name).map((value, index) => (value === null || !covered[index] ? null : (value * 60) / covered[index]!));
}

export function total(values: Values): number {
  return values.reduce<number>((sum, value) => sum + (value ?? 0), 0);
}

export function latest(values: Values): number | null {
  return values.findLast((value) => value !== null) ?? null;
}

/** The begin of each interval in epoch seconds. */
export function timesOf(series: Series): number[] {
  const count = Math.max(0, ...Object.values(series.metrics).map((values) => values.length));
  return Array.from({ length: count }, (_, index) => series.from / 1000 + index * series.stepSeconds);
}

/** A run of intervals without any value, as the indexes of the first and the last. */
export interface Gap {
  first: number;
  last: number;
}

export function gapsOf(lines: readonly Line[]): Gap[] {
  const count = Math.max(0, ...lines.map((line) => line.values.length));
  const gaps: Gap[] = [];
  for (let index = 0; index < count; index += 1) {
    if (lines.some((line) => line.values[index] != null)) continue;
    const before = gaps.at(-1);
    if (before?.last === index - 1) before.last = index;
    else gaps.push({ first: index, last: index });
  }
  return gaps;
}

export function valueText(value: number | null | undefined, unit: Line["unit"]): string {
  if (value === null || value === undefined) return "–";
  if (unit === "ms") return lengthText(value);
  return Number.isInteger(value) || value >= 100 ? countText(value) : value.toFixed(1);
}

/** Say in words what a chart shows, for those who do not see it. */
export function summary(title: string, series: Series, lines: readonly Line[], zone: Zone, now: number): string {
  const at = (index: number) => timeText(series.from + index * series.stepSeconds * 1000, zone, now);
  const count = timesOf(series).length;
  const gaps = gapsOf(lines);
  const missing = gaps.reduce((sum, gap) => sum + gap.last - gap.first + 1, 0);
  if (count === 0 || missing === count) return `${title}: there are no samples in this period.`;
  const said = lines.map((line) => {
    const most = line.values.reduce<number>((best, value, index) => (value !== null && (best < 0 || value > line.values[best]!) ? index : best), -1);
    if (most < 0) return `${line.word} is not known`;
    const unit = line.unit === "rate" ? " a minute" : "";
    return `${line.word} ${valueText(latest(line.values), line.unit)}${unit} at last, at most ${valueText(line.values[most], line.unit)} at ${at(most)}`;
  });
  const without = missing === 0 ? "" : ` No samples for ${lengthText(missing * series.stepSeconds * 1000)} of it.`;
  return `${title} from ${at(0)} to ${at(count)}: ${said.join("; ")}.${without}`;
}

/** Return the points of a sparkline for each part without a gap, in a box of this size. */
export function sparkline(values: Values, width: number, height: number): string[] {
  const most = Math.max(1, ...values.map((value) => value ?? 0));
  const step = values.length > 1 ? width / (values.length - 1) : width;
  const parts: string[][] = [];
  let part: string[] | null = null;
  values.forEach((value, index) => {
    if (value === null) {
      part = null;
      return;
    }
    if (part === null) parts.push((part = []));
    part.push(`${rounded(index * step)},${rounded(height - 2 - (value / most) * (height - 4))}`);
  });
  // A single sample between two gaps is a short line, because a point alone is not drawn.
  return parts.map((points) => (points.length === 1 ? `${points[0]} ${rounded(Number(points[0]!.split(",")[0]) + 1)},${points[0]!.split(",")[1]}` : points.join(" ")));
}

function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
