"""The command line of the engine. Each command is loaded when it is used, because imports take most of a start.

Commands that call the API need neither settings nor a store, and processes need no client. The help loads all commands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from queue_engine import __version__
from queue_engine.config.names import CLIENT_VARIABLES, is_prefixed
from queue_engine.processes.interpreter import Loading
from queue_engine.processes.standard_files import guarded_output

_MODULES = {
    **dict.fromkeys(("up", "api", "delivery", "controller"), "queue_engine.cli.serve"),
    "config": "queue_engine.cli.settings",
    "keys": "queue_engine.cli.keys",
    "agents": "queue_engine.cli.agents",
    "tenants": "queue_engine.cli.tenants",
    "secret-key": "queue_engine.cli.secret_key",
    "instance": "queue_engine.cli.instance",
    "endpoints": "queue_engine.cli.endpoints",
    "workers": "queue_engine.cli.workers",
    "logs": "queue_engine.cli.logs",
    "tasks": "queue_engine.cli.tasks",
    "deliveries": "queue_engine.cli.deliveries",
    "operations": "queue_engine.cli.operations",
    "console": "queue_engine.cli.console",
    "events": "queue_engine.cli.events",
    "audit": "queue_engine.cli.audit",
    "find": "queue_engine.cli.find",
    "series": "queue_engine.cli.series",
    "catalogue": "queue_engine.cli.catalogue",
    "system": "queue_engine.cli.system",
    "templates": "queue_engine.cli.catalogue",
}
"""The module of each command. The module's `commands` has the command."""
_LOGGING = ("api", "controller", "delivery")


def main() -> None:
    """Run the command line."""
    with guarded_output("queue-engine"):
        app()


class _Commands(Mapping[str, Any]):
    """Commands by name: those of `_MODULES`, which are loaded at the first access, and others."""

    def __init__(self, others: Mapping[str, Any]) -> None:
        self._names = tuple(dict.fromkeys((*_MODULES, *others)))
        self._loaded = dict(others)

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded |= _commands_of(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _commands_of(name: str) -> Mapping[str, Any]:
    """Return the commands of the module that has this one, or a placeholder if it needs more packages."""
    try:
        with Loading():
            loaded = import_module(_MODULES[name])
    except ImportError as error:
        from queue_engine.processes.missing_packages import missing_package

        if (package := missing_package(error)) is None:
            raise
        return _placeholder(name, package)
    return get_group(loaded.commands).commands


def _placeholder(name: str, package: str) -> Mapping[str, Any]:
    """Return a command in place of one that cannot be loaded. It accepts any arguments and names the extra."""
    commands = typer.Typer()

    @commands.command(
        name,
        help="Not installed: needs the extra `server`",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def not_installed() -> None:
        from queue_engine.processes.missing_packages import refuse_to_run

        refuse_to_run(f"queue-engine {name}", package, "server")

    return get_group(commands).commands


class _CommandLine(TyperGroup):
    def __init__(self, *, commands: Mapping[str, Any], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Commands(commands)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Remove pydantic's prefix from the error of an invalid argument."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from queue_engine.config.names import without_prefix

            error.message = without_prefix(error.message)
            raise


app = typer.Typer(
    cls=_CommandLine,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-hosted engine for QUEUE-mode serverless endpoints. Start with `queue-engine up`.",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def warn_of_unknown_variables(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None:
    """Name misspelled variables on standard error; the processes that log do so in their log."""
    names = [name for name in os.environ if is_prefixed(name) and name.upper() not in CLIENT_VARIABLES]
    if not names or context.invoked_subcommand in _LOGGING:
        return
    try:
        with Loading():
            from queue_engine.config.variables import unknown_variables
    except ImportError:  # the settings of the processes are not installed, so nothing is known about their names
        return
    for hint in unknown_variables(names):
        typer.echo(f"queue-engine: {hint}", err=True)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)
