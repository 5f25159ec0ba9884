import assert from "node:assert/strict";
import { test } from "node:test";
import { barOf, rowsOf as rowsOfTask, spanOf, sumsOf, type TaskFacts } from "../src/timeline.ts";

const attempt = (number: number, startedAt: number, endedAt: number | null, outcome: string) => ({
  attempt: number, workerId: "w-1", startedAt, endedAt, outcome, error: null, tries: 1,
});
type Given = Omit<TaskFacts, "nextDeliveryAt"> & { nextDeliveryAt?: number };
const rowsOf = (task: Given, attempts: Parameters<typeof rowsOfTask>[1], deliveries: Parameters<typeof rowsOfTask>[2], now: number) =>
  rowsOfTask({ nextDeliveryAt: null, ...task }, attempts, deliveries, now);
const labels = (rows: ReturnType<typeof rowsOf>) => rows.map((row) => `${row.label} ${row.start}-${row.end ?? "now"} ${row.tone}`);

test("a task that waits has one row that lasts", () => {
  const rows = rowsOf({ createdAt: 100, finishedAt: null, state: "queued" }, [], [], 500);
  assert.deepEqual(labels(rows), ["queued 100-now queued"]);
  assert.deepEqual(sumsOf(rows, 500), { waiting: 400, running: 0, delivering: 0 });
});

test("the whole life of a delivered task is in the order of time", () => {
  const task = { createdAt: 0, finishedAt: 1000, state: "succeeded" };
  const attempts = [attempt(1, 100, 300, "busy"), attempt(2, 400, 600, "lost"), attempt(3, 605, 1000, "ok")];
  const deliveries = [
    { at: 1001, durationMs: 10, status: 502, error: "http_5xx", nextAttemptAt: 1200 },
    { at: 1200, durationMs: 5, status: 204, error: null, nextAttemptAt: null },
  ];
  assert.deepEqual(labels(rowsOf(task, attempts, deliveries, 5000)), [
    "queued 0-100 queued", "attempt 1 100-300 scheduled", "wait 300-400 scheduled", "attempt 2 400-600 dead",
    "attempt 3 605-1000 succeeded", "delivery 1 1001-1011 failed", "wait 1011-1200 scheduled", "delivery 2 1200-1205 delivered",
  ]);
});

test("a running attempt lasts until now, and nothing waits beside it", () => {
  const rows = rowsOf({ createdAt: 0, finishedAt: null, state: "running" }, [attempt(1, 50, null, "running")], [], 90);
  assert.deepEqual(labels(rows), ["queued 0-50 queued", "attempt 1 50-now running"]);
});

test("between attempts a task waits", () => {
  const rows = rowsOf({ createdAt: 0, finishedAt: null, state: "scheduled" }, [attempt(1, 50, 60, "error")], [], 90);
  assert.deepEqual(labels(rows), ["queued 0-50 queued", "attempt 1 50-60 failed", "wait 60-now scheduled"]);
});

test("a task that ended while it waited has no attempt", () => {
  const rows = rowsOf({ createdAt: 0, finishedAt: 70, state: "expired" }, [], [], 90);
  assert.deepEqual(labels(rows), ["queued 0-70 queued"]);
});

test("bars stay inside the picture and can be seen", () => {
  const rows = rowsOf({ createdAt: 0, finishedAt: 10_000_000, state: "succeeded" }, [attempt(1, 1, 10_000_000, "ok")], [], 0);
  const span = spanOf(rows, 0);
  for (const row of rows) {
    const { x, width } = barOf(row, span, 0);
    assert.ok(x >= 0 && width >= 4 && x + width <= 1000);
  }
});

test("a clock that stepped back makes no negative row", () => {
  const rows = rowsOf({ createdAt: 100, finishedAt: null, state: "running" }, [attempt(1, 50, null, "running")], [], 40);
  assert.deepEqual(sumsOf(rows, 40), { waiting: 0, running: 0, delivering: 0 });
  assert.ok(spanOf(rows, 40).end > spanOf(rows, 40).start);
});

test("a result that is sent again later waits until now", () => {
  const task = { createdAt: 0, finishedAt: 10, state: "succeeded", nextDeliveryAt: 900 };
  const failed = { at: 11, durationMs: 4, status: null, error: "connect_refused", nextAttemptAt: 900 };
  const rows = rowsOf(task, [attempt(1, 0, 10, "ok")], [failed], 50);
  assert.equal(labels(rows).at(-1), "wait 15-now scheduled");
  assert.equal(rows.at(-1)!.until, 900);
});
