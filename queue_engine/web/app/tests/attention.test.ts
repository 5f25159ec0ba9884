import assert from "node:assert/strict";
import { test } from "node:test";
import { concernsOf, destinationConcerns, errorConcerns, lacksWorkers, queueConcerns, systemConcerns, usualAge, worst } from "../src/attention.ts";

const endpoint = (changes = {}) => ({ id: "7", name: "echo", status: "RUNNING", totalWorkers: 2, runningWorkers: 2, queuedTasks: 0, ...changes });
const worker = (changes = {}) => ({ workerId: "w-1", status: "RUNNING", error: null, restarts: 0, ...changes });

test("a healthy endpoint is no concern", () => {
  assert.equal(lacksWorkers(endpoint()), false);
  assert.deepEqual(concernsOf(endpoint(), [worker(), worker({ restarts: 3 })], 0), []);
});

test("an endpoint that is stopped lacks no workers", () => {
  assert.equal(lacksWorkers(endpoint({ status: "STOPPED", runningWorkers: 0 })), false);
});

test("workers that do not come up are named with their error", () => {
  const broken = [worker({ status: "FAILED" }), worker({ workerId: "w-2", status: "FAILED", error: "exit status 1" })];
  const [concern] = concernsOf(endpoint({ status: "FAILED", runningWorkers: 0 }), broken, 0);
  assert.deepEqual([concern!.title, concern!.detail, concern!.worker], ["2 of 2 workers do not come up.", "exit status 1", "w-2"]);
});

test("a worker that starts for the first time is no concern", () => {
  assert.deepEqual(concernsOf(endpoint({ runningWorkers: 1 }), [worker(), worker({ status: "INITIALIZING" })], 0), []);
});

test("tasks without a worker are a concern", () => {
  const [concern] = concernsOf(endpoint({ totalWorkers: 0, runningWorkers: 0, queuedTasks: 4 }), [], 0);
  assert.deepEqual([concern!.kind, concern!.title], ["no workers", "The endpoint has 0 workers, and 4 tasks wait."]);
  const [single] = concernsOf(endpoint({ totalWorkers: 0, runningWorkers: 0, queuedTasks: 1 }), [], 0);
  assert.equal(single!.title, "The endpoint has 0 workers, and 1 task waits.");
});

test("the worst come first, at most seven", () => {
  const all = Array.from({ length: 9 }, (_, index) => concernsOf(endpoint({ name: `e${index}` }), [], index + 1)).flat();
  const crash = concernsOf(endpoint({ status: "FAILED", name: "z" }), [], 0);
  const { list, more } = worst([...all, ...crash]);
  assert.equal(list[0]!.name, "z");
  assert.deepEqual([list.length, more], [7, 3]);
});

test("a paused destination names the results that are held back, and none if they all wait for their next attempt", () => {
  const facts = { destination: "https://h:443", origin: "https:h:443", standing: "PARKED" };
  const found = destinationConcerns([0, 3].map((waiting) => ({ ...facts, waiting })), () => "");
  assert.deepEqual(found.map((one) => one.title), ["deliveries are paused.", "deliveries are paused, 3 results are held back."]);
});

test("a paused destination is a concern, and one that is only slow is none", () => {
  const facts = { destination: "https://h:443", origin: "https:h:443", waiting: 1 };
  const found = destinationConcerns([{ ...facts, standing: "PARKED" }, { ...facts, standing: "DEGRADED" }], () => "reset");
  assert.deepEqual(found.map((one) => [one.name, one.title, one.detail]), [["https://h:443", "deliveries are paused, 1 result is held back.", "reset"]]);
});

test("what stops all work comes before broken workers", () => {
  const broken = concernsOf(endpoint({ status: "FAILED" }), [], 0);
  const system = systemConcerns([{ level: "bad", message: "no controller leads" }, { level: "warn", message: "versions differ" }]);
  assert.deepEqual(worst([...broken, ...system]).list.map((one) => one.title), ["no controller leads", "No worker comes up.", "versions differ"]);
});

const HOUR = 3_600_000;
const series = (metrics: Record<string, (number | null)[]>, stepSeconds = 30, from = 1000 * HOUR) => ({ from, to: from + HOUR, stepSeconds, metrics });
const group = (signature: string, count: number, states: Record<string, number> = { failed: count }) => ({ signature, count, error: `${signature} 7`, states });
const errors = (...groups: ReturnType<typeof group>[]) => ({ groups, others: 0, lookedAt: 1000, complete: true });

