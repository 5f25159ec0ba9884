import assert from "node:assert/strict";
import { test } from "node:test";
import { around, placesOf } from "../src/find.ts";

test("every place of a text is found, in any case", () => {
  assert.deepEqual(placesOf("Abc abC ab", "ABC"), [0, 4]);
  assert.deepEqual(placesOf("aaaa", "aa"), [0, 2]);
  assert.deepEqual(placesOf("abc", ""), []);
  assert.deepEqual(placesOf("abc", "x"), []);
  assert.equal(placesOf("a".repeat(5000), "a").length, 1000);
});

test("letters whose case changes the length do not shift the places", () => {
  assert.deepEqual(placesOf("İİ key", "key"), [3]);
});

test("a place is shown with what is around it", () => {
  assert.deepEqual(around("one two three", 4, 3), { before: "one ", found: "two", after: " three" });
  const long = around(`${"a".repeat(1000)}X${"b".repeat(1000)}`, 1000, 1);
  assert.equal(long.found, "X");
  assert.equal(long.before, `…${"a".repeat(300)}`);
  assert.equal(long.after, `${"b".repeat(300)}…`);
});
