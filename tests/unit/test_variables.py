"""Environment variables that no process reads are named, with the nearest one that some process reads."""

import inspect

import pytest

from queue_engine.config import agent, engine, shared
from queue_engine.config.base import ProcessSettings, secret_fields
from queue_engine.config.variables import (
    KNOWN_VARIABLES,
    MAX_HINTS,
    REMOVED_VARIABLES,
    removed_variables,
    unknown_variables,
)
from queue_engine.domain import agent_protocol
from queue_engine.processes.lifeline import LIFELINE_VARIABLE
from queue_engine.processes.sharing import GROUP_VARIABLES
from queue_engine.processes.start_notice import NOTICE_VARIABLE

CONSOLE = {
    "QUEUE_ENGINE_URL",
    *("QUEUE_ENGINE_API_KEY", "QUEUE_ENGINE_API_KEY_FILE"),
    *("QUEUE_ENGINE_WEBHOOK_AUTH_KEY", "QUEUE_ENGINE_WEBHOOK_AUTH_KEY_FILE"),
}


def variables_of(kind: type[ProcessSettings]) -> set[str]:
    prefix = kind.model_config["env_prefix"]
    secrets = {f"{name}_file" for name in secret_fields(kind)}
    return {f"{prefix}{name.upper()}" for name in {*kind.model_fields, *secrets}}


def test_every_variable_of_every_process_is_known_and_no_other() -> None:
    kinds = {
        kind
        for module in (agent, engine, shared)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, ProcessSettings)
    }
    protocol = {
        value
        for value in vars(agent_protocol).values()
        if isinstance(value, str) and value.startswith(("QUEUE_ENGINE_", "WORKER_AGENT_"))
    }
    read = {LIFELINE_VARIABLE, NOTICE_VARIABLE, *GROUP_VARIABLES} | CONSOLE | protocol
    for kind in kinds:
        read |= variables_of(kind)
    assert read == KNOWN_VARIABLES


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("QUEUE_ENGINE_REDS_URL", "QUEUE_ENGINE_REDIS_URL"),
        ("QUEUE_ENGINE_SECRETKEY", "QUEUE_ENGINE_SECRET_KEY"),
        ("QUEUE_ENGINE_SECRET_KEY_FILES", "QUEUE_ENGINE_SECRET_KEY_FILE"),
        ("QUEUE_ENGINE_GRACE_SECONDS", "QUEUE_ENGINE_WORKER_GRACE_SECONDS"),
        ("QUEUE_ENGINE_EXPOSED_PORT", "WORKER_AGENT_EXPOSED_PORT"),
        ("WORKER_AGENT_ENDPIONT", "WORKER_AGENT_ENDPOINT"),
        ("WORKER_AGENT_CATALOGUE_FILE", "QUEUE_ENGINE_CATALOGUE_FILE"),
        ("queue_engine_log_levl", "QUEUE_ENGINE_LOG_LEVEL"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest_known_one(name: str, nearest: str) -> None:
    assert unknown_variables([name, "PATH"]) == [f"unknown variable {name}: did you mean {nearest}?"]


def test_a_variable_that_is_like_no_other_is_named_alone() -> None:
    assert unknown_variables(["QUEUE_ENGINE_XYZZY"]) == ["unknown variable QUEUE_ENGINE_XYZZY: no process reads it"]


def test_known_variables_and_those_of_other_programs_are_not_named() -> None:
    assert unknown_variables([*KNOWN_VARIABLES, "queue_engine_port", "QUEUE_ENGINE", "MY_QUEUE_ENGINE_X", "PORT"]) == []


def test_a_removed_variable_is_named_once_with_what_replaces_it() -> None:
    names = [*REMOVED_VARIABLES, "queue_engine_delivery_profile", "PATH"]
    assert unknown_variables(names) == []
    assert removed_variables(names) == [
        f"{name} is removed: in place of `upstream` set QUEUE_ENGINE_DELIVERY_SCHEDULE=60,300,900" for name in names[:2]
    ]
    assert not REMOVED_VARIABLES.keys() & KNOWN_VARIABLES


def test_hints_are_bounded_and_show_no_control_characters() -> None:
    assert len(unknown_variables(f"QUEUE_ENGINE_{number}" for number in range(1000))) == MAX_HINTS
    (hint,) = unknown_variables(["QUEUE_ENGINE_\x1b[31m\n" + "x" * 100_000])
    assert hint.isprintable()
    assert len(hint) < 200
