"""Run a command with a client of the API, a screen, the options that all commands share, and an exit status.

Exit status: 0 success; 1 the API refused the request; 2 invalid options; 3 the API cannot be reached; 4 `--wait` or
`tasks wait`: the task has failed; 124 the same: the task has not ended in time; 130 Ctrl-C.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from queue_engine.cli.client import QUEUE_FULL_STATUS, Api, Data, NotInTime, Refused, Unreachable, WrongUse, opened
from queue_engine.cli.output import Screen, safe
from queue_engine.crypto.secret_files import secret_from
from queue_engine.domain.definitions import Defined
from queue_engine.processes.interrupts import raised_interrupts
from queue_engine.processes.standard_files import pause_while_read

if TYPE_CHECKING:
    import httpx

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_TASK_FAILED = 4
EXIT_NOT_IN_TIME = 124
"""The status of timeout(1)."""
EXIT_INTERRUPTED = 130

DEFAULT_URL = "http://127.0.0.1:8000"
PANEL = "Use a running API"
PATIENCE_SECONDS = 30.0
"""Time for which a command that waits or follows retries while the API is unavailable or busy."""
POLL_SECONDS = 1.0

Command = TypeVar("Command", bound=Callable[..., None])
T = TypeVar("T")

Endpoint = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="Id of an endpoint, or its name if no other endpoint has the same")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")]
_UrlOption = Annotated[str, typer.Option(envvar="QUEUE_ENGINE_URL", help="URL of the API")]
_KeyOption = Annotated[
    str | None,
    typer.Option(
        help="API key. Prefer the variable QUEUE_ENGINE_API_KEY, which other users cannot see, or a file named by "
        "QUEUE_ENGINE_API_KEY_FILE"
    ),
]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's data as JSON")]


@dataclass(frozen=True)
class Surroundings:
    """The environment of a command. Tests pass another one as the context's `obj`."""

    transport: httpx.BaseTransport | None = None
    """None means the network."""
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = pause_while_read
    zone: tzinfo | None = None
    """None means the machine's time zone."""
    terminal: bool | None = None
    """True if standard output is a terminal; None means to check it."""
    width: int | None = None


@dataclass(frozen=True)
class Session:
    """The API, the screen and the options of a running command."""

    api: Api
    screen: Screen
    as_json: bool
    around: Surroundings

    def pause(self, seconds: float) -> None:
        self.around.pause(seconds)

    def monotonic(self) -> float:
        return self.around.monotonic()

    def show(self, data: Data, render: Callable[[], None]) -> None:
        """Print the data as JSON with `--json`, else with `render`."""
        if self.as_json:
            self.screen.json(data.text)
        else:
            render()

    def confirm(self, question: str) -> None:
        """Ask the user, and end the program unless the response is yes.

        Raises WrongUse if standard input has no response and is not a terminal.
        """
        try:
            agreed = typer.confirm(question, err=True)
        except typer.Abort:
            if sys.stdin.isatty():
                raise
            typer.echo(err=True)  # ends the line of the question
            raise WrongUse("standard input is not a terminal and has no response: use --yes") from None
        if not agreed:
            raise typer.Abort

    def patiently(
        self,
        ask: Callable[[], T],
        *,
        seconds: float = PATIENCE_SECONDS,
        note: Callable[[str | None], None] = lambda _problem: None,
    ) -> T:
        """Return the result of `ask`, retrying for some seconds while the API is unavailable or busy.

        The time counts from the first failure, because the API may hold the request itself for longer. `note` gets the
        reason of each try that found the API away, and None when it has responded.
        """
        failed_at: float | None = None
        while True:
            try:
                found = ask()
            except (Refused, Unreachable) as error:
                if isinstance(error, Refused) and not error.passes:
                    raise
                failed_at = self.monotonic() if failed_at is None else failed_at
                if self.monotonic() - failed_at >= seconds:
                    raise
                if not (isinstance(error, Refused) and error.status == QUEUE_FULL_STATUS):
                    note(str(error))
                self.pause((isinstance(error, Refused) and error.retry_after_seconds) or POLL_SECONDS)
            else:
                note(None)
                return found


