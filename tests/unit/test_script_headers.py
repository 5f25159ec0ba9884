"""A script whose header, body and library do not fit each other is refused, and so is a call that does not fit them."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from queue_engine.store.keys import Partitions
from queue_engine.store.script_text import BadScript, Library
from queue_engine.store.scripts import Argument, Script, load_library, load_scripts, make_script
from tests.script_signatures import STUB, stub

LIBRARY = """\
-- The time.
local function now_ms()
  return redis.call('TIME')[1]
end

local LIMIT, HALF = 10, 5

-- Take an entry away.
-- keys: task, queue
local function drop(entry)
  redis.call('XDEL', queue, entry)
  redis.call('HSET', task, 'at', now_ms())
end

local function unused()
  return LIMIT
end
"""
HEADER = """\
-- Do something.
--
-- flags: durable, allow-oom
-- keys of a task: body (the input)
-- keys: stream
-- arguments: entry_id text, count integer, share optional number, is_last flag, names list of text
-- replies:
--   OK: count integer, name optional text, ratio number, was_last flag,
--     fields map (of the task), rows list of list of bytes
--   STALE (nothing to do)
"""
BODY = """\
if redis.call('GET', body) == stream then return { 'STALE' } end
for _, name in ipairs(names) do drop(name .. entry_id) end
return { 'OK', count, false, share, is_last, { 'a', 'b' }, {} }
"""
KEYS = Partitions(1).of("5").of_task("t1")
GIVEN = {"stream": "s", "entry_id": "1-1", "count": 3, "share": None, "is_last": True, "names": ["a", "b"]}


def made(header: str = HEADER, body: str = BODY, library: str = LIBRARY) -> Script:
    return make_script("example", header + body, Library(library, {"MOST": 7, "WHY": "it is so"}))


class Recorder:
    """Takes the place of the store."""

    def __init__(self, reply: Sequence[Any]) -> None:
        self.reply = reply
        self.arguments: list[Argument] = []

    async def submit(self, script: Script, arguments: list[Argument]) -> Any:
        self.arguments = arguments
        return self.reply


def call(reply: Sequence[Any], *keys: object, **given: object) -> tuple[Any, list[Argument]]:
    recorder = Recorder(reply)
    return asyncio.run(made().bind(recorder.submit)(*keys, **given)), recorder.arguments  # type: ignore[arg-type]


def test_keys_and_arguments_become_locals_and_only_what_is_used_of_the_library_is_there() -> None:
    assert made().text.splitlines()[:-3] == [
        "#!lua flags=allow-oom",
        "local body, task, queue, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]",
        "local function now_ms()",
        "  return redis.call('TIME')[1]",
        "end",
        "local function drop(entry)",
        "  redis.call('XDEL', queue, entry)",
        "  redis.call('HSET', task, 'at', now_ms())",
        "end",
        "local entry_id, count, share, is_last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'",
        "local names = {}",
        "for place = 5, #ARGV do names[place - 4] = ARGV[place] end",
    ]


def test_constants_of_python_are_locals_of_the_scripts_that_name_them() -> None:
    text = made(body=BODY.replace("3", "3").replace("'GET', body", "'GET', body, MOST, WHY, HALF")).text
    assert "local MOST = 7\nlocal WHY = 'it is so'\n" in text
    assert "local LIMIT, HALF = 10, 5\n" in text
    assert "unused" not in text


def test_a_call_passes_keys_and_arguments_in_order() -> None:
    _, arguments = call([b"STALE"], KEYS, **GIVEN)
    keys = ["{p00}:b:5:t1", "{p00}:t:5:t1", "{p00}:q:5"]
    assert arguments == [4, *keys, "s", "1-1", 3, "", "1", "a", "b"]


def test_a_reply_has_its_word_and_its_fields_by_type() -> None:
    reply, _ = call([b"OK", b"3", None, b"0.5", 1, [b"a", b"b"], [[b"x"], []]], KEYS, **GIVEN)
    assert (reply.word, reply.count, reply.name, reply.ratio) == ("OK", 3, None, 0.5)
    assert (reply.was_last, reply.fields, reply.rows) == (True, {"a": "b"}, [[b"x"], []])
    stale, _ = call([b"STALE"], KEYS, **GIVEN)
    assert stale.word == "STALE"
    assert not hasattr(stale, "count")


@pytest.mark.parametrize(
    ("keys", "given", "message"),
    [
        ([KEYS], GIVEN | {"surplus": 1}, "unknown: surplus"),
        ([KEYS], {name: value for name, value in GIVEN.items() if name != "count"}, "'count' is missing"),
        ([], GIVEN, "keys"),
    ],
)
def test_a_call_with_other_names_is_refused(keys: list[object], given: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call([b"STALE"], *keys, **given)


@pytest.mark.parametrize("reply", [[b"OK"], [b"STALE", b"1"]])
def test_a_reply_of_another_length_is_refused(reply: list[bytes]) -> None:
    with pytest.raises(ValueError):
        call(reply, KEYS, **GIVEN)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-- Do something.\n--\n", "--\n", "description is missing"),
        ("--\n-- flags", "-- flags", "empty comment line"),
        ("durable", "lasting", "`lasting` is not a flag"),
        ("-- flags", "-- label: two words\n-- flags", "`two words` is not a name"),
        ("-- flags", "-- label:\n-- flags", "`` is not a name"),
        ("-- keys: stream", "-- key: stream", "does not begin a section"),
        ("-- keys: stream", "-- flags: stream", "`flags` is repeated"),
        ("-- keys: stream", "-- keys of a worker: log", "only one section may begin with `keys of a`"),
        ("-- keys: stream", "--\n-- keys: stream", "does not begin a section"),
        ("-- keys: stream", "-- keys: stream text", "can only be `list`"),
        ("-- keys: stream", "-- keys: stream list, other", "must be the last"),
        ("-- keys: stream", "-- keys: stream, other", "declared and unused: other"),
        ("-- keys: stream", "-- keys: stream, body", "body: repeated in keys and arguments"),
        ("keys of a task: body", "keys of a task: body, bodies", "declared and unused: bodies"),
        ("keys of a task: body", "keys of a task: body,", "an item is missing beside a comma"),
        ("(the input)", "(the input", "the parentheses do not match"),
        ("entry_id text", "entry_id string", "`string` is not a type"),
        ("entry_id text", "EntryId text", "`EntryId` is not a name"),
        ("entry_id text", "entry_id", "`` is not a type"),
        ("entry_id text", "entry_id map", "must be the last"),
        ("list of text\n", "list of optional text\n", "only replies may have this type"),
        ("count integer, name", "count entire, name", "`entire` is not a type"),
        ("-- replies:\n", "", "the section `replies` is missing"),
        ("--   STALE", "--   stale", "is not a reply"),
        ("--   STALE", "--   OK", "OK is repeated"),
        ("--   STALE (nothing to do)\n", "", "the reply STALE is not declared"),
        ("--   STALE", "--   GONE\n--   STALE", "never replied: GONE"),
        ("--   STALE", "--   STALE: at_ms integer", "the reply STALE has 0 fields, not 1"),
        ("was_last flag", "count flag", "count: repeated in the reply OK"),
    ],
)
def test_a_header_that_is_not_as_it_must_be_is_refused(old: str, new: str, message: str) -> None:
    assert old in HEADER
    with pytest.raises(BadScript, match=message):
        made(header=HEADER.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stream then", "stream or strean then", "used and not declared: strean"),
        ("entry_id", "ARGV[1]", "only the loader may use ARGV"),
        ("count, false", "0, false", "declared and unused: count"),
        ("if redis", "local names = 1\nif redis", "defined although the name is in use: names"),
        ("if redis", "local drop = 1\nif redis", "defined although the name is in use: drop"),
        ("{ 'STALE' }", "{ stream }", "a reply without a word"),
        ("{ 'STALE' }", "{ 'GONE' }", "the reply GONE is not declared"),
        ("count, false", "count", "the reply OK has 5 fields, not 6"),
    ],
)
def test_a_body_that_does_not_fit_its_header_is_refused(old: str, new: str, message: str) -> None:
    assert old in BODY
    with pytest.raises(BadScript, match=message):
        made(body=BODY.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-- keys: task, queue", "-- keys: task", "drop: unknown names: queue"),
        ("-- keys: task, queue", "-- keys: task, queue, live", "drop: unused keys: live"),
        ("now_ms())", "later())", "drop: unknown names: later"),
        ("queue, entry", "KEYS[1], entry", "only the loader may use KEYS"),
        ("return LIMIT", "return\n\n1", "defines nothing|unknown"),
    ],
)
def test_a_library_that_uses_unknown_names_is_refused(old: str, new: str, message: str) -> None:
    assert old in LIBRARY
    with pytest.raises(BadScript, match=message):
        made(library=LIBRARY.replace(old, new, 1))


def test_a_key_that_keys_py_does_not_have_is_refused() -> None:
    with pytest.raises(BadScript, match="`bodie` is not a key of a task"):
        made(header=HEADER.replace("task: body", "task: bodie"), body=BODY.replace("body", "bodie"))


def test_strings_comments_and_labels_are_no_names() -> None:
    made(body=BODY.replace("{ 'a', 'b' }", "{ nosuch = 'nosuch', 'b' }").replace("drop(", "-- nosuch\ndrop("))


def test_the_signatures_are_those_of_the_headers() -> None:
    assert STUB.read_text() == stub(), "run `make stubs`"


RELEASED_LABELS = """
adopt_deliveries append_logs beat cancel create_credential create_endpoint defer_delivery defer_event
delete_credential delete_task drop_logs due_deliveries end_waiting enqueue expire finish hold_leadership make_queues
mark mark_endpoint mark_worker open_delivery open_event overdue page promote promote_delivery purge put_api_key
put_worker read read_attempts read_request reclaim release release_credential remove_endpoint remove_worker
report_worker reseal_field reseal_spec retry revoke_api_key run_again settle_delivery settle_event start
start_worker sweep tidy_consumers unread update_credential update_endpoint use_credential want_endpoint
yield_leadership
"""
"""Values of the metric label `op` in release 0.2.0. Never remove one while its script exists under any name."""


def test_the_metric_label_of_a_script_is_its_name_or_the_label_of_its_header() -> None:
    assert made().label == "example"
    assert made(header=HEADER.replace("-- flags", "-- label: sample\n-- flags")).label == "sample"


def test_each_metric_label_of_a_release_still_belongs_to_one_script() -> None:
    labels = [script.label for script in load_scripts().values()]
    assert set(labels) >= set(RELEASED_LABELS.split())
    assert len(labels) == len(set(labels))


def test_every_part_of_the_library_and_every_constant_is_used() -> None:
    texts = [script.text for script in load_scripts().values()]
    unused = {name for name in load_library().names if not any(_defines(text, name) for text in texts)}
    assert unused == set()


RESULT_LIBRARY = """\
-- Take the task.
-- keys: task
local function take()
  if redis.call('EXISTS', task) == 0 then return 'STALE' end
  return redis.call('HGET', task, 'HELD') and 'HELD' or 'OK'
