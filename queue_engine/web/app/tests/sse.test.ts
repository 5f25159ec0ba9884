import assert from "node:assert/strict";
import { test } from "node:test";
import { eventReader } from "../src/sse.ts";

test("events are read whatever the pieces are", () => {
  const text = 'event: hello\ndata: {"time": 1}\n\n: comment\n\nevent: task\ndata: a\ndata: b\n\nevent: cut\ndata: c';
  for (const size of [1, 2, 7, 1000]) {
    const read = eventReader();
    const found = [];
    for (let at = 0; at < text.length; at += size) found.push(...read(text.slice(at, at + size)));
    assert.deepEqual(found, [{ event: "hello", data: '{"time": 1}' }, { event: "task", data: "a\nb" }]);
  }
});
