import assert from "node:assert/strict";
import { test } from "node:test";
import { renewed, walked, type Part } from "../src/walk.ts";

const PARTS: Record<string, Part<number>> = {
  "": { items: [9], nextCursor: "a", scanned: 2000 },
  a: { items: [], nextCursor: "b", scanned: 2000 },
  b: { items: [5, 4], nextCursor: "c", scanned: 1200 },
  c: { items: [], nextCursor: null, scanned: 300 },
};
const asked: [string, number][] = [];
const read = async (cursor: string, size: number) => {
  asked.push([cursor, size]);
  return PARTS[cursor]!;
};

test("a page is read until it is full, and no call asks for more than it lacks", async () => {
  asked.length = 0;
  const told: number[] = [];
  const page = await walked(read, "", 3, () => false, (now) => told.push(now.scanned));
  assert.deepEqual(page, { items: [9, 5, 4], next: "c", scanned: 5200, calls: 3, isDone: true });
  assert.deepEqual(asked, [["", 3], ["a", 2], ["b", 2]]);
  assert.deepEqual(told, [2000, 4000, 5200]);
});

test("a page ends at the end of the list", async () => {
  const page = await walked(read, "b", 50, () => false, () => {});
  assert.deepEqual(page, { items: [5, 4], next: null, scanned: 1500, calls: 2, isDone: true });
});

test("a stopped walk says where it goes on", async () => {
  let calls = 0;
  const page = await walked(read, "", 50, () => calls++ >= 2, () => {});
  assert.equal(page.isDone, false);
  assert.equal(page.next, "b");
});

test("newer states take the places of older ones, and new items are only counted", () => {
  const shown = [{ id: "b", state: 1 }, { id: "a", state: 1 }];
  const fresh = [{ id: "d", state: 0 }, { id: "c", state: 0 }, { id: "b", state: 2 }, { id: "z", state: 0 }];
  const { items, others } = renewed(shown, fresh, (one) => one.id);
  assert.deepEqual(items, [{ id: "b", state: 2 }, { id: "a", state: 1 }]);
  assert.equal(others, 2);
});
