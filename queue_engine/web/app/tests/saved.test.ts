import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_VIEWS, type SavedView, viewsIn, withoutView, withView } from "../src/saved.ts";

const VIEW = { endpoint: "7", filters: { status: "FAILED", errorContains: "a&b <x>" }, cursor: "abc" };

test("a view is saved without its place in the list, and read again", () => {
  const views = withView([], "  failed ", VIEW);
  assert.deepEqual(views, [{ name: "failed", query: "?endpoint=7&status=FAILED&errorContains=a%26b+%3Cx%3E" }]);
  assert.deepEqual(viewsIn(JSON.stringify(views)), views);
});

test("a view of the same name replaces the other, and the oldest beyond the limit goes", () => {
  let views: SavedView[] = [];
  for (let n = 0; n < MAX_VIEWS + 2; n += 1) views = withView(views, `view ${n}`, VIEW);
  assert.equal(views.length, MAX_VIEWS);
  assert.equal(views.at(-1)?.name, "view 2");
  views = withView(views, "view 5", { ...VIEW, filters: {} });
  assert.equal(views.length, MAX_VIEWS);
  assert.deepEqual(views[0], { name: "view 5", query: "?endpoint=7" });
  assert.ok(!withoutView(views, "view 5").some((one) => one.name === "view 5"));
});

test("what is no saved view is left out", () => {
  for (const text of [null, "", "{", "{}", "null", "[1, null, {}]"]) assert.deepEqual(viewsIn(text), []);
  const odd = [{ name: "x".repeat(61), query: "" }, { name: "", query: "" }, { name: "a", query: 1 }, { name: "ok", query: "?evil=1&endpoint=../x&tag=t" }];
  assert.deepEqual(viewsIn(JSON.stringify(odd)), [{ name: "ok", query: "?tag=t" }]);
});
