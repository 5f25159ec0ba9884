import assert from "node:assert/strict";
import { test } from "node:test";
import { agoText, countText, fullText, inZone, lengthText, sizeText, timeText, zoneIn } from "../src/times.ts";

test("lengths have two units at most", () => {
  const texts = [0, 4, 999, 1234, 59_949, 59_950, 161_000, 3_599_400, 3_599_600, 11_100_000, 187_200_000].map(lengthText);
  assert.deepEqual(texts, ["0 ms", "4 ms", "999 ms", "1.2 s", "59.9 s", "1 m 00 s", "2 m 41 s", "59 m 59 s", "1 h 00 m", "3 h 05 m", "2 d 4 h"]);
});

test("a length is never negative", () => assert.equal(lengthText(-5), "0 ms"));

test("a time has its date when it is not today", () => {
  const now = Date.UTC(2026, 10, 28, 14, 42, 0);
  assert.equal(timeText(now - 2000, "UTC", now), "14:41:58");
  assert.equal(timeText(now - 86_400_000, "UTC", now), "2026-11-27 14:42:00");
  assert.equal(fullText(now - 1_200_000, "UTC", now), "2026-11-28 14:22:00.000 UTC, 20 m 00 s ago");
});

test("what is to come is said so", () => {
  assert.deepEqual([agoText(-48_000), agoText(10), agoText(2000)], ["in 48.0 s", "now", "2.0 s ago"]);
});

test("sizes and counts are grouped", () => {
  assert.deepEqual([sizeText(412), sizeText(18_400), sizeText(1_200_000), sizeText(999_960), sizeText(12_638_300_000)], ["412 B", "18.4 kB", "1.2 MB", "1.0 MB", "12.6 GB"]);
  assert.deepEqual([0, 999, 1000, 24_118, 1_000_000].map(countText), ["0", "999", "1,000", "24,118", "1,000,000"]);
});

test("a named zone has its own clock and day", () => {
  const at = Date.UTC(2026, 0, 31, 20, 0, 5, 7);
  assert.equal(timeText(at, "Asia/Kolkata", at), "01:30:05");
  assert.equal(timeText(at, "Asia/Kolkata", Date.UTC(2026, 0, 31, 10)), "2026-02-01 01:30:05");
  assert.equal(fullText(at, "America/New_York", at), "2026-01-31 15:00:05.007 America/New_York, now");
});

test("a time of a zone's clock is found, in summer and in winter, and beside a jump of the clock", () => {
  const shown = (year: number, month: number, day: number, hour: number, minute = 0) => Date.UTC(year, month - 1, day, hour, minute);
  assert.equal(inZone(shown(2026, 1, 31, 12), "UTC"), shown(2026, 1, 31, 12));
  assert.equal(inZone(shown(2026, 1, 31, 12) + 7, "Asia/Kolkata"), shown(2026, 1, 31, 6, 30) + 7);
  assert.equal(inZone(shown(2026, 7, 1, 12), "Europe/Berlin"), shown(2026, 7, 1, 10));
  assert.equal(inZone(shown(2026, 3, 29, 1, 59), "Europe/Berlin"), shown(2026, 3, 29, 0, 59));
  assert.equal(inZone(shown(2026, 3, 29, 3, 1), "Europe/Berlin"), shown(2026, 3, 29, 1, 1));
});

test("a zone that the browser does not know is UTC", () => {
  assert.deepEqual([null, "local", "Europe/Berlin", "Mars/Olympus", "<b>"].map(zoneIn), ["UTC", "local", "Europe/Berlin", "UTC", "UTC"]);
});
