// What has got worse at endpoints: one error many times, and a queue that is older than usual. Read once a minute, and only of
// endpoints that have waiting or failed tasks. The period begins with a minute, so that a process of the API reads the failures
// once for all consoles.

import { type Counts, get } from "./api.ts";
import { ageNow, type Concern, type EndpointFacts, errorConcerns, type ErrorFacts, MANY_FAILURES, MIN_OLD_MS, queueConcerns } from "./attention.ts";
import { RANGES, type Series, total, valuesOf } from "./series.ts";
import { me, now } from "./state.ts";

const MINUTE_MS = 60_000;

/** What is found in this minute with this key, by endpoint. */
let kept = { of: "", found: new Map<string, Promise<Concern[]>>() };

export function trendConcerns(endpoint: EndpointFacts, counts: Counts): Promise<Concern[]> {
  if (counts.queued + counts.scheduled === 0 && counts.failed === 0) return Promise.resolve([]);
  const minute = Math.floor(now.peek() / MINUTE_MS) * MINUTE_MS;
  const of = `${minute} ${me.peek()?.keyId}`;
  if (kept.of !== of) kept = { of, found: new Map() };
  const { found } = kept;
  let reading = found.get(endpoint.id);
  if (reading === undefined) {
    reading = read(endpoint, counts, minute);
    found.set(endpoint.id, reading);
    reading.catch(() => found.delete(endpoint.id));
  }
  return reading;
}

async function read(endpoint: EndpointFacts, counts: Counts, minute: number): Promise<Concern[]> {
  const path = ["serverless", endpoint.id];
  const from = minute - RANGES["1h"];
  const hour = await get<Series>([...path, "series"], { metric: "oldest,failed,succeeded", from });
  const age = counts.queued === 0 ? 0 : ageNow(hour);
  const [errors, days] = await Promise.all([
    total(valuesOf(hour, "failed")) < MANY_FAILURES ? null : get<ErrorFacts>([...path, "errors"], { from }),
    age < MIN_OLD_MS ? null : get<Series>([...path, "series"], { metric: "oldest", from: minute - RANGES["14d"] }),
  ]);
  return [
    ...(errors === null ? [] : errorConcerns(endpoint, errors, hour)),
    ...(days === null ? [] : queueConcerns(endpoint, age, days, now.peek())),
  ];
}
