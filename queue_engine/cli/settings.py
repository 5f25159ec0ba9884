"""`queue-engine config`: the effective settings of the engine's processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from queue_engine.cli.startup import settings_from
from queue_engine.config.base import ProcessSettings
from queue_engine.config.effective import effective_settings
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings, UpSettings

commands = typer.Typer()

ProcessName = Literal["api", "delivery", "controller", "up"]
_PROCESSES: Mapping[ProcessName, type[ProcessSettings]] = {
    "api": ApiSettings,
    "delivery": DeliverySettings,
    "controller": ControllerSettings,
    "up": UpSettings,
}


@commands.command("config")
def show_config(
    process: Annotated[ProcessName | None, typer.Argument(help="Only the settings of this process")] = None,
) -> None:
    """Print the settings that a process would have in this environment, and the source of each.

    Secrets are masked. An invalid setting is reported as at the start of the process. `up` sets the store, keys and
    addresses of its processes itself.
    """
    kinds = _PROCESSES.values() if process is None else [_PROCESSES[process]]
    shown = list(effective_settings([settings_from(kind) for kind in kinds], os.environ))
    widths = [max(len(one[column]) for one in shown) for column in (0, 1)]
    for variable, value, source in shown:
        typer.echo(f"{variable:<{widths[0]}}  {value:<{widths[1]}}  {source}")
