"""Programs whose packages are not installed: `pip install queue-engine` alone has the client and its commands."""

from __future__ import annotations

import sys
from typing import NoReturn

EXIT_USAGE = 2


def missing_package(error: ImportError) -> str | None:
    """Return the name of the package that an import needs; None if it is a module of the engine itself."""
    name = (error.name or "").partition(".")[0]
    return None if not name or name in ("queue_engine", "worker_agent") else name


def refuse_to_run(program: str, package: str, extra: str) -> NoReturn:
    """End the program with the name of the extra to install."""
    message = f"needs packages that are not installed ({package}): pip install 'queue-engine[{extra}]'"
    print(f"error: {program} {message}", file=sys.stderr)  # noqa: T201 - a message for the user of the command
    raise SystemExit(EXIT_USAGE)
