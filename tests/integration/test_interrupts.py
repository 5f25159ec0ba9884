"""Ctrl-C before a command has its own handler ends it with status 130 and without a message."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "deploy" / "demo" / "run.py")
UP = ("-m", "queue_engine", "up")
INTERRUPTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_IMPORT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""
"""A sitecustomize.py: the process interrupts itself when it begins to import a module."""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (UP, "queue_engine.cli.main"),
        (UP, "typer"),
        (UP, "pydantic_settings"),
        (UP, "queue_engine.local.up"),
        (UP, "psutil"),
        (UP, "queue_engine.local.embedded"),
        (("-m", "queue_engine", "api"), "redis"),
        (("-m", "queue_engine", "api"), "starlette"),
        (("-m", "queue_engine", "delivery"), "queue_engine.delivery.guard"),
        (("-m", "queue_engine", "controller"), "arq"),
        (("-m", "queue_engine", "logs", "-f", "1", "w"), "queue_engine.cli.logs"),
        (("-m", "queue_engine", "logs", "-f", "1", "w"), "httpx"),
        (("-m", "worker_agent", "--endpoint", "1"), "worker_agent.cli"),
        (("-m", "worker_agent", "--endpoint", "1"), "uvloop"),
        ((DEMO,), "asyncio"),
        ((DEMO,), "deploy.demo.tour"),
        (("console script", "queue-engine", "up"), "queue_engine.cli.main"),
        (("console script", "worker-agent", "--endpoint", "1"), "worker_agent.cli"),
    ],
)
def test_an_interrupt_during_the_imports_ends_a_command_quietly(
    command: tuple[str, ...], module: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "INTERRUPTED_IMPORT": module,
        "QUEUE_ENGINE_API_KEY": "a-key-of-sixteen-characters",
        "QUEUE_ENGINE_REDIS_URL": "redis://127.0.0.1:1",
    }
    arguments = [sys.executable, *command]
    if command[0] == "console script":
        arguments = [str(Path(sys.executable).with_name(command[1])), *command[2:]]
    done = subprocess.run(
        arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
