"""Options of the command line that stand for settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from queue_engine.config.base import ProcessSettings, text_of, variable_of
from queue_engine.config.shared import StoreSettings


def option(settings: type[ProcessSettings], name: str) -> Any:
    """Return a command line option for a setting, with its description and variable as help."""
    return typer.Option(help=f"{text_of(settings, name)} ({variable_of(settings, name)})")


RedisUrl = Annotated[str | None, option(StoreSettings, "redis_url")]
