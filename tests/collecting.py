"""Share the rewriting of the tests' asserts between the processes of a test run.

Each process imports every test file. In a fresh checkout the first import of a file compiles it, rewrites its asserts
and writes the bytecode, which takes longer than the rest of the collection. Processes that import the files in the
same order reach each file together, and all of them compile it. Here each process begins at a place of its own, so that
one compiles a file and the others read its bytecode.
"""

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest


def import_from_own_place(session: pytest.Session) -> None:
    """Import the test files of this run, beginning at this process's share of them. Does nothing without xdist.

    pytest finds them imported later, and reports the files that cannot be.
    """
    worker: dict[str, object] | None = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    files = sorted(set(_test_files(session.config)))
    place = int(str(worker["workerid"]).removeprefix("gw")) % int(str(worker["workercount"]))
    begin = len(files) * place // int(str(worker["workercount"]))
    for file in (*files[begin:], *files[:begin]):
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(file.relative_to(session.config.rootpath).with_suffix("").parts))


def _test_files(config: pytest.Config) -> Iterator[Path]:
    """Yield the files below the folders and files that the command line names, without those that it leaves out."""
    ignored = [Path(one).absolute() for one in config.getoption("ignore") or ()]
    for argument in config.args:
        named = (config.invocation_params.dir / argument.partition("::")[0]).absolute()
        for file in named.rglob("test_*.py") if named.is_dir() else (named,):
            if not any(file.is_relative_to(one) for one in ignored):
                yield file
