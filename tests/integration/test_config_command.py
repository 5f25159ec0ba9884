"""`queue-engine config`: what a process would start with, without showing a secret."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from queue_engine.config.base import secret_fields, variable_of
from queue_engine.config.variables import PROCESSES
from queue_engine.crypto.sealing import new_secret_key
from tests.forked import run_command

ENGINE = [name for name in PROCESSES if name != "worker-agent"]


def shown(*arguments: str, environment: Mapping[str, str] | None = None, status: int = 0) -> str:
    done = run_command(("queue_engine", "config", *arguments), environment)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def rows(text: str) -> dict[str, tuple[str, str]]:
    """Return value and source by variable."""
    found = [re.fullmatch(r"(\w+) +(\S.*?) +(environment|default|file .*)", line) for line in text.splitlines()]
    return {one[1]: (one[2], one[3]) for one in found if one is not None}


def test_each_setting_is_shown_once_with_its_source(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("an-api-key-in-a-file")
    environment = {
        "QUEUE_ENGINE_PORT": "9001",
        "QUEUE_ENGINE_DELIVERY_SCHEDULE": "1,2.5",
        "QUEUE_ENGINE_API_KEY_FILE": str(key),
        "queue_engine_log_level": "DEBUG",
        "QUEUE_ENGINE_HOST": "",
    }
    text = shown(environment=environment)
    found = rows(text)
    assert len(found) == len(text.splitlines())
    assert found.keys() == {
        variable_of(PROCESSES[name], field) for name in ENGINE for field in PROCESSES[name].model_fields
    }
    assert found["QUEUE_ENGINE_PORT"] == ("9001", "environment")
    assert found["QUEUE_ENGINE_DELIVERY_SCHEDULE"] == ("1,2.5", "environment")
    assert found["QUEUE_ENGINE_LOG_LEVEL"] == ("DEBUG", "environment")
    assert found["QUEUE_ENGINE_API_KEY"] == ("***", f"file {key}")
    assert found["QUEUE_ENGINE_HOST"] == ("127.0.0.1", "default")
    assert found["QUEUE_ENGINE_REDIS_URL"] == ("redis://127.0.0.1:6379/0", "default")
    assert found["QUEUE_ENGINE_SECRET_KEY"] == ("-", "default")


def test_no_secret_is_shown() -> None:
    variables = {variable_of(PROCESSES[name], field) for name in ENGINE for field in secret_fields(PROCESSES[name])}
    given = {variable: new_secret_key() for variable in variables}
    given |= {variable: "redis://user:canary@127.0.0.1:1/0" for variable in variables if variable.endswith("_URL")}
    text = shown(environment=given)
    assert not [value for value in [*given.values(), "canary"] if value in text]
    assert {rows(text)[variable] for variable in variables} == {("***", "environment")}


@pytest.mark.parametrize("process", ENGINE)
def test_one_process_has_its_own_settings_only(process: str) -> None:
    settings = PROCESSES[process]
    assert rows(shown(process)).keys() == {variable_of(settings, field) for field in settings.model_fields}


def test_an_unknown_process_is_refused_in_the_words_of_the_engine() -> None:
    message = re.sub(r"[│\s]+", " ", shown("nosuch", status=2))
    assert "Invalid value for 'process': 'nosuch' is not one of 'api', 'delivery', 'controller', 'up'." in message


def test_a_bad_value_is_named_as_at_the_start() -> None:
    assert "QUEUE_ENGINE_PORT: " in shown(environment={"QUEUE_ENGINE_PORT": "many"}, status=2)
