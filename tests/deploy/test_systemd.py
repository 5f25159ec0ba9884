"""deploy/systemd: systemd accepts the units, they are hardened, and the engine accepts their settings and commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from queue_engine.config.agent import AgentSettings
from queue_engine.config.engine import ControllerSettings, DeliverySettings
from tests.deploy.programs import (
    DEPLOY,
    check_command,
    check_variables,
    process_of,
    read_env_file,
    read_settings,
)

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MAX_EXPOSURE = 3.0


@pytest.fixture(scope="session")
def systemd_analyze() -> str:
    binary = shutil.which("systemd-analyze")
    if binary is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    return binary


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The root folder of a machine with the engine's programs and systemd's own units; its folder of units is empty."""
    programs = tmp_path / "opt/queue-engine/bin"
    programs.mkdir(parents=True)
    for name in ("queue-engine", "worker-agent"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    return tmp_path


def values(unit: Path, name: str) -> list[str]:
    """Return the values of a directive, in their order."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def verified(systemd_analyze: str, machine: Path, name: str, text: str) -> str:
    """Return what `systemd-analyze verify` says of a unit; empty when nothing is wrong with it."""
    path = machine / "etc/systemd/system" / name
    path.write_text(text)
    command = [systemd_analyze, "verify", f"--root={machine}", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout + ran.stderr if ran.returncode == 0 else f"status {ran.returncode}: {ran.stdout}{ran.stderr}"


def test_there_is_a_unit_for_every_process() -> None:
    assert {process_of(shlex.split(values(unit, "ExecStart")[0])) for unit in UNITS} == {
        "api",
        "controller",
        "delivery",
        "worker-agent",
    }


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_has_nothing_to_say_of_the_unit(unit: Path, systemd_analyze: str, machine: Path) -> None:
    assert verified(systemd_analyze, machine, unit.name, unit.read_text()) == ""


@pytest.mark.parametrize(
    ("right", "wrong"), [("PrivateTmp=yes", "PrivateTemp=yes"), ("bin/queue-engine api", "bin/queue-engines api")]
)
def test_systemd_finds_a_wrong_key_and_a_wrong_program(
    right: str, wrong: str, systemd_analyze: str, machine: Path
) -> None:
    api = DEPLOY / "systemd/queue-engine-api.service"
    assert verified(systemd_analyze, machine, api.name, api.read_text().replace(right, wrong)) != ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_is_hardened(unit: Path, systemd_analyze: str) -> None:
    command = [systemd_analyze, "security", "--offline=yes", f"--threshold={MAX_EXPOSURE * 10:.0f}", str(unit)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", ran.stdout)
    assert exposure, ran.stdout + ran.stderr
    assert (ran.returncode, float(exposure[1]) <= MAX_EXPOSURE) == (0, True), ran.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_its_variables_and_its_command_are_those_of_the_process(
    unit: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = shlex.split(values(unit, "ExecStart")[0])
    check_command(command)
    own = dict(value.split("=", 1) for value in values(unit, "Environment"))
    check_variables(process_of(command), own)
    given = own
    for source in values(unit, "EnvironmentFile"):
        name = "agent.env" if "/agents/" in source else Path(source).name
        given = given | read_env_file(unit.with_name(name))
    read_settings(process_of(command), given, monkeypatch, tmp_path)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_its_secrets_are_credentials(unit: Path) -> None:
    loaded = {value.split(":")[0] for value in values(unit, "LoadCredential")}
    named = dict(value.split("=", 1) for value in values(unit, "Environment") if "_FILE=" in value)
    assert {f"%d/{name}" for name in loaded} == set(named.values())
    if "agent@" in unit.name:
        assert loaded == {"agent-store-url", "endpoint-key"}
    else:
        assert loaded >= {"store-url", "secret-key"}


def test_units_have_longer_to_stop_than_their_own_grace_periods() -> None:
    stop = {unit.stem: float(values(unit, "TimeoutStopSec")[0]) for unit in UNITS}
    assert stop["queue-engine-agent@"] >= AgentSettings.model_fields["grace_seconds"].default + 5
    assert stop["queue-engine-controller"] >= ControllerSettings.model_fields["worker_grace_seconds"].default + 20
    assert stop["queue-engine-delivery"] >= DeliverySettings.model_fields["delivery_timeout_seconds"].default + 5
