import assert from "node:assert/strict";
import { test } from "node:test";
import { commandIn, placesFor } from "../src/commands.ts";

test("a verb and a name are a command, in any case", () => {
  assert.deepEqual(commandIn(" Cancel  hello_1 "), { verb: "cancel", text: "hello_1" });
  assert.deepEqual(commandIn("pause my whisper"), { verb: "pause", text: "my whisper" });
});

test("a verb alone, another word and names of objects are no command", () => {
  for (const text of ["cancel", "pause ", "explode whisper", "constructor x", "hello_1"]) assert.equal(commandIn(text), null, text);
});

const words = (text: string) => placesFor(text).places.map((one) => one.word);

test("views are found by their words", () => {
  assert.deepEqual(words("go to keys"), ["api keys"]);
  assert.deepEqual(words("audit"), ["audit log"]);
  assert.deepEqual(words("Go  To endpoints"), ["endpoints"]);
  assert.deepEqual(words("tasks"), ["tasks"]);
  assert.deepEqual(words("xy"), []);
  assert.deepEqual(words("hello_1"), []);
});

test("only an order to go somewhere searches nothing else", () => {
  assert.equal(placesFor("go to keys").isOnly, true);
  assert.equal(placesFor("keys").isOnly, false);
});
