"""Prometheus rules tested with `promtool` on metrics that real processes have exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.waiting import GIVE_UP_SECONDS

RULES = Path(__file__).parents[1] / "deploy/prometheus/alerts.yml"
INTERVAL_SECONDS = 15
SAMPLES = 240
BEGINS_AT_SECONDS = 1200
"""Seconds on promtool's clock, which begins at 0: what the processes tell of the time before has to be positive."""
EVALUATED_AFTER_SECONDS = 1800
_COUNTED = ("_total", "_count", "_sum", "_bucket")
_TIMES = ("_timestamp_seconds", "_start_time_seconds")

Series = tuple[str, str]
"""Name and labels, as PromQL writes them."""


def promtool_binary() -> str | None:
    """The machine's `promtool`, when there is one."""
    return shutil.which("promtool")


@dataclass(frozen=True)
class Scrape:
    """What one process exported at one time."""

    at: float
    samples: dict[Series, float]


def scrape(url: str, instance: str) -> Scrape:
    """Scrape one target. A label of the target is added, as Prometheus does it."""
    text = httpx.get(url, trust_env=False, timeout=GIVE_UP_SECONDS, verify=False).raise_for_status().text
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels | {"instance": instance}
            written = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
            samples[(sample.name, f"{{{written}}}")] = sample.value
    return Scrape(time.time(), samples)


def continued(before: Scrape, after: Scrape, begins_at_seconds: int) -> list[dict[str, str]]:
    """Return promtool's `input_series`: an hour in which everything goes on as it did between the two scrapes.

    A counter goes on at its pace. A time that has moved keeps its distance from now, another one stays.
    """
    unknown = f"_x{begins_at_seconds // INTERVAL_SECONDS - 1} "
    return [
        {
            "series": name + labels,
            "values": unknown
            + _values(name, value, before.samples.get((name, labels)), before, after, begins_at_seconds),
        }
        for (name, labels), value in after.samples.items()
    ]


def _values(
    name: str, value: float, earlier: float | None, before: Scrape, after: Scrape, begins_at_seconds: int
) -> str:
    if name.endswith(_TIMES) and value > 0:
        moves = earlier is not None and 0 < earlier < value
        return f"{value - after.at + begins_at_seconds:.3f}+{INTERVAL_SECONDS if moves else 0}x{SAMPLES}"
    if not name.endswith(_COUNTED):
        return f"{value:.9f}+0x{SAMPLES}"
    if earlier is None:  # Prometheus has seen nothing of it before
        return f"_ {value:.9f}+0x{SAMPLES}"
    pace = max(0.0, value - earlier) / (after.at - before.at)
    return f"{earlier:.9f}+{pace * INTERVAL_SECONDS:.9f}x{SAMPLES}"


def check(binary: str, *command: str, given: str | None = None) -> None:
    """Run `promtool check …`. Raises AssertionError with what it says."""
    ran = subprocess.run([binary, "check", *command], input=given, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def check_alerts(
    binary: str,
    directory: Path,
    pairs: Iterable[tuple[Scrape, Scrape]],
    firing: Sequence[str],
    *,
    begins_at_seconds: int = BEGINS_AT_SECONDS,
) -> None:
    """Fail unless exactly these alerts fire when things go on for half an hour as the scrapes have seen them."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    query = {
        "expr": 'max by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{begins_at_seconds + EVALUATED_AFTER_SECONDS}s",
        "exp_samples": expected,
    }
    series = [one for before, after in pairs for one in continued(before, after, begins_at_seconds)]
    test = {"interval": f"{INTERVAL_SECONDS}s", "input_series": series, "promql_expr_test": [query]}
    document = {"rule_files": [str(RULES)], "evaluation_interval": f"{INTERVAL_SECONDS}s", "tests": [test]}
    path = directory / "alerts_test.yml"
    path.write_text(json.dumps(document))  # JSON is YAML
    check_rules(binary, path)


def check_rules(binary: str, path: Path) -> None:
    """Run `promtool test rules` on a file of tests. Raises AssertionError with what it says."""
    ran = subprocess.run([binary, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
