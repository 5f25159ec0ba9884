import assert from "node:assert/strict";
import { test } from "node:test";
import { queryOf, viewOf } from "../src/filters.ts";
import { shortened, visible } from "../src/hostile.ts";

test("a view is its URL and back", () => {
  for (const view of [
    { endpoint: null, status: null, page: 1 },
    { endpoint: "7", status: "FAILED", page: 3 },
  ]) {
    assert.deepEqual(viewOf(Object.fromEntries(new URLSearchParams(queryOf(view)))), view);
  }
});

test("what a link cannot name is left out", () => {
  const odd = { endpoint: "../x", status: "<b>", page: "-1" };
  assert.deepEqual(viewOf(odd), { endpoint: null, status: null, page: 1 });
  assert.equal(queryOf(viewOf({})), "");
});

test("marks that turn the direction of text are shown", () => {
  assert.equal(visible("a\u202egnp.exe\u0000\nb"), "a\\u202egnp.exe\\u0000\nb");
  assert.equal(visible("Grüße <b>"), "Grüße <b>");
});

test("a long text is cut and says how much is missing", () => {
  assert.deepEqual(shortened("abcdef", 4), { text: "abcd", more: 2 });
  assert.deepEqual(shortened("abc", 4), { text: "abc", more: 0 });
});