end
"""
RESULT_HEADER = """\
-- Take a task.
--
-- keys of a task: (those of take)
-- replies:
--   OK
--   HELD
--   STALE
"""


def test_a_script_may_reply_the_words_that_a_library_function_returns() -> None:
    script = made(RESULT_HEADER, "return { take() }\n", RESULT_LIBRARY)
    assert script.scoped_keys == ("task",)
    with pytest.raises(BadScript, match="the reply HELD is not declared"):
        made(RESULT_HEADER.replace("--   HELD\n", ""), "return { take() }\n", RESULT_LIBRARY)
    with pytest.raises(BadScript, match="declared and never replied: GONE"):
        made(RESULT_HEADER + "--   GONE\n", "return { take() }\n", RESULT_LIBRARY)


def test_only_the_loader_addresses_keys_arguments_and_replies_by_number() -> None:
    root = Path(__file__).parents[2]
    files = [file for folder in ("queue_engine", "worker_agent") for file in (root / folder).rglob("*")]
    found = {
        str(file.relative_to(root))
        for file in files
        if file.suffix in (".py", ".lua") and re.search(r"\b(KEYS|ARGV|reply)\[", file.read_text())
    }
    assert found == {"queue_engine/store/scripts.py"}


def _defines(text: str, name: str) -> bool:
    return re.search(rf"^local (function )?([\w, ]*\b)?{name}\b", text, re.MULTILINE) is not None
