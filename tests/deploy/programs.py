"""How programs are set up in deploy/: their settings by environment, and the words of their command lines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from queue_engine.cli.main import app as engine_app
from queue_engine.config.base import ProcessSettings, secret_fields, variable_of, variables_of
from queue_engine.config.names import AGENT_PREFIX, ENGINE_PREFIX
from queue_engine.config.shared import SharedSettings
from queue_engine.config.variables import PROCESSES, unknown_variables
from queue_engine.crypto.sealing import new_secret_key
from queue_engine.crypto.secret_files import FILE_SUFFIX
from worker_agent.cli import app as agent_app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

_APPS = {"queue-engine": engine_app, "worker-agent": agent_app}
_SECRETS = {
    "redis_url": "redis://:secret@store:6379/0",
    "agent_redis_url": "redis://agent:secret@store:6379/0",
    "control_redis_url": "redis://:secret@jobs:6379/0",
    "secret_key": new_secret_key(),
    "secret_key_previous": new_secret_key(),
    "endpoint_key": new_secret_key(),
    "api_key": "qe_key-of-a-test",
}


def process_of(command: Sequence[str]) -> str:
    """Return the process that a command starts: `api`, `controller`, `delivery` or `worker-agent`."""
    program = Path(command[0]).name
    return command[1] if program == "queue-engine" else program


def check_command(command: Sequence[str]) -> None:
    """Fail unless the real command line takes these words."""
    app = _APPS[Path(command[0]).name]
    ran = CliRunner().invoke(app, [*command[1:], "--help"])
    assert ran.exit_code == 0, f"{' '.join(command)}: {ran.output}"


def check_variables(process: str, own: Mapping[str, str]) -> None:
    """Fail when a variable that is given to one process only is not read by it."""
    read = variables_of(PROCESSES[process])
    if process == "worker-agent":
        read |= variables_of(SharedSettings)
    assert set(_ours(own)) - read == set(), f"not read by {process}"


def read_settings(
    process: str, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> ProcessSettings:
    """Return the settings that a process makes of this environment. Its secret files have made-up secrets.

    Raises what a bad value raises, and AssertionError when a variable is unknown to all processes.
    """
    ours = _ours(environment)
    assert unknown_variables(ours) == []
    for name in _ours(os.environ):
        monkeypatch.delenv(name)
    settings = PROCESSES[process]
    files = {variable_of(settings, name) + FILE_SUFFIX: _SECRETS.get(name, "") for name in secret_fields(settings)}
    for name, value in ours.items():
        own = name
        if process == "worker-agent" and name in variables_of(SharedSettings):
            own = name.replace(ENGINE_PREFIX, AGENT_PREFIX, 1)  # as the agent's command line does
        if own in files:
            path = directory / own
            path.write_text(f"{files[own]}\n")
            value = str(path)
        monkeypatch.setenv(own, value)
    return settings()


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file of `NAME=value` lines, in the form that Compose and systemd read alike."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert all(line == line.strip() and '"' not in line and "$" not in line for line in lines)
    return dict(line.split("=", 1) for line in lines)


def _ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith((ENGINE_PREFIX, AGENT_PREFIX))}
