import assert from "node:assert/strict";
import { test } from "node:test";
import { curlText } from "../src/curl.ts";
import { bodyOf, fieldErrors, limitsText, pricePerHour, type Setting, shownBody, valuesOf } from "../src/new-endpoint.ts";

const setting = (name: string, more: Partial<Setting> = {}): Setting => ({ name, shown: name, text: "", required: false, fixed: false, renewsWorkers: false, default: null, schema: { type: "string" }, ...more });
const SETTINGS = [
  setting("name", { required: true }), setting("resources", { required: true }), setting("workers", { required: true, schema: { type: "integer", minimum: 0, maximum: 1000 } }),
  setting("containerVolumeInGb", { required: true, schema: { type: "integer" } }), setting("environmentVars"), setting("expose"), setting("rateLimit"),
  setting("maxAttempts", { default: 5, schema: { type: "integer", minimum: 1, maximum: 100 } }), setting("maxBusySeconds", { schema: { type: "number" } }), setting("retryOn"), setting("retryDelaysSeconds"),
];
const BODY = {
  name: "hello", resources: [{ region: "local", gpuType: "CPU", gpuCount: 2 }], workers: 2, containerVolumeInGb: 20,
  environmentVars: [{ key: "A", value: "b" }, { key: "C", value: "d", secret: false }], expose: { port: 8000, protocol: "http" },
  rateLimit: { perSecond: 0.5, burst: 3 }, maxAttempts: 4, maxBusySeconds: 1.5, retryOn: [], retryDelaysSeconds: [1, 2.5],
};

test("a body becomes a form and the same body again", () => {
  assert.deepEqual(bodyOf(valuesOf(BODY, SETTINGS), SETTINGS), BODY);
});

test("what is empty is left out, and what is no number is sent as it was typed", () => {
  const values = valuesOf({ name: "a", workers: 1, resources: [], containerVolumeInGb: 20 }, SETTINGS);
  values.plain["workers"] = "two";
  values.port = "http";
  assert.deepEqual(bodyOf(values, SETTINGS), { name: "a", resources: [], workers: "two", containerVolumeInGb: 20, expose: { port: "http", protocol: "http" } });
});

test("values of secret variables are masked where the body is shown", () => {
  assert.deepEqual(shownBody(BODY)["environmentVars"], [{ key: "A", value: "***" }, { key: "C", value: "d", secret: false }]);
});

test("the errors of a refusal are put beside their fields", () => {
  const names = SETTINGS.map((one) => one.name);
  const message = "name: must be letters; a digit is fine; resources[0].gpuType: must be one of CPU, X: 1; workers: must be an integer; and 2 more";
  const { byField, others } = fieldErrors(message, names);
  assert.deepEqual([...byField], [["name", "must be letters; a digit is fine"], ["resources[0].gpuType", "must be one of CPU, X: 1"], ["workers", "must be an integer; and 2 more"]]);
  assert.equal(others, "");
});

test("a refusal that names no field stays whole", () => {
  const { byField, others } = fieldErrors("endpoints: the tenant has at most 3", ["name"]);
  assert.deepEqual([byField.size, others], [0, "endpoints: the tenant has at most 3"]);
});

test("limits and defaults are told", () => {
  assert.equal(limitsText(SETTINGS[7]!), "1–100; 5 by default");
  assert.equal(limitsText(SETTINGS[2]!), "0–1000");
});

test("the price is that of all workers, and unknown without a price", () => {
  const values = valuesOf(BODY, SETTINGS);
  assert.equal(pricePerHour(values, [{ name: "CPU", pricePerHour: 0.5 }], 0.01), 2 * (0.5 * 2 + 0.2));
  assert.equal(pricePerHour(values, [{ name: "CPU", pricePerHour: null }], 0.01), null);
});

test("a body with quotes stays one word of the shell", () => {
  assert.ok(curlText("http://h", "POST", "/v2/x", '{"a": "it\'s"}').endsWith(`-d '{"a": "it'\\''s"}'`));
});