test("one error many times is a concern, with the tasks that have it", () => {
  const [concern] = errorConcerns(endpoint(), errors(group("disk full", 3), group("no model #", 12)), series({ failed: [15], succeeded: [85] }));
  assert.deepEqual([concern!.title, concern!.detail, concern!.tone], ["12 tasks failed with the same error in the last hour.", "no model # 7", "warn"]);
  assert.deepEqual(concern!.tasks, { finishedAfter: String(1000 * HOUR), errorSignature: "no model #" });
  const [most] = errorConcerns(endpoint(), errors(group("no model #", 12)), series({ failed: [12], succeeded: [3, null, 2] }));
  assert.equal(most!.tone, "bad");
});

test("a few failures, a small share of many tasks, and tasks that somebody has cancelled are no concern", () => {
  assert.deepEqual(errorConcerns(endpoint(), errors(group("no model #", 9)), series({ failed: [9] })), []);
  assert.deepEqual(errorConcerns(endpoint(), errors(group("no model #", 12)), series({ failed: [12], succeeded: [5000] })), []);
  assert.deepEqual(errorConcerns(endpoint(), errors(group("cancelled", 900, { cancelled: 900 })), series({ failed: [900] })), []);
  assert.deepEqual(errorConcerns(endpoint(), errors(), series({ failed: [20] })), []);
});

test("cancelled tasks make the error of the others no smaller", () => {
  const found = errors(group("no model #", 30), group("cancelled", 900, { cancelled: 900 }));
  const [concern] = errorConcerns(endpoint(), found, series({ failed: [930] }));
  assert.equal(concern!.tone, "bad");
  const [many] = errorConcerns(endpoint(), { ...found, lookedAt: 930, complete: false }, series({ failed: [9300] }));
  assert.equal(many!.tone, "bad");
});

test("the newest failures stand for all when there are more than are looked at", () => {
  const found = { ...errors(group("no model #", 500)), others: 500, complete: false };
  const [concern] = errorConcerns(endpoint(), found, series({ failed: [40_000], succeeded: [20_000] }));
  assert.equal(concern!.title, "at least 500 tasks failed with the same error in the last hour.");
  assert.equal(concern!.tone, "warn");
  assert.deepEqual(errorConcerns(endpoint(), found, series({ failed: [40_000], succeeded: [9_000_000] })), []);
});

const days = (oldest: (number | null)[]) => series({ oldest }, 3600, 0);
const waiting = endpoint({ queuedTasks: 4 });

test("a queue that is much older than in the days before is a concern", () => {
  const now = 101 * HOUR;
  const usual = days([...Array.from({ length: 98 }, () => 60_000), 7 * HOUR, 7 * HOUR, 7 * HOUR]);
  const [concern] = queueConcerns(waiting, 4 * HOUR, usual, now);
  assert.equal(concern!.title, "the oldest task waits for 4 h 00 m; usual are at most 1 m 00 s.");
  assert.deepEqual(concern!.tasks, { state: "queued", createdBefore: String(now - 180_000) });
  assert.deepEqual(queueConcerns(waiting, 170_000, usual, now), []);
  assert.deepEqual(queueConcerns(endpoint(), 4 * HOUR, usual, now), []);
  assert.deepEqual(queueConcerns(endpoint({ queuedTasks: 4, totalWorkers: 0 }), 4 * HOUR, usual, now), []);
});

test("the hours in which the oldest task waits are not usual ones", () => {
  const stuck = days([...Array.from({ length: 20 }, () => 1000), ...Array.from({ length: 10 }, (_, index) => (index + 1) * HOUR)]);
  assert.equal(usualAge(stuck, 20 * HOUR), 1000);
  assert.equal(queueConcerns(waiting, 10 * HOUR, stuck, 30 * HOUR).length, 1);
});

test("no age is usual before half a day of samples, and a burst of a minute is no concern", () => {
  assert.equal(usualAge(days([...Array.from({ length: 11 }, () => 0), ...Array.from({ length: 90 }, () => null)]), 200 * HOUR), null);
  assert.deepEqual(queueConcerns(waiting, 10 * HOUR, days([0, 0, 0]), 30 * HOUR), []);
  const idle = days(Array.from({ length: 12 }, () => 0));
  assert.deepEqual(queueConcerns(waiting, 110_000, idle, 13 * HOUR), []);
  assert.equal(queueConcerns(waiting, 130_000, idle, 13 * HOUR)[0]!.title, "the oldest task waits for 2 m 10 s; usual are less than a second.");
});
