"""The page on the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from queue_engine.cli.main import app
from tests.reference_text import MADE, shown_default, table
from worker_agent.cli import app as agent_app

_PAGE = f"""# Command line

{MADE}

`queue-engine endpoints`, `workers`, `tasks` and `logs` use the HTTP API, so they work from any machine. They read
`QUEUE_ENGINE_URL` and `QUEUE_ENGINE_API_KEY`. The options `--url`, `--api-key` and `--json` follow the command. An
endpoint is named by its id or its name. The other commands start a process or use the store, and read the variables of
[Configuration](configuration.md). To use the store of a running `up`, set
`QUEUE_ENGINE_REDIS_URL_FILE=queue-engine-data/store/store-url`. `queue-engine --version` prints the version.

On a terminal, tables have colours (not with `NO_COLOR`) and ages. In a pipe, the format of tables is plain and stable,
with one line for each row; `--json` prints the API's data.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | the API refused the request, or the output could not be written |
| 2 | invalid arguments, or a missing or invalid setting |
| 3 | the API cannot be reached |
| 4 | the task that was waited for has failed |
| 124 | the task that was waited for has not ended within `--timeout` |
| 130 | interrupted with Ctrl-C |

Commands that wait or follow retry for 30 seconds while the API is away or busy (`tasks map`: 60), and then end with
3 or 1.

{{commands}}
"""


def command_line() -> str:
    """Return the page on all commands."""
    commands = "\n".join(
        [*_described(get_command(app), "queue-engine"), *_described(get_command(agent_app), "worker-agent")]
    )
    return _PAGE.format(commands=commands).rstrip() + "\n"


def _described(command: Any, name: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    for word, one in inner.items():
        yield from _described(one, f"{name} {word}")
    if not inner:
        yield _command(command, name)


def _command(command: Any, name: str) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
    usage = " ".join([name, *(one.metavar or one.name.upper() for one in arguments)])
    text = "\n".join(line.strip() for line in (command.help or "").strip().splitlines())
    rows = [
        *(
            (f"`{one.metavar or one.name.upper()}`", "required" if one.required else "–", _text(one))
            for one in arguments
        ),
        *((f"`{_option(one)}`", _default(one), _text(one)) for one in options),
    ]
    described = table(("option", "default", "meaning"), rows) + "\n" if rows else ""
    return f"## `{usage}`\n\n{_prose(text)}\n\n{described}"


def _prose(text: str) -> str:
    """Put the examples of a help text, which are paragraphs that begin with a command, into code, each in one line."""
    return "\n\n".join(
        f"`{' '.join(part.splitlines())}`" if part.startswith(("queue-engine ", "worker-agent ")) else part
        for part in text.split("\n\n")
    )


def _option(option: Any) -> str:
    flags = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    return flags + value


def _kind(option: Any) -> str:
    annotation = option.type_descriptor.annotation
    return {"int": "INTEGER", "float": "NUMBER", "Path": "PATH"}.get(getattr(annotation, "__name__", ""), "TEXT")


def _default(option: Any) -> str:
    if option.required:
        return "required"
    return "–" if option.is_flag or callable(option.default) else shown_default(option.default)


def _text(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    repeated = "; may be repeated" if parameter.multiple and "repeated" not in text else ""
    variable = f" (`{parameter.envvar}`)" if isinstance(parameter.envvar, str) and parameter.envvar not in text else ""
    return text + repeated + variable
