"""`queue-engine console`."""

import json

import pytest

from tests.unit.cli_api import FakeApi

URL = "http://127.0.0.1:8000/console#login=abc"
LINK = {"POST /v2/console-links": {"url": URL, "expiresAt": 1}}


def test_it_prints_a_link() -> None:
    result = FakeApi(LINK).run("console")
    assert (result.exit_code, result.stdout) == (0, f"{URL}\n")


def test_json_has_the_end_of_the_link() -> None:
    assert json.loads(FakeApi(LINK).run("console", "--json").stdout) == {"url": URL, "expiresAt": 1}


def test_without_a_browser_it_says_so() -> None:
    result = FakeApi(LINK).run(
        "console", "--open", env={"BROWSER": "/nonexistent/browser", "DISPLAY": None, "PATH": ""}
    )
    assert result.exit_code == 0
    assert URL in result.stdout
    assert "no browser could be opened" in result.stderr


@pytest.mark.parametrize("arguments", [("console", "x")])
def test_it_takes_no_arguments(arguments: tuple[str, ...]) -> None:
    assert FakeApi(LINK).run(*arguments).exit_code == 2
