"""The command line of the engine: all its commands."""

from __future__ import annotations

import os

import typer

from queue_engine import __version__
from queue_engine.cli import keys, secret_key, serve, settings
from queue_engine.cli.commands import commands
from queue_engine.config.variables import unknown_variables
from queue_engine.processes.standard_files import guarded_output

_LOGGING = ("api", "controller", "delivery")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-hosted engine for QUEUE-mode serverless endpoints. Start with `queue-engine up`.",
)
app.add_typer(serve.commands)
app.add_typer(settings.commands)
app.add_typer(keys.group, name="keys")
app.add_typer(secret_key.group, name="secret-key")
app.add_typer(commands)


def main() -> None:
    """Run the command line."""
    with guarded_output("queue-engine"):
        app()


@app.callback()
def warn_of_unknown_variables(context: typer.Context) -> None:
    """Name misspelled variables on standard error; the processes that log do so in their log."""
    if context.invoked_subcommand not in _LOGGING:
        for hint in unknown_variables(os.environ):
            typer.echo(f"queue-engine: {hint}", err=True)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
