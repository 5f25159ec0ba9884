// The life of a task as rows: waiting, attempts, and attempts to deliver its result. Only what the store knows is a row.

export interface AttemptFacts {
  attempt: number;
  workerId: string;
  startedAt: number;
  endedAt: number | null;
  outcome: string;
  error: string | null;
  tries: number;
}

export interface DeliveryFacts {
  at: number;
  durationMs: number;
  status: number | null;
  error: string | null;
  nextAttemptAt: number | null;
}

export interface TaskFacts {
  createdAt: number;
  finishedAt: number | null;
  state: string;
  /** The time of the next attempt to deliver the result; null when none is planned. */
  nextDeliveryAt: number | null;
}

export interface Row {
  kind: "queued" | "wait" | "attempt" | "delivery";
  label: string;
  /** The state by whose colour and shape the row is shown. */
  tone: string;
  start: number;
  /** Null while it lasts. */
  end: number | null;
  /** When a wait is planned to end. */
  until?: number;
  attempt?: AttemptFacts;
  delivery?: DeliveryFacts;
}

const TONES: Record<string, string> = {
  running: "running", ok: "succeeded", error: "failed", timeout: "timed-out", busy: "scheduled", no_connection: "failed",
  connection_lost: "failed", lost: "dead", released: "queued", cancelled: "cancelled",
};
/** Waits shorter than this are the way from one row to the next, and no rows. */
const SHORT_MS = 20;

/** Return the rows in the order of time. `now` is the store's time. */
export function rowsOf(task: TaskFacts, attempts: readonly AttemptFacts[], deliveries: readonly DeliveryFacts[], now: number): Row[] {
  const rows: Row[] = [];
  let at = task.createdAt;
  for (const attempt of attempts) {
    addWait(rows, at, attempt.startedAt);
    rows.push({
      kind: "attempt", label: `attempt ${attempt.attempt}`, tone: TONES[attempt.outcome] ?? "queued",
      start: attempt.startedAt, end: attempt.endedAt, attempt,
    });
    at = attempt.endedAt ?? now;
  }
  const waits = task.finishedAt === null && attempts.at(-1)?.endedAt !== null;
  if (waits) rows.push(waiting(rows, at, null, task.state));
  else if (task.finishedAt !== null && attempts.length === 0) rows.push(waiting(rows, at, task.finishedAt, "queued"));
  addDeliveries(rows, task, deliveries);
  return rows;
}

/** Return the beginning and the end of all rows, at least a millisecond apart. */
export function spanOf(rows: readonly Row[], now: number): { start: number; end: number } {
  const start = Math.min(...rows.map((row) => row.start));
  const end = Math.max(...rows.map((row) => row.end ?? now));
  return { start, end: Math.max(start + 1, end) };
}

/** Return where a row begins and how long it is, in thousandths of the span; never so short that it cannot be seen. */
export function barOf(row: Row, span: { start: number; end: number }, now: number): { x: number; width: number } {
  const scale = 1000 / (span.end - span.start);
  const x = Math.min(996, (row.start - span.start) * scale);
  const width = Math.max(4, ((row.end ?? now) - row.start) * scale);
  return { x, width: Math.min(width, 1000 - x) };
}

/** Return how long the rows of each kind took together. */
export function sumsOf(rows: readonly Row[], now: number): { waiting: number; running: number; delivering: number } {
  const sums = { waiting: 0, running: 0, delivering: 0 };
  for (const row of rows) {
    const length = Math.max(0, (row.end ?? now) - row.start);
    if (row.kind === "attempt") sums.running += length;
    else if (row.kind === "delivery") sums.delivering += length;
    else sums.waiting += length;
  }
  return sums;
}

function addWait(rows: Row[], start: number, end: number): void {
  if (end - start >= SHORT_MS || rows.length === 0) rows.push(waiting(rows, start, Math.max(start, end), "queued"));
}

function waiting(rows: readonly Row[], start: number, end: number | null, state: string): Row {
  const isFirst = rows.length === 0;
  const tone = isFirst && state !== "scheduled" ? "queued" : "scheduled";
  return { kind: isFirst ? "queued" : "wait", label: isFirst && tone === "queued" ? "queued" : "wait", tone, start, end };
}

function addDeliveries(rows: Row[], task: TaskFacts, deliveries: readonly DeliveryFacts[]): void {
  let at = task.finishedAt;
  deliveries.forEach((delivery, index) => {
    if (at !== null && delivery.at - at >= SHORT_MS) {
      rows.push({ kind: "wait", label: "wait", tone: "scheduled", start: at, end: delivery.at });
    }
    const tone = delivery.error === null ? "delivered" : "failed";
    const end = delivery.at + delivery.durationMs;
    rows.push({ kind: "delivery", label: `delivery ${index + 1}`, tone, start: delivery.at, end, delivery });
    at = end;
  });
  if (at !== null && task.nextDeliveryAt !== null) {
    rows.push({ kind: "wait", label: "wait", tone: "scheduled", start: at, end: null, until: task.nextDeliveryAt });
  }
}
