import assert from "node:assert/strict";
import { test } from "node:test";
import { type Filters, listQuery, queryOf, shownValue, timeOf, typed, viewOf, without } from "../src/filters.ts";
import { shortened, visible } from "../src/hostile.ts";

const NOW = Date.UTC(2026, 0, 31, 12);

test("a view is its URL and back", () => {
  for (const view of [
    { endpoint: null, filters: {}, cursor: "" },
    { endpoint: "7", filters: { status: "FAILED", errorContains: "a&b=c <x> ü" }, cursor: "abc_-9" },
  ]) {
    assert.deepEqual(viewOf(Object.fromEntries(new URLSearchParams(queryOf(view)))), view);
  }
});

test("what is no filter is left out, and a wrong value is kept for the API to refuse", () => {
  const odd = { endpoint: "../x", state: "<b>", unknown: "1", tag: "" };
  assert.deepEqual(viewOf(odd), { endpoint: null, filters: { state: "<b>" }, cursor: "" });
  assert.equal(queryOf(viewOf({})), "");
  assert.equal(listQuery(7, { status: "FAILED" }), "?endpoint=7&status=FAILED");
});

test("filters are typed as words with values", () => {
  assert.deepEqual(typed("error: no model: x", NOW, "UTC"), { name: "errorContains", value: "no model: x" });
  assert.deepEqual(typed("same-error:HTTP 500: no model #", NOW, "UTC"), { name: "errorSignature", value: "HTTP 500: no model #" });
  assert.deepEqual(typed("state:failed,dead", NOW, "UTC"), { name: "state", value: "failed,dead" });
  assert.deepEqual(typed("HTTP 500: no model", NOW, "UTC"), { name: "errorContains", value: "HTTP 500: no model" });
  assert.deepEqual(typed("after:1h", NOW, "UTC"), { name: "createdAfter", value: String(NOW - 3_600_000) });
  for (const wrong of ["sate:failed", "state:", "after:soon"]) assert.ok("fault" in typed(wrong, NOW, "UTC"), wrong);
});

test("times are lengths before now, or dates in the zone that is shown", () => {
  assert.equal(timeOf("15m", NOW, "UTC"), NOW - 900_000);
  assert.equal(timeOf("last 2 d", NOW, "UTC"), NOW - 172_800_000);
  assert.equal(timeOf("2026-01-31", NOW, "UTC"), NOW - 12 * 3_600_000);
  assert.equal(timeOf("2026-01-31 12:00", NOW, "UTC"), NOW);
  assert.equal(timeOf("2026-01-31T13:30+01:30", NOW, "local"), NOW);
  assert.equal(timeOf("2026-13-41T12:00", NOW, "UTC"), null);
  assert.equal(shownValue("createdAfter", String(NOW - 60_000), "UTC", NOW), "11:59:00");
});

test("a filter is removed without another", () => {
  const filters: Filters = { status: "FAILED", tag: "a" };
  assert.deepEqual(without(filters, "tag"), { status: "FAILED" });
});

test("marks that turn the direction of text are shown", () => {
  assert.equal(visible("a\u202egnp.exe\u0000\nb"), "a\\u202egnp.exe\\u0000\nb");
  assert.equal(visible("Grüße <b>"), "Grüße <b>");
});

test("a long text is cut and says how much is missing", () => {
  assert.deepEqual(shortened("abcdef", 4), { text: "abcd", more: 2 });
  assert.deepEqual(shortened("abc", 4), { text: "abc", more: 0 });
});
