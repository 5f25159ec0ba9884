"""Every rule of deploy/prometheus has a test that fires it and one that does not, and a section of the runbook."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from queue_engine.cli.main import app
from tests.prometheus_names import exported_names, names_in

ROOT = Path(__file__).parents[2]
RULES_FILE, RUNBOOK = ROOT / "deploy/prometheus/alerts.yml", ROOT / "docs/operations/runbook.md"


def read(path: Path) -> Any:
    return msgspec.yaml.decode(path.read_bytes())


RULES = [rule for group in read(RULES_FILE)["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTS = read(RULES_FILE.with_name("alerts_test.yml"))["tests"]
SECTIONS = dict(re.findall(r"^## (QueueEngine\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL))


def test_each_alert_has_a_test_that_fires_it_and_one_that_does_not() -> None:
    tested = [one for test in TESTS for one in test.get("alert_rule_test", [])]
    assert {one["alertname"] for one in tested if one["exp_alerts"]} == ALERTS.keys()
    assert {one["alertname"] for one in tested if not one["exp_alerts"]} == ALERTS.keys()


def test_each_recorded_figure_has_a_test_with_a_value() -> None:
    tested = [one for test in TESTS for one in test.get("promql_expr_test", [])]
    assert {one["expr"] for one in tested if one["exp_samples"]} == RECORDED


def test_each_alert_has_a_section_of_the_runbook_and_each_section_an_alert() -> None:
    assert list(SECTIONS) == list(ALERTS)
    for name, text in SECTIONS.items():
        assert re.findall(r"^\*\*(.+?)\*\* \S", text, re.MULTILINE) == ["Means.", "Look at.", "Do."], name


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_urgent_it_is_what_happened_and_where_its_section_is(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook"] == f"{RUNBOOK.relative_to(ROOT)}#{name.lower()}"


def test_the_rules_name_metrics_that_processes_export_and_figures_that_are_recorded() -> None:
    named = {name for rule in RULES for name in names_in(rule["expr"])}
    assert named <= exported_names() | RECORDED


def test_the_runbook_names_messages_that_are_logged_and_commands_that_exist() -> None:
    named = set(re.findall(r"`([a-z][^`\n:]* [^`\n]*)`", RUNBOOK.read_text()))
    commands = {name for name in named if name.startswith("queue-engine ")}
    assert len(commands) >= 5
    for command in commands:
        path = [word for word in command.split()[1:] if word.islower() and word.isalpha()]
        found = CliRunner().invoke(app, [*path, "--help"])
        assert found.exit_code == 0, command
    folders = ("queue_engine", "worker_agent")
    sources = "".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    of_outages = "the store is "  # put together from parts; tests/unit/test_outages.py has their text
    messages = {name for name in named - commands if not name.startswith(of_outages)}
    assert len(messages) >= 5
    assert {message for message in messages if f'"{message}' not in sources} == set()


def test_docs_metrics_lists_the_alerts() -> None:
    listed = re.findall(r"^\| (`QueueEngine.*?`) \|", (ROOT / "docs/operations/metrics.md").read_text(), re.MULTILINE)
    assert [name for row in listed for name in re.findall(r"\w+", row)] == list(ALERTS)
