"""`queue-engine catalogue` and `queue-engine templates`."""

import json
from typing import Any

from tests.unit.cli_api import FakeApi


def gpu(name: str, price: float | None = None) -> dict[str, Any]:
    return {"name": name, "aliases": [], "cpu": False, "pricePerHour": price}


def catalogue(regions: list[dict[str, Any]] | None) -> dict[str, Any]:
    types = [gpu("CPU"), gpu("BIG_GPU", 2.5)]
    return {"GET /v2/catalogue": {"gpuTypes": types, "regions": regions, "storagePricePerGbHour": None, "settings": []}}


TEMPLATES = {
    "GET /v2/templates": [
        {"id": "own", "title": "My own", "text": "any server", "endpoint": {"name": "a"}, "task": {}},
        {"id": "running", "title": "Running", "text": "an agent", "endpoint": {"name": "b"}, "task": {}},
    ]
}


def test_types_are_listed_with_their_prices_and_regions() -> None:
    regions: list[dict[str, Any]] = [
        {"name": "north", "gpuTypes": None, "alb": True},
        {"name": "south", "gpuTypes": ["CPU"], "alb": True},
    ]
    result = FakeApi(catalogue(regions)).run("catalogue")
    assert result.stdout.splitlines() == [
        "GPU TYPE  PRICE PER HOUR  REGIONS",
        "CPU       -               north, south",
        "BIG_GPU   2.5             north",
    ]


def test_without_regions_any_is_possible() -> None:
    assert "CPU       -               any" in FakeApi(catalogue(None)).run("catalogue").stdout


def test_templates_are_listed() -> None:
    lines = FakeApi(TEMPLATES).run("templates").stdout.splitlines()
    assert lines == ["TEMPLATE  TITLE    RUNS", "own       My own   any server", "running   Running  an agent"]


def test_the_endpoint_of_a_template_is_printed_for_a_file() -> None:
    result = FakeApi(TEMPLATES).run("templates", "--endpoint", "running")
    assert json.loads(result.stdout) == {"name": "b"}


def test_an_unknown_template_is_named() -> None:
    result = FakeApi(TEMPLATES).run("templates", "--endpoint", "none")
    assert result.exit_code == 2
    assert "there is no template none; there are own, running" in result.stderr
