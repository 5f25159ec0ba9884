// What an operator should look at first, from endpoints, workers and counts as the API gives them. Worst first.

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
  kind: "workers" | "deliveries" | "no workers" | "destination" | "system";
  title: string;
  /** Text of others, such as the error of a worker; null without one. */
  detail: string | null;
  worker: string | null;
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
