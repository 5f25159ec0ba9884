import assert from "node:assert/strict";
import { test } from "node:test";
import { concernsOf, destinationConcerns, lacksWorkers, systemConcerns, worst } from "../src/attention.ts";

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
