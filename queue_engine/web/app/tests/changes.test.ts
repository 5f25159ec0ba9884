import assert from "node:assert/strict";
import { test } from "node:test";
import { changesOf, clashes, editingOf, followed, mayClash, patchOf, settingText, storedOf, valuesNeeded, variablesText, workersReplaced } from "../src/changes.ts";
import { bodyOf, type Setting } from "../src/new-endpoint.ts";

const setting = (name: string, more: Partial<Setting> = {}): Setting => ({ name, shown: name, text: "", required: false, fixed: false, renewsWorkers: false, default: null, schema: { type: "string" }, ...more });
const SETTINGS = [
  setting("name", { required: true }), setting("image", { required: true, fixed: true }), setting("resources", { required: true, renewsWorkers: true }),
  setting("workers", { required: true, shown: "totalWorkers", schema: { type: "integer" } }), setting("environmentVars", { renewsWorkers: true, default: [] }),
  setting("expose", { renewsWorkers: true }), setting("maxAttempts", { default: 5, schema: { type: "integer" } }), setting("webhook"), setting("rateLimit"),
  setting("retryOn", { default: ["timeout"] }), setting("retryDelaysSeconds", { default: [1, 3] }),
];
const VIEW = {
  id: "7", status: "RUNNING", name: "hello", image: "i", resources: [{ region: "local", gpuType: "CPU", gpuCount: 1 }], totalWorkers: 2,
  environmentVars: [{ key: "A" }, { key: "B", secret: false }], expose: { port: 8000, protocol: "HTTP" }, maxAttempts: 3, webhook: null, rateLimit: null,
  retryOn: ["timeout"], retryDelaysSeconds: [1, 3], updatedAt: 10,
};
const begun = (more: object = {}) => storedOf({ ...VIEW, ...more }, SETTINGS);
const diff = (form: ReturnType<typeof editingOf>) => changesOf(bodyOf(form.values, SETTINGS), form.base, SETTINGS);

test("a form that nobody has changed has no difference", () => {
  assert.deepEqual(diff(editingOf(begun())), []);
});

test("only what was changed is sent, and null for what is cleared", () => {
  const form = editingOf(begun({ webhook: "http://h/" }));
  form.values.plain["workers"] = "3";
  form.values.plain["maxAttempts"] = "";
  form.values.plain["webhook"] = "";
  form.values.port = "";
  form.values.plain["image"] = "another";
  const changes = diff(form);
  assert.deepEqual(patchOf(bodyOf(form.values, SETTINGS), changes), { workers: 3, expose: null, maxAttempts: null, webhook: null });
  assert.deepEqual(changes.map((one) => [one.setting.name, one.before, one.after, one.isCleared]), [["workers", 2, 3, false], ["expose", { port: 8000, protocol: "http" }, null, true], ["maxAttempts", 3, 5, true], ["webhook", "http://h/", null, true]]);
});

test("a setting that is cleared and has its default already is no difference", () => {
  const form = editingOf(begun({ maxAttempts: 5 }));
  form.values.plain["maxAttempts"] = "";
  form.values.retryDelays = " ";
  assert.deepEqual(diff(form), []);
});

test("a change of one variable sends no value of another", () => {
  const form = editingOf(begun());
  const [first, second] = form.values.variables;
  const sent = () => patchOf(bodyOf(form.values, SETTINGS), diff(form));
  form.values.variables = [{ ...first!, value: "new" }, second!];
  const changes = diff(form);
  assert.equal(variablesText(changes[0]!.before, changes[0]!.after), "A: new value");
  assert.deepEqual(sent(), { environmentVars: [{ key: "A", value: "new" }, { key: "B", secret: false }] });
  form.values.variables = [first!, { ...second!, secret: true }];
  assert.deepEqual(sent(), { environmentVars: [{ key: "A" }, { key: "B" }] });
  assert.equal(variablesText(diff(form)[0]!.before, diff(form)[0]!.after), "B: keeps its value, secret");
  form.values.variables = [first!];
  assert.deepEqual(sent(), { environmentVars: [{ key: "A" }] });
  assert.equal(variablesText(diff(form)[0]!.before, diff(form)[0]!.after), "B: removed");
  form.values.variables = [{ ...first!, value: "typed and erased" }, second!];
  form.values.variables[0]!.value = "";
  assert.deepEqual(diff(form), []);
  form.values.variables = [];
  assert.deepEqual(patchOf(bodyOf(form.values, SETTINGS), diff(form)), { environmentVars: [] });
});

