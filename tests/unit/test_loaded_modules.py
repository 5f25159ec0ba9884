"""Each process loads what it needs: a heavy package that it does not use is memory and time of every start."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARSERS = {"typer", "click", "rich"}
"""Parsers of command lines, which a process without options does not need."""
SERVERS = {"starlette", "uvicorn", "httptools"}
CLIENTS = {"httpx", "aiohttp", "aiodns"}
STORE = {"redis", "hiredis"}
SETTINGS = {"pydantic", "pydantic_settings"}
REST = {"cryptography", "prometheus_client", "uvloop", "arq", "psutil"}
ALL = PARSERS | SERVERS | CLIENTS | STORE | SETTINGS | REST


@pytest.mark.parametrize(
    ("modules", "left_out"),
    [
        (
            ("queue_engine.cli.serve_up", "queue_engine.cli.running", "queue_engine.local.up"),
            ALL - {"psutil"},
        ),
        (("queue_engine.processes.tether",), ALL | {"asyncio", "logging"}),
        (
            ("queue_engine.cli.serve_role", "queue_engine.cli.serve_api"),
            PARSERS - {"click"} | {"httpx", "aiohttp", "arq"},
        ),
        (("queue_engine.cli.serve_role", "queue_engine.cli.serve_delivery"), PARSERS | {"starlette", "uvicorn", "arq"}),
        (("queue_engine.cli.serve_role", "queue_engine.cli.serve_controller"), PARSERS | SERVERS | CLIENTS),
        (("queue_engine.client",), ALL - {"httpx", "pydantic"} | {"pygments"}),
    ],
    ids=("up", "tether", "api", "delivery", "controller", "client"),
)
def test_a_process_loads_no_package_that_it_does_not_need(modules: tuple[str, ...], left_out: set[str]) -> None:
    assert not loaded_by("\n".join(f"import {module}" for module in modules)) & left_out


@pytest.mark.parametrize(("words", "parser"), [(["api"], False), (["api", "--port", "1"], True)])
def test_a_process_without_options_starts_without_a_parser(words: list[str], parser: bool) -> None:
    """The process ends at the first setting that it reads, which is invalid."""
    program = f"""
from queue_engine.__main__ import main
sys.argv = ["queue-engine", *{words}]
try:
    main()
except SystemExit:
    pass
"""
    assert ("typer" in loaded_by(program, QUEUE_ENGINE_LOG_LEVEL="never")) == parser


def test_a_command_that_calls_the_api_loads_nothing_of_the_command_of_httpx() -> None:
    program = """
from queue_engine.__main__ import main
sys.argv = ["queue-engine", "endpoints", "list", "--url", "http://127.0.0.1:9", "--api-key", "k"]
try:
    main()
except SystemExit:
    pass
"""
    loaded = loaded_by(program)
    assert {"httpx", "typer"} <= loaded
    assert "pygments" not in loaded


def loaded_by(program: str, **variables: str) -> set[str]:
    """Return the top-level packages that are loaded after the program has run."""
    script = f"import sys\n{program}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_stores_client_is_loaded_without_what_reads_tokens() -> None:
    found = loaded_by("import queue_engine.store.store, redis")
    assert "redis" in found
    assert "jwt" not in found


def test_the_cipher_is_loaded_with_the_first_secret() -> None:
    program = "from queue_engine.crypto.sealing import Sealer; sealer = Sealer(bytes(32))"
    assert "cryptography" not in loaded_by(program)
    assert "cryptography" in loaded_by(f"{program}; sealer.seal(b'secret', 'place')")
