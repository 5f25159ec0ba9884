import assert from "node:assert/strict";
import { test } from "node:test";
import { copyBody, faultOf } from "../src/copies.ts";

test("a copy with the same input leaves the input to the server", () => {
  assert.equal(copyBody("a", null, true), '{"taskId":"a"}');
  assert.equal(copyBody("a", null, false), '{"taskId":"a","webhook":null}');
});

test("an input keeps all its digits", () => {
  assert.equal(copyBody("a", '{"n": 18446744073709551615}', true), '{"taskId":"a","input":{"n": 18446744073709551615}}');
});

test("a text that is no JSON is told before it is sent", () => {
  assert.equal(faultOf("[1, 2]"), null);
  assert.match(faultOf("{")!, /JSON/);
  assert.equal(faultOf(" "), "There is no text.");
  // It would end the member and begin another one.
  assert.notEqual(faultOf('1,"webhook":"http://x"'), null);
});
