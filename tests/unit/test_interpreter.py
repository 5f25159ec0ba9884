"""How the interpreter loads the engine."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from queue_engine.processes.interpreter import COLLECTION_THRESHOLDS, Loading, collect_rarely

ROOT = Path(__file__).parents[2]


def test_nothing_is_collected_while_modules_are_loaded_and_they_are_left_out_afterwards() -> None:
    frozen = gc.get_freeze_count()
    try:
        with Loading():
            assert not gc.isenabled()
            loaded: list[object] = [[]]
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        assert not any(one is loaded for one in gc.get_objects())
    finally:
        gc.unfreeze()


def test_collections_go_on_after_an_import_that_fails() -> None:
    try:
        with pytest.raises(ImportError), Loading():
            raise ImportError("no such module")
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_what_the_start_has_made_is_left_out_of_later_collections_which_are_rare() -> None:
    before = gc.get_threshold()
    started: list[object] = [[]]
    try:
        collect_rarely()
        assert gc.get_threshold() == COLLECTION_THRESHOLDS
        assert gc.isenabled()
        assert not any(one is started for one in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("package", "arguments", "module", "imports"),
    [
        ("queue_engine", [], "queue_engine.cli.main", 50),
        ("queue_engine", ["api"], "queue_engine.cli.process", 150),
        ("queue_engine", ["keys"], "queue_engine.cli.options", 200),
        ("worker_agent", [], "worker_agent.cli", 200),
    ],
)
def test_a_command_is_loaded_without_collections(package: str, arguments: list[str], module: str, imports: int) -> None:
    program = f"""
import gc, sys
seen = []
gc.callbacks.append(lambda phase, facts: seen.append("a collection"))
sys.addaudithook(lambda event, given: seen.append(given[0]) if event == "import" else None)
gc.freeze = lambda: seen.append("loaded")
from {package}.__main__ import main
sys.argv = ["command", *{arguments}, "--help"]
try:
    main()
finally:
    start = seen.index("{module}")
    print(*seen[start : seen.index("loaded", start)], sep="\\n", file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    seen = run.stderr.splitlines()
    assert len(seen) > imports, seen
    assert "a collection" not in seen
