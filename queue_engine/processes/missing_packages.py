"""Programs whose packages are not installed: an install without an extra has the client and its commands."""

from __future__ import annotations

import sys
from typing import NoReturn

EXIT_USAGE = 2


def missing_package(error: ImportError) -> str | None:
    """Return the name of the package that an import needs; None if it is a module of the engine itself."""
    name = (error.name or "").partition(".")[0]
    return None if not name or name in ("queue_engine", "worker_agent") else name


def install_command(extra: str) -> str:
    """Return the command that installs an extra. The project is in no package registry, so it names a clone."""
    return f"pip install '/path/to/clone[{extra}]'"


def refuse_to_run(program: str, package: str, extra: str) -> NoReturn:
    """End the program with the name of the extra to install."""
    message = f"needs packages that are not installed ({package}): {install_command(extra)}"
    print(f"error: {program} {message}", file=sys.stderr)  # noqa: T201 - a message for the user of the command
    raise SystemExit(EXIT_USAGE)
