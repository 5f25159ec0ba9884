import assert from "node:assert/strict";
import { test } from "node:test";
import { added, askedFor, everyMs, gapsOf, perMinute, type Series, sparkline, spanIn, spanQuery, summary, timesOf, total, type Values, valueText } from "../src/series.ts";

const FROM = Date.UTC(2026, 10, 28, 14, 0, 0);
const series = (metrics: Record<string, Values>): Series => ({ from: FROM, to: FROM + 120_000, stepSeconds: 30, metrics });

test("the period of a view is in its URL", () => {
  assert.deepEqual(spanIn({}), { range: "1h" });
  assert.deepEqual(spanIn({ range: "14d" }), { range: "14d" });
  assert.deepEqual(spanIn({ range: "9y" }), { range: "1h" });
  assert.deepEqual(spanIn({ from: "7", to: "9" }), { from: 7, to: 9 });
  for (const wrong of [{ from: "9", to: "7" }, { from: "x", to: "9" }, { from: "7" }, { from: "-1", to: "9" }]) assert.deepEqual(spanIn(wrong), { range: "1h" });
  for (const span of [{ range: "1h" }, { range: "24h" }, { from: 7, to: 9 }] as const) {
    assert.deepEqual(spanIn(Object.fromEntries(new URLSearchParams(spanQuery(span)))), span);
  }
});

test("a period that is over is read once", () => {
  assert.equal(everyMs({ from: 7, to: 9 }), 0);
  assert.equal(askedFor({ range: "1h" }, 5_000_000)["from"], 1_400_000);
  assert.deepEqual([askedFor({ from: 7, to: 9 }, 0)["from"], askedFor({ from: 7, to: 9 }, 0)["to"]], [7, 9]);
});

test("a rate is of the time that was covered, and a gap is a gap", () => {
  assert.deepEqual(perMinute(series({ submitted: [3, null, 20, 1], covered: [30, null, 600, null] }), "submitted"), [6, null, 2, null]);
  assert.deepEqual(added([1, null, 2, 0], [1, 1, null, 0]), [2, null, null, 0]);
  assert.equal(total([1, null, 2]), 3);
});

test("gaps are runs of intervals without any value", () => {
  const line = (values: Values) => ({ word: "a", tone: "queued", unit: "count", values }) as const;
  assert.deepEqual(gapsOf([line([null, 1, null, null]), line([null, null, null, 2])]), [{ first: 0, last: 0 }, { first: 2, last: 2 }]);
  assert.deepEqual(gapsOf([line([1, 0])]), []);
});

test("a chart is summed up in words", () => {
  const shown = series({ queued: [1, null, 1482, 302] });
  const lines = [{ word: "waiting", tone: "queued", unit: "count", values: shown.metrics["queued"]! }] as const;
  assert.equal(summary("Waiting", shown, lines, "UTC", FROM), "Waiting from 14:00:00 to 14:02:00: waiting 302 at last, at most 1,482 at 14:01:00. No samples for 30.0 s of it.");
  const none = series({ queued: [null, null, null, null] });
  assert.equal(summary("Waiting", none, [{ ...lines[0], values: none.metrics["queued"]! }], "UTC", FROM), "Waiting: there are no samples in this period.");
});

test("values have the words of their unit", () => {
  assert.deepEqual([valueText(null, "count"), valueText(1234, "count"), valueText(2.5, "rate"), valueText(1500, "ms")], ["–", "1,234", "2.5", "1.5 s"]);
});

test("a sparkline is cut where there is a gap", () => {
  assert.deepEqual(sparkline([0, 4, null, 2], 30, 10), ["0,8 10,2", "30,5 31,5"]);
  assert.deepEqual(sparkline([null, null], 30, 10), []);
  assert.equal(timesOf(series({ queued: [0, 0, 0, 0] })).at(-1), FROM / 1000 + 90);
});
