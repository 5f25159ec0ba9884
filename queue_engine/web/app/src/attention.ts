// What an operator should look at first, from endpoints, workers, counts and series as the API gives them. Worst first.

import type { Filters } from "./filters.ts";
import { latest, type Series, total, valuesOf } from "./series.ts";
import { countText, lengthText } from "./times.ts";

export interface EndpointFacts {
  id: string;
  name: string;
  status: string;
  totalWorkers: number;
  runningWorkers: number;
  queuedTasks: number;
}

export interface WorkerFacts {
  workerId: string;
  status: string;
  error: string | null;
  restarts: number;
}

export interface Concern {
  tone: "bad" | "warn";
  /** Id of the endpoint; of a destination its origin; empty for the installation. */
  endpoint: string;
  name: string;
  kind: "workers" | "deliveries" | "no workers" | "destination" | "system" | "errors" | "queue";
  title: string;
  /** Text of others, such as the error of a worker; null without one. */
  detail: string | null;
  worker: string | null;
  /** The tasks that it is about, as filters of their list. */
  tasks?: Filters;
  weight: number;
}

export const MAX_CONCERNS = 7;

/** Return true if the endpoint has fewer workers than it should, so that its workers must be looked at. */
export function lacksWorkers(endpoint: EndpointFacts): boolean {
  const isMeantToRun = endpoint.status !== "STOPPED" && endpoint.status !== "STOPPING";
  return isMeantToRun && (endpoint.status === "FAILED" || endpoint.runningWorkers < endpoint.totalWorkers);
}

/** Return what is wrong with an endpoint. `givenUp` is the number of deliveries that were given up and are kept. */
export function concernsOf(endpoint: EndpointFacts, workers: readonly WorkerFacts[], givenUp: number): Concern[] {
  const concerns: Concern[] = [];
  const about = { endpoint: endpoint.id, name: endpoint.name };
  const broken = workers.filter((one) => one.status === "FAILED" || (one.status !== "RUNNING" && one.restarts > 0));
  const shown = broken.find((one) => one.error !== null) ?? broken[0];
  if (shown !== undefined) {
    const title = `${broken.length} of ${Math.max(endpoint.totalWorkers, workers.length)} workers do not come up.`;
    concerns.push({ ...about, tone: "bad", kind: "workers", title, detail: shown.error, worker: shown.workerId, weight: 1000 + broken.length });
  } else if (endpoint.status === "FAILED") {
    concerns.push({ ...about, tone: "bad", kind: "workers", title: "No worker comes up.", detail: null, worker: null, weight: 1000 });
  }
  const isMeantToRun = endpoint.status !== "STOPPED" && endpoint.status !== "STOPPING";
  if (isMeantToRun && endpoint.queuedTasks > 0 && endpoint.totalWorkers === 0) {
    const title = `The endpoint has 0 workers, and ${endpoint.queuedTasks === 1 ? "1 task waits" : `${endpoint.queuedTasks} tasks wait`}.`;
    concerns.push({ ...about, tone: "bad", kind: "no workers", title, detail: null, worker: null, weight: 900 });
  }
  if (givenUp > 0) {
    const title = givenUp === 1 ? "1 result was never delivered." : `${givenUp} results were never delivered.`;
    concerns.push({ ...about, tone: "warn", kind: "deliveries", title, detail: null, worker: null, weight: 100 + Math.min(99, givenUp) });
  }
  return concerns;
}

export interface ErrorFacts {
  groups: { signature: string; count: number; error: string; states: Record<string, number> }[];
  /** Failures in further groups. */
  others: number;
  lookedAt: number;
  complete: boolean;
}

/** Failures of one error within an hour from which on they are a concern. */
export const MANY_FAILURES = 10;
/** Share of the tasks that have ended from which on an error is a concern: a busy endpoint always has a few failures. */
const NOTABLE = 0.01;

/** Return a concern for the error that most tasks of the latest hour have ended with. `hour` is the series of that hour. Cancelled
 * tasks do not count, because somebody has wanted their end. */
