"""Writes `calls.pyi`, the signatures of the scripts, from their headers: `python -m tests.script_signatures`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from queue_engine.store import calls
from queue_engine.store.script_headers import KEY, Field, Type
from queue_engine.store.scripts import Script, load_scripts, reply_name, scope_class

STUB = Path(calls.__file__).with_name("calls.pyi")
_HEAD = """\
# Made from the headers of the scripts by `make stubs`; a test compares the two.

from collections.abc import Mapping, Sequence
from typing import Literal

from queue_engine.store.keys import EndpointKeys, Partition, TaskKeys, WorkerKeys
from queue_engine.store.redis.connections import Pieces
from queue_engine.store.scripts import Submit
"""
_TYPES = {
    "text": "str",
    "bytes": "bytes",
    "integer": "int",
    "number": "float",
    "flag": "bool",
    "entries": "list[tuple[bytes, dict[bytes, bytes]]]",
    KEY: "str",
}
_WIDTH = 120
_CLASS = (
    "class Scripts:",
    "    def __init__(self, submit: Submit) -> None: ...",
)


def stub() -> str:
    """Return the text of `calls.pyi`."""
    scripts = load_scripts().values()
    replies = [line for script in scripts for line in _reply_classes(script)]
    methods = [line for script in scripts for line in _method(script)]
    return "\n".join([_HEAD, *replies, *_CLASS, *methods, ""])


def _reply_classes(script: Script) -> Iterator[str]:
    for word, fields in script.header.replies.items():
        yield f"class {reply_name(script.name, word)}:"
        yield f'    word: Literal["{word}"]'
        for field in fields:
            yield f"    {field.name}: {_reply_type(field.type)}"
        yield ""


def _method(script: Script) -> Iterator[str]:
    scope = [f"keys: {scope_class(script.header.scope)}", "/"] if script.scoped_keys else []
    given = [f"{field.name}: {_argument_type(field)}" for field in script.header.given]
    parameters = ["self", *scope, *(["*"] if given else []), *given]
    replies = " | ".join(reply_name(script.name, word) for word in script.header.replies)
    line = f"    async def {script.name}({', '.join(parameters)}) -> {replies}:"
    if len(line) > _WIDTH:
        yield f"    async def {script.name}("
        yield from (f"        {parameter}," for parameter in parameters)
        line = f"    ) -> {replies}:"
    yield from [line] if len(line) <= _WIDTH else _wrapped(replies)
    yield from _docstring(script.header.description)


def _wrapped(replies: str) -> Iterator[str]:
    yield "    ) -> ("
    yield "        " + replies.replace(" | ", "\n        | ")
    yield "    ):"


def _docstring(text: str) -> Iterable[str]:
    one_line = f'        """{text}"""'
    if len(one_line) <= _WIDTH:
        return [one_line]
    lines = textwrap.wrap(f'"""{text}', _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return [*lines, '        """']


def _argument_type(field: Field) -> str:
    if field.type.base == "map":
        return "Mapping[str, str | int]"
    base = "bytes | memoryview | Pieces" if field.type.base == "bytes" else _TYPES[field.type.base]
    base = f"{base} | None" if field.type.optional else base
    return f"Sequence[{base}]" if field.type.lists else base


def _reply_type(kind: Type) -> str:
    base = "dict[str, str]" if kind.base == "map" else _TYPES[kind.base]
    base = f"{base} | None" if kind.optional else base
    for _ in range(kind.lists):
        base = f"list[{base}]"
    return base


if __name__ == "__main__":
    STUB.write_text(stub())
