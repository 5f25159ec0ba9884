"""How the interpreter loads the engine: without the current folder on its path, and without collecting garbage.

A stray `orjson.py` in the current folder would run inside the engine. `python -m` puts that folder first on the path,
and an empty element of PYTHONPATH stands for it too. This module imports nothing that is not loaded already, because it
runs before the path is safe.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of `python -m module` in this interpreter, with the safe path (`-P`)."""
    return (sys.executable, "-P", "-m", module, *arguments)


def python_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the PYTHONPATH that a child process gets: the operator's, without the elements that are empty."""
    elements = [element for element in environment.get("PYTHONPATH", "").split(os.pathsep) if element]
    return {"PYTHONPATH": os.pathsep.join(elements)} if elements else {}


def leave_current_folder(main_file: str) -> None:
    """Take the current folder off the path, unless it holds the code of `main_file` or the given PYTHONPATH names it.

    Only what comes before the standard library is looked at: what is behind it was installed there.
    """
    try:
        here = os.getcwd()
    except OSError:  # deleted: nothing can lie in it
        return
    code = os.path.dirname(os.path.dirname(os.path.abspath(main_file)))
    named = python_path(os.environ).get("PYTHONPATH", "").split(os.pathsep)
    if here == code or here in map(os.path.abspath, filter(None, named)):
        return
    standard = os.path.dirname(os.__file__)
    library = sys.path.index(standard) if standard in sys.path else 1
    sys.path[:library] = [folder for folder in sys.path[:library] if folder not in ("", here)]


class Loading:
    """Collect no garbage while the block imports, and never look again at what it has loaded.

    Modules stay until the process ends, so that collections during and after their import find nothing: they take a
    quarter of the processor time of a start, and most of the time of an end.
    """

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.freeze()
        gc.enable()
