"""The log lines that docs/operations/logs.md lists, and the form of all lines."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from queue_engine.observability.logs import MAX_WAITING_LINES, JsonFormatter, LineHandler, log_soon

ROOT = Path(__file__).parents[2]


def test_every_documented_message_is_logged_somewhere() -> None:
    document = (ROOT / "docs/operations/logs.md").read_text()
    messages = re.findall(r"^\| (?:[a-z-]+ \| )?(?:INFO|WARNING)[A-Z, ]* \| `([^`<]+)", document, re.MULTILINE)
    assert len(messages) >= 9
    sources = [
        path.read_text() for folder in ("queue_engine", "worker_agent") for path in (ROOT / folder).rglob("*.py")
    ]
    logged = set(re.findall(r'"([^"\n]+)"', "".join(sources)))
    of_outages = "the store is "  # put together from parts; tests/unit/test_outages.py has their text
    assert [one for one in messages if one not in logged and not one.startswith(of_outages)] == []


def test_a_line_is_one_json_object_with_the_fields_that_were_given() -> None:
    record = logging.makeLogRecord(
        {"msg": "a %s\nline", "args": ("broken",), "created": 1_700_000_000.5, "msecs": 500, "task": "t", "level": "x"}
    )
    text = JsonFormatter("api").format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["time"] == "2023-11-14T22:13:20.500Z"
    assert (line["process"], line["message"], line["task"]) == ("api", "a broken\nline", "t")


def test_a_line_of_uvicorn_has_its_message_once() -> None:
    record = logging.makeLogRecord({"msg": "Started server process [%d]", "args": (7,), "created": 1.0})
    record.color_message = "Started server process [\x1b[36m%d\x1b[0m]"
    line = json.loads(JsonFormatter("api").format(record))
    assert line.keys() == {"time", "level", "process", "message"}
    assert line["message"] == "Started server process [7]"


LOGGER = logging.getLogger("a logger of the tests")


@contextmanager
def logged() -> Iterator[Callable[[], list[str]]]:
    """Send the log to a stream, as a process does; yield what returns its messages so far."""
    stream = io.StringIO()
    before, level = logging.root.handlers, logging.root.level
    logging.root.handlers = [LineHandler(stream, JsonFormatter("api"))]
    logging.root.setLevel(logging.INFO)
    try:
        yield lambda: [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    finally:
        logging.root.handlers = before
        logging.root.setLevel(level)


def test_a_line_for_a_task_is_that_of_the_logging_module(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    handler = LineHandler(stream, JsonFormatter("worker-agent"))
    facts = {
        "task": 'a "quoted" é task\n',
        "seconds": 0.0021,
        "attempt": 1,
        "called": True,
        "path": Path("/a"),
        "x": None,
    }
    record = logging.makeLogRecord({"msg": "ended", "levelname": "INFO", "created": 1_700_000_000.5, **facts})
    monkeypatch.setattr("queue_engine.observability.logs.time.time", lambda: 1_700_000_000.5)
    handler.emit(record)
    handler.emit_soon("INFO", "ended", facts)
    first, second = stream.getvalue().splitlines()
    assert first == second


async def test_lines_for_tasks_are_written_in_the_next_turn_of_the_event_loop() -> None:
    with logged() as lines:
        for name in ("one", "two"):
            log_soon(LOGGER, logging.INFO, name, {})
        log_soon(LOGGER, logging.DEBUG, "below the level", {})
        assert lines() == []
        await asyncio.sleep(0)
        assert lines() == ["one", "two"]


async def test_another_line_is_written_at_once_and_keeps_the_order() -> None:
    with logged() as lines:
        log_soon(LOGGER, logging.INFO, "one", {})
        LOGGER.info("two")
        assert lines() == ["one", "two"]


async def test_many_lines_of_one_turn_do_not_wait() -> None:
    with logged() as lines:
        for number in range(MAX_WAITING_LINES):
            log_soon(LOGGER, logging.INFO, str(number), {})
        assert len(lines()) == MAX_WAITING_LINES


def test_a_line_outside_an_event_loop_is_written_at_once() -> None:
    with logged() as lines:
        log_soon(LOGGER, logging.INFO, "one", {})
        assert lines() == ["one"]


async def test_lines_of_several_threads_are_all_written() -> None:
    with logged() as lines:

        def log_many() -> None:
            for _ in range(1000):
                log_soon(LOGGER, logging.INFO, "of a thread", {})

        threads = [asyncio.create_task(asyncio.to_thread(log_many)) for _ in range(4)]
        for _ in range(1000):
            log_soon(LOGGER, logging.INFO, "of the loop", {})
            await asyncio.sleep(0)
        await asyncio.gather(*threads)
        await asyncio.sleep(0)
        assert Counter(lines()) == {"of a thread": 4000, "of the loop": 1000}


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise RuntimeError", "loop.stop()"])
def test_a_process_that_ends_has_written_its_lines(end: str) -> None:
    program = f"""
import asyncio, logging
from queue_engine.observability.logs import configure_logging, log_soon

async def work():
    loop = asyncio.get_running_loop()
    log_soon(logging.getLogger(), logging.INFO, "the last line", {{}})
    {end or "pass"}

configure_logging("api", "INFO")
asyncio.run(work())
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert '"message": "the last line"' in ended.stderr


def test_a_closed_standard_error_does_not_stop_the_process() -> None:
    handler = LineHandler(io.StringIO(), JsonFormatter("api"))
    handler._stream.close()
    handler.emit(logging.makeLogRecord({"msg": "x"}))
    handler.emit_soon("INFO", "x", {})
