"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from pathlib import Path

from queue_engine import __version__
from queue_engine.processes.processors import usable_processors
from tests.bench.environments import NODE, NODE_DIRECTORY, PYTHON, PYTHON_LOCK, ROOT

NODE_PACKAGES = ("bullmq", "ioredis", "undici")
PYTHON_PACKAGES = (
    "arq",
    "saq",
    "taskiq",
    "taskiq-redis",
    "celery",
    "streaq",
    "fastapi",
    "starlette",
    "uvicorn",
    "granian",
)


def facts(store: str, echo: str) -> dict[str, str]:
    """Return the facts about this machine at this moment, by name."""
    return {
        "CPU": _cpu_model(),
        "cores": str(usable_processors()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "store": store,
        "echo server": echo,
        "load at start": f"{os.getloadavg()[0]:.2f}",
    }


def versions() -> dict[str, str]:
    """Return the versions of the engine and of the peers that are installed."""
    return {"queue-engine": _own_version()} | _python_versions() | _node_versions()


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _own_version() -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    return f"{__version__} ({commit})" if commit else __version__


def _python_versions() -> dict[str, str]:
    if not PYTHON.is_up_to_date:
        return {}
    locked = dict(re.findall(r"^([\w-]+)==(\S+)", PYTHON_LOCK.read_text(), re.MULTILINE))
    return {name: locked[name] for name in PYTHON_PACKAGES if name in locked}


def _node_versions() -> dict[str, str]:
    if not NODE.is_up_to_date:
        return {}
    packages = ((name, NODE_DIRECTORY / "node_modules" / name / "package.json") for name in NODE_PACKAGES)
    found = {name: str(json.loads(path.read_text())["version"]) for name, path in packages if path.exists()}
    return {"node": _output("node", "--version").lstrip("v")} | found


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
