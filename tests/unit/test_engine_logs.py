"""The log lines that docs/operations/logs.md lists, and the form of all lines."""

import json
import logging
import re
from pathlib import Path

from queue_engine.observability.logs import JsonFormatter

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
