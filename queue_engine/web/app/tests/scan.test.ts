import assert from "node:assert/strict";
import { test } from "node:test";
import { countOf, endOf, kindAt, membersOf, split, stringAt } from "../src/scan.ts";

const named = (text: string, limit = 100) => membersOf(text, 0, limit).list.map((one) => [one.name, text.slice(one.start, one.end)]);

/** Return how many searches by pattern `work` does, and how many characters these pass. */
function searched(work: () => void): { searches: number; characters: number } {
  const passed = { searches: 0, characters: 0 };
  const exec = RegExp.prototype.exec;
  // Not by `mock.method`, which keeps a stack trace of each call.
  RegExp.prototype.exec = function (text: string) {
    const begin = this.lastIndex;
    const found = exec.call(this, text);
    passed.searches += 1;
    passed.characters += Math.max(0, this.lastIndex - begin);
    return found;
  };
  try {
    work();
  } finally {
    RegExp.prototype.exec = exec;
  }
  return passed;
}

test("members are found with their text as it stands", () => {
  const text = '{ "a" : 18446744073709551615 , "b\\"}":[1,{"x":"]"}], "c":"\\\\" ,"d":null}';
  assert.deepEqual(named(text), [["a", "18446744073709551615"], ['b"}', '[1,{"x":"]"}]'], ["c", '"\\\\"'], ["d", "null"]]);
});

test("empty values have no members", () => {
  for (const text of ["{}", "[]", "{ }", "[\n]"]) assert.deepEqual(named(text), []);
});

test("kinds are known by the first character", () => {
  const kinds = ["{}", "[]", '"x"', "-1", "true", "false", "null"].map((text) => kindAt(text, 0));
  assert.deepEqual(kinds, ["object", "array", "string", "number", "boolean", "boolean", "null"]);
});

test("the end of any value is that of its text", () => {
  for (const text of ["{}", '[1,"]",{"a":"}"}]', '"a\\"b"', "1.5e3", "true", "null", '"\\\\"']) {
    assert.equal(endOf(`${text},1`, 0), text.length, text);
  }
});

test("a page of members is followed by the next", () => {
  const text = JSON.stringify(Array.from({ length: 250 }, (_, index) => index));
  const first = membersOf(text, 0, 100);
  assert.equal(first.list.length, 100);
  const second = membersOf(text, 0, 100, first.next!);
  assert.equal(text.slice(second.list[0]!.start, second.list[0]!.end), "100");
  const third = membersOf(text, 0, 100, second.next!);
  assert.equal(third.list.length, 50);
  assert.equal(third.next, null);
  assert.equal(countOf(text, 0), 250);
});

test("depth costs no stack, and width a step or less for each character", () => {
  const deep = "[".repeat(1_000_000) + "]".repeat(1_000_000);
  assert.equal(endOf(deep, 0), deep.length);
  const wide = `{${Array.from({ length: 100_000 }, (_, index) => `"k${index}":{"v":[${index}]}`).join(",")}}`;
  const passed = searched(() => assert.equal(countOf(wide, 0), 100_000));
  assert.ok(passed.searches > 100_000, "the searches are seen");
  assert.ok(passed.searches <= wide.length, `${passed.searches} searches`);
  assert.ok(passed.characters <= wide.length, `${passed.characters} characters`);
});

test("text that is cut off ends where it ends", () => {
  for (const text of ['{"a', '{"a":', '{"a":[1,', '["', "[", '{"a":1,', '{"a" 1}', "[1 2]", '"\\']) {
    membersOf(text, 0, 10);
    assert.ok(endOf(text, 0) <= text.length + 1);
  }
});

test("an object is split without parsing what stays text", () => {
  const { values, texts } = split('{"id":7,"input":{"n":1e400},"output":null}', ["input", "output"]);
  assert.deepEqual(values, { id: 7 });
  assert.deepEqual(texts, { input: '{"n":1e400}', output: "null" });
});

test("a name such as __proto__ is a name", () => {
  const { texts } = split('{"__proto__":1,"input":2}', ["input"]);
  assert.equal(texts["input"], "2");
  assert.equal(({} as Record<string, unknown>)["polluted"], undefined);
});

test("strings read as they mean", () => {
  const text = '"a\\u0041\\n"';
  assert.equal(stringAt(text, 0, text.length), "aA\n");
});