export function errorConcerns(endpoint: EndpointFacts, errors: ErrorFacts, hour: Series): Concern[] {
  const counted = errors.groups.map((one) => ({ ...one, count: one.count - (one.states["cancelled"] ?? 0) })).sort((one, other) => other.count - one.count);
  const group = counted[0];
  if (group === undefined || group.count < MANY_FAILURES) return [];
  const known = counted.reduce((sum, one) => sum + one.count, errors.others);
  // The newest failures stand for all of them when there are more than are looked at. The series counts cancelled ones too.
  const scale = errors.complete ? 1 : Math.max(1, total(valuesOf(hour, "failed")) / errors.lookedAt);
  const share = (group.count * scale) / (known * scale + total(valuesOf(hour, "succeeded")));
  if (share < NOTABLE) return [];
  const isMost = share >= 0.5;
  const title = `${errors.complete ? "" : "at least "}${countText(group.count)} tasks failed with the same error in the last hour.`;
  const tasks = { finishedAfter: String(hour.from), errorSignature: group.signature };
  return [{ endpoint: endpoint.id, name: endpoint.name, tone: isMost ? "bad" : "warn", kind: "errors", title, detail: group.error, worker: null, tasks, weight: (isMost ? 700 : 400) + Math.round(share * 99) }];
}

/** Age from which on a queue can be a concern. A burst of tasks makes a queue older than usual for a moment. */
export const MIN_OLD_MS = 120_000;
/** How many times the usual age is too old. */
const TOO_OLD = 3;
/** Hours that must be known before any age is usual. */
const MIN_KNOWN = 12;

/** Return the age of the oldest waiting task that 95 % of the hours before `until` stayed below; null if too few hours are known. */
export function usualAge(days: Series, until: number): number | null {
  const isBefore = (index: number) => days.from + (index + 1) * days.stepSeconds * 1000 <= until;
  const known = valuesOf(days, "oldest").filter((age, index): age is number => age !== null && isBefore(index)).sort((one, other) => one - other);
  return known.length < MIN_KNOWN ? null : known[Math.ceil(known.length * 0.95) - 1]!;
}

/** Return the age of the oldest waiting task at last, in milliseconds. */
export function ageNow(hour: Series): number {
  return latest(valuesOf(hour, "oldest")) ?? 0;
}

/** Return a concern if the oldest task waits for much longer than in the days before. `days` is the endpoint's own series. */
export function queueConcerns(endpoint: EndpointFacts, age: number, days: Series, now: number): Concern[] {
  const usual = usualAge(days, now - age);
  if (endpoint.queuedTasks === 0 || endpoint.totalWorkers === 0 || usual === null) return [];
  const limit = Math.max(MIN_OLD_MS, usual * TOO_OLD);
  if (age <= limit) return [];
  const title = `the oldest task waits for ${lengthText(age)}; usual are ${usual < 1000 ? "less than a second" : `at most ${lengthText(usual)}`}.`;
  const tasks = { state: "queued", createdBefore: String(Math.round(now - limit)) };
  return [{ endpoint: endpoint.id, name: endpoint.name, tone: "warn", kind: "queue", title, detail: null, worker: null, tasks, weight: 500 + Math.min(99, Math.round(age / limit)) }];
}

export interface DestinationFacts {
  destination: string;
  origin: string;
  standing: string;
  waiting: number;
}

/** Return a concern for each destination that is paused. `words` tells the latest error. Without results that are held back no number
 * is named, because results that wait for their own next attempt are not counted. */
export function destinationConcerns(all: readonly DestinationFacts[], words: (one: DestinationFacts) => string): Concern[] {
  return all.filter((one) => one.standing === "PARKED").map((one) => {
    const held = one.waiting === 0 ? "" : one.waiting === 1 ? ", 1 result is held back" : `, ${one.waiting} results are held back`;
    return { tone: "warn", endpoint: one.origin, name: one.destination, kind: "destination", title: `deliveries are paused${held}.`, detail: words(one), worker: null, weight: 200 + Math.min(99, one.waiting) };
  });
}

/** Return a concern for each warning of the installation. */
export function systemConcerns(warnings: readonly { level: string; message: string }[]): Concern[] {
  return warnings.map((one, index) => {
    const isBad = one.level === "bad";
    return { tone: isBad ? "bad" : "warn", endpoint: "", name: "", kind: "system", title: one.message, detail: null, worker: null, weight: (isBad ? 2000 : 300) - index };
  });
}

/** Return the worst concerns, the worst first, and how many are left out. */
export function worst(concerns: readonly Concern[]): { list: Concern[]; more: number } {
  const sorted = [...concerns].sort((one, other) => other.weight - one.weight || one.name.localeCompare(other.name));
  return { list: sorted.slice(0, MAX_CONCERNS), more: Math.max(0, sorted.length - MAX_CONCERNS) };
}
