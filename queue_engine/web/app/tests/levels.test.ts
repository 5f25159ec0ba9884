import assert from "node:assert/strict";
import { test } from "node:test";
import { levelOf } from "../src/levels.ts";

test("a level is found in the words that programs write", () => {
  for (const line of ["ERROR no model", "2026-01-31 12:00:00 app CRITICAL x", "Traceback (most recent call last):", "ValueError: x is an Error", '{"level": "error"}', "level=fatal x"]) assert.equal(levelOf(line), "bad", line);
  for (const line of ["WARNING: slow", "[WARN] x", '{"level":"warning"}']) assert.equal(levelOf(line), "warn", line);
  for (const line of ["DEBUG x", "level=debug"]) assert.equal(levelOf(line), "quiet", line);
  for (const line of ["listening", "0 errors", "terror", `${"x".repeat(200)} ERROR`, ""]) assert.equal(levelOf(line), null, line);
});
