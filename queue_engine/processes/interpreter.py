"""Load the engine without the current folder on the import path, and run it with few garbage collections.

A file such as `orjson.py` in the current folder must not run inside the engine. `python -m` puts that folder first on
the path, and an empty element of PYTHONPATH means the same folder. This module runs before the path is safe, so it
imports only modules that are already loaded.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping

COLLECTION_THRESHOLDS = (50_000, 20, 50)
"""Allocations until a collection of the young objects, and collections until one of the next generation."""


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of `python -m module` in this interpreter, with the safe path (`-P`)."""
    return (sys.executable, "-P", "-m", module, *arguments)


def python_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the PYTHONPATH of a child process: the operator's, without empty elements."""
    elements = [element for element in environment.get("PYTHONPATH", "").split(os.pathsep) if element]
    return {"PYTHONPATH": os.pathsep.join(elements)} if elements else {}


def leave_current_folder(main_file: str) -> None:
    """Remove the current folder from the path, unless it has the code of `main_file` or is in PYTHONPATH.

    Only the part of the path before the standard library is changed. The rest are folders of installed packages.
    """
    try:
        here = os.getcwd()
    except OSError:  # the folder was deleted, so it has no files
        return
    code = os.path.dirname(os.path.dirname(os.path.abspath(main_file)))
    named = python_path(os.environ).get("PYTHONPATH", "").split(os.pathsep)
    if here == code or here in map(os.path.abspath, filter(None, named)):
        return
    standard = os.path.dirname(os.__file__)
    library = sys.path.index(standard) if standard in sys.path else 1
    sys.path[:library] = [folder for folder in sys.path[:library] if folder not in ("", here)]


class Loading:
    """Disable garbage collection while the block imports, and exclude the loaded modules from later collections.

    Modules are never freed, so collecting them is useless. It takes a quarter of the CPU time of a start, and most of
    the time of an exit.
    """

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.freeze()
        gc.enable()


def collect_rarely() -> None:
    """Leave what the start has made out of collections, and collect less often. Call it once the process has started.

    The objects of a task or a request end with their last reference, so that the collector finds next to nothing: with
    Python's own thresholds it took 9 % of a busy agent's processor time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)