test("a variable with another name needs its value", () => {
  const form = editingOf(begun());
  form.values.variables[0]!.key = "A2";
  assert.deepEqual(valuesNeeded(form.values), ["A2"]);
  form.values.variables[0]!.value = "typed";
  assert.deepEqual(valuesNeeded(form.values), []);
  assert.equal(variablesText(diff(form)[0]!.before, diff(form)[0]!.after), "A2: added; A: removed");
});

test("a later change of an endpoint may be one of the values that are never shown", () => {
  const form = editingOf(begun());
  form.values.variables[0]!.value = "new";
  assert.equal(mayClash(form, begun(), diff(form)), false);
  assert.equal(mayClash(form, begun({ updatedAt: 11 }), diff(form)), true);
  form.values.variables[0]!.value = "";
  form.values.plain["workers"] = "4";
  assert.equal(mayClash(form, begun({ updatedAt: 11 }), diff(form)), false);
});

test("settings that were not typed follow those that somebody else changes", () => {
  const form = editingOf(begun());
  form.values.plain["workers"] = "4";
  const other = begun({ maxAttempts: 7, expose: { port: 9000, protocol: "HTTP" }, updatedAt: 11 });
  assert.deepEqual(clashes(form, other, SETTINGS), []);
  const next = followed(form, other, SETTINGS);
  assert.deepEqual(patchOf(bodyOf(next.values, SETTINGS), diff(next)), { workers: 4 });
  assert.deepEqual(next.theirs.map((one) => [one.setting.name, one.before, one.after]), [["expose", { port: 8000, protocol: "http" }, { port: 9000, protocol: "http" }], ["maxAttempts", 3, 7]]);
  const later = followed(next, begun({ maxAttempts: 8, expose: { port: 9000, protocol: "HTTP" }, updatedAt: 12 }), SETTINGS);
  assert.deepEqual(later.theirs.map((one) => [one.setting.name, one.before, one.after]).at(-1), ["maxAttempts", 3, 8]);
});

test("a setting that both have changed is told, and keeps what was typed", () => {
  const form = editingOf(begun());
  form.values.plain["workers"] = "4";
  const other = begun({ totalWorkers: 9, updatedAt: 11 });
  assert.deepEqual(clashes(form, other, SETTINGS), ["workers"]);
  const next = followed(form, other, SETTINGS);
  assert.deepEqual(diff(next).map((one) => [one.before, one.after]), [[9, 4]]);
});

test("without a typed change the form is what is stored", () => {
  const next = followed(editingOf(begun()), begun({ maxAttempts: 9 }), SETTINGS);
  assert.deepEqual([next.values.plain["maxAttempts"], next.theirs], ["9", []]);
});

test("workers that the engine has started are replaced while the endpoint is started", () => {
  const workers = [{ workerId: "7-a", status: "RUNNING" }, { workerId: "7-b", status: "FAILED" }, { workerId: "7-c", status: "STOPPING" }, { workerId: "by-hand", status: "RUNNING" }] as const;
  assert.deepEqual(workersReplaced(VIEW, workers).map((one) => one.workerId), ["7-a", "7-b"]);
  assert.deepEqual(workersReplaced({ ...VIEW, status: "STOPPED" }, workers), []);
});

test("values are told in words", () => {
  assert.equal(settingText("resources", VIEW.resources), "1 × CPU in local");
  assert.equal(settingText("expose", { port: 8000, protocol: "http" }), "8000, http");
  assert.equal(settingText("rateLimit", { perSecond: 0.5, burst: 3 }), "0.5 a second, 3 at once");
  assert.equal(settingText("retryOn", []), "none");
  assert.equal(settingText("environmentVars", [{ key: "A", value: "hidden" }]), "A");
});
