import assert from "node:assert/strict";
import { test } from "node:test";
import { columnsIn, toggled, USUAL } from "../src/columns.ts";

test("what was stored is taken in the order of the columns, without what is no column", () => {
  assert.deepEqual(columnsIn('["error","tags","__proto__",7,"state"]'), ["state", "tags", "error"]);
  assert.deepEqual(columnsIn("[]"), []);
});

test("without a stored list the usual columns are shown", () => {
  for (const text of [null, "", "{", "null", '{"state":1}']) assert.deepEqual(columnsIn(text), USUAL);
});

test("a column is added at its place and taken away", () => {
  assert.deepEqual(toggled(["state", "error"], "tags"), ["state", "tags", "error"]);
  assert.deepEqual(toggled(["state", "tags", "error"], "tags"), ["state", "error"]);
});
