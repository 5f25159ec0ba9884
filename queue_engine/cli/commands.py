"""The commands that talk to the API, to be put into the program's own.

Exit status: 0 done; 1 the API refused; 2 wrong use; 3 the API cannot be reached; 4 the task that was waited for has
failed; 124 it has not ended in time; 130 Ctrl-C.
"""

from __future__ import annotations

import typer

from queue_engine.cli import endpoints, logs, tasks, workers
from queue_engine.cli.command import PANEL

commands = typer.Typer()
commands.add_typer(endpoints.group, name="endpoints", rich_help_panel=PANEL)
commands.add_typer(workers.group, name="workers", rich_help_panel=PANEL)
commands.add_typer(logs.group)
commands.add_typer(tasks.group, name="tasks", rich_help_panel=PANEL)