def command(
    group: typer.Typer, name: str, *, options: Mapping[str, Any] | None = None, panel: str | None = None
) -> Callable[[Command], Command]:
    """Register `run(session, …)` as a command of `group`, with the options that all commands share.

    `options` are annotations of further options by name. Their values are passed as `**fields`, which has only the
    options that are set. `panel` is the section of the help that lists the command.
    """

    def register(run: Command) -> Command:
        optional = options or {}
        parameters = [*_parameters_of(run), *(_option(key, one, None) for key, one in optional.items())]

        def call(ctx: typer.Context, url: str, api_key: str | None, as_json: bool, **given: Any) -> None:
            arguments = {key: value for key, value in given.items() if key not in optional or value not in (None, [])}
            around = ctx.find_object(Surroundings)
            with _exit_status(), raised_interrupts(), _session(around, url, api_key, as_json) as session:
                run(session, **arguments)

        _pose_as(call, run, parameters)
        group.command(name, rich_help_panel=panel)(call)
        return run

    return register


@contextmanager
def _session(around: Surroundings | None, url: str, api_key: str | None, as_json: bool) -> Iterator[Session]:
    around = around or Surroundings()
    api_key = api_key or secret_in_environment("QUEUE_ENGINE_API_KEY")
    if not api_key:
        raise WrongUse("no API key: set QUEUE_ENGINE_API_KEY or use --api-key")
    screen = Screen(around.now, zone=around.zone, terminal=around.terminal, width=around.width)
    with opened(url, api_key, around.transport) as api:
        yield Session(api, screen, as_json, around)


def secret_in_environment(name: str) -> str | None:
    """Return a secret from the environment, or from a file that the environment names. Raises WrongUse."""
    try:
        return secret_from(os.environ, name)
    except ValueError as error:
        raise WrongUse(str(error)) from None


@contextmanager
def _exit_status() -> Iterator[None]:
    """Print an error on standard error, and end with its exit status."""
    try:
        yield
    except WrongUse as error:
        _fail(str(error), EXIT_USAGE)
    except Refused as error:
        again = f" (try again in {error.retry_after_seconds:g} s)" if error.retry_after_seconds else ""
        _fail(f"{error}{again}", EXIT_REFUSED)
    except Unreachable as error:
        _fail(str(error), EXIT_UNREACHABLE)
    except NotInTime as error:
        _fail(str(error), EXIT_NOT_IN_TIME)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(message: str, status: int) -> None:
    sys.stdout.flush()
    typer.echo(f"error: {safe(message)}", err=True)
    raise typer.Exit(status)


def _parameters_of(run: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of `run` for the command line: all except the session and `**fields`."""
    hints = get_type_hints(run, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(run).parameters.values())[1:]
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def options_of(
    fields: Iterable[Defined[Any]], structured: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> dict[str, Any]:
    """Return an option for each defined field, by its name in requests.

    A structured field has the options that `structured` has for its name.
    """
    options: dict[str, Any] = {}
    for one in fields:
        plain = {one.asked: Annotated[_type_of(one), typer.Option(_flag(one), help=one.definition.text)]}
        options |= structured.get(one.name, plain)
    return options


def _flag(field: Defined[Any]) -> str:
    return f"{field.option}/--no-{field.option[2:]}" if field.kind is bool else field.option


def camel(name: str) -> str:
    """Return the API's name for a name in snake case."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _type_of(field: Defined[Any]) -> type:
    """Return the type of an option's value. Enums are passed as text, so that the API's error names the valid words."""
    return str if issubclass(field.kind, str) else field.kind


def _pose_as(call: Callable[..., None], run: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Give `call` the signature and the help of `run`, and the shared options, for typer."""
    shared = [
        _option("url", _UrlOption, DEFAULT_URL),
        _option("api_key", _KeyOption, None),
        _option("as_json", _JsonOption, False),
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    every = [context, *parameters, *shared]
    call.__doc__ = run.__doc__
    call.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in every}


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
