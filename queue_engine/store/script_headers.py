"""The header of a script: its keys, arguments and replies as data.

A script is a file of `lua/` that begins with comments: a description, an empty comment line, then sections.

    -- Put an entry back that an agent has read and cannot start.
    --
    -- flags: allow-oom
    -- keys of a task: task, retry_queue
    -- keys: stream (that the entry came from)
    -- arguments: entry_id text, task_id text
    -- replies:
    --   OK: attempts integer, since_ms integer
    --   STALE (the task waits with another entry)

A section `label` has the script's value of the metric label `op`, when that is not its name. A script that is renamed
keeps its old value, because dashboards and alerts of users select by it.

Text in parentheses is for readers only. A line that begins with three spaces or more continues its section, a line with
five or more continues its reply. `keys of a …` are attributes of a class of `keys.py`; `keys` are passed one by one.
The types are those of ARGUMENT_TYPES and REPLY_TYPES, each also as `optional …` and as `list of …`; only the last of
the keys and the last of the arguments may be a list or a `map`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

FLAGS = ("allow-oom", "no-writes", "durable")
"""`allow-oom` and `no-writes` are flags of the server. A `durable` script replies after its writes have the configured
durability. Lost writes of any other script are detected and repeated, or no client relies on them."""
KEY = "key"
ARGUMENT_TYPES = ("text", "bytes", "integer", "number", "flag", "map")
REPLY_TYPES = ("text", "bytes", "integer", "number", "flag", "map", "entries")
SCOPES = ("task", "worker", "endpoint", "partition")
_SECTIONS = (
    "label",
    "flags",
    *(f"keys of a{'n' * (scope == 'endpoint')} {scope}" for scope in SCOPES),
    "keys",
    "arguments",
)
_SECTION = re.compile(r"([a-z ]+):(?: +(.+))?")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REPLY = re.compile(r"([A-Z][A-Z_]*)(?:: *(.+))?")
_REMARK = re.compile(r" *\([^()]*\)")


class BadHeader(Exception):
    """A header is invalid. The message names the part."""


@dataclass(frozen=True)
class Type:
    """A type, such as `optional integer` or `list of list of bytes`."""

    base: str
    optional: bool = False
    lists: int = 0

    @property
    def is_variadic(self) -> bool:
        """True if a value takes any number of places in a call."""
        return self.lists > 0 or self.base == "map"


@dataclass(frozen=True)
class Field:
    """A key, an argument, or a value in a reply."""

    name: str
    type: Type


@dataclass(frozen=True)
class Header:
    """The keys, arguments and replies of a script."""

    description: str
    label: str | None
    """Value of the metric label `op`; None: the script's name."""
    flags: frozenset[str]
    scope: str | None
    """The item of SCOPES to which the `scoped_keys` belong."""
    scoped_keys: tuple[str, ...]
    keys: tuple[Field, ...]
    arguments: tuple[Field, ...]
    replies: dict[str, tuple[Field, ...]]

    @property
    def given(self) -> tuple[Field, ...]:
        """Fields that a caller passes by keyword."""
        return (*self.keys, *self.arguments)


def split_source(source: str) -> tuple[list[str], str]:
    """Return the comment lines at the start of a file, without their dashes, and the remaining text."""
    lines = source.splitlines()
    end = next((index for index, line in enumerate(lines) if not line.startswith("--")), len(lines))
    return [line[2:] for line in lines[:end]], "\n".join(lines[end:])


def parse_header(comments: Sequence[str]) -> Header:
    """Return the header in these comment lines. Raises BadHeader."""
    if "" not in comments:
        raise BadHeader("an empty comment line must end the description")
    end = comments.index("")
    description = " ".join(line.strip() for line in comments[:end])
    if not description:
        raise BadHeader("the description is missing")
    sections = _sections(comments[end + 1 :])
    if "replies" not in sections:
        raise BadHeader("the section `replies` is missing")
    scoped = [(scope, name) for scope in SCOPES for name in sections if name.endswith(f" {scope}")]
    if len(scoped) > 1:
        raise BadHeader("only one section may begin with `keys of a`")
    scope, section = scoped[0] if scoped else (None, "")
    header = Header(
        description=description,
        label=_name(" ".join(sections["label"]).strip()) if "label" in sections else None,
        flags=_flags(sections.get("flags", [])),
        scope=scope,
        scoped_keys=tuple(_name(item) for item in _items(sections.get(section, []))),
        keys=tuple(_key(item) for item in _items(sections.get("keys", []))),
        arguments=tuple(_field(item, ARGUMENT_TYPES) for item in _items(sections.get("arguments", []))),
        replies=_replies(sections["replies"]),
    )
    _check(header)
    return header


def _sections(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return the lines of each section without their first space."""
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        if line.startswith("   "):
            if current is None:
                raise BadHeader(f"`{line.strip()}` is not in a section")
            current.append(line[1:])
            continue
        match = _SECTION.fullmatch(line.strip())
        if match is None or match[1] not in (*_SECTIONS, "replies"):
            raise BadHeader(f"`{line.strip()}` does not begin a section: {', '.join((*_SECTIONS, 'replies'))}")
        if match[1] in sections:
            raise BadHeader(f"the section `{match[1]}` is repeated")
        current = sections[match[1]] = ["  " + match[2]] if match[2] else []
    return sections


def _without_remarks(text: str) -> str:
    plain = _REMARK.sub("", text)
    if "(" in plain or ")" in plain:
        raise BadHeader(f"the parentheses do not match, or are nested, in `{text}`")
    return plain


def _items(lines: Sequence[str]) -> list[str]:
    """Return the items between the commas."""
    text = _without_remarks(" ".join(line.strip() for line in lines))
    items = [" ".join(item.split()) for item in text.split(",")] if text else []
    if "" in items:
        raise BadHeader(f"an item is missing beside a comma in `{text}`")
    return items


def _flags(lines: Sequence[str]) -> frozenset[str]:
    flags = _items(lines)
    for flag in flags:
        if flag not in FLAGS:
            raise BadHeader(f"`{flag}` is not a flag; known are: {', '.join(FLAGS)}")
    return frozenset(flags)


def _name(item: str) -> str:
    if not _NAME.fullmatch(item):
        raise BadHeader(f"`{item}` is not a name")
    return item


def _key(item: str) -> Field:
    name, _, kind = item.partition(" ")
    if kind not in ("", "list"):
        raise BadHeader(f"`{item}`: the type of a key can only be `list`")
    return Field(_name(name), Type(KEY, lists=int(kind == "list")))


def _field(item: str, types: Sequence[str]) -> Field:
    name, _, kind = item.partition(" ")
    return Field(_name(name), _type(kind, types))


def _type(text: str, types: Sequence[str]) -> Type:
    base, lists = text, 0
    while base.startswith("list of "):
        base, lists = base.removeprefix("list of "), lists + 1
    optional = base.startswith("optional ")
    base = base.removeprefix("optional ")
    if base not in types:
        raise BadHeader(f"`{text}` is not a type; known are: {', '.join(types)}, `optional …`, `list of …`")
    return Type(base, optional, lists)


def _replies(lines: Sequence[str]) -> dict[str, tuple[Field, ...]]:
    joined: list[str] = []
    for line in lines:
        if line.startswith("    ") and joined:
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line.strip())
    replies: dict[str, tuple[Field, ...]] = {}
    for line in joined:
        match = _REPLY.fullmatch(_without_remarks(line))
        if match is None:
            raise BadHeader(f"`{line}` is not a reply: a word in capitals, and after a colon its fields")
        if match[1] in replies:
            raise BadHeader(f"the reply {match[1]} is repeated")
        replies[match[1]] = tuple(_field(item, REPLY_TYPES) for item in _items([match[2] or ""]))
    if not replies:
        raise BadHeader("the section `replies` is empty")
    return replies


def _check(header: Header) -> None:
    _check_once("keys and arguments", [*header.scoped_keys, *(field.name for field in header.given)])
    for word, fields in header.replies.items():
        _check_once(f"the reply {word}", [field.name for field in fields])
    for fields in (header.keys, header.arguments):
        for field in fields[:-1]:
            if field.type.is_variadic:
                raise BadHeader(f"`{field.name}` takes any number of places, so it must be the last")
    for field in header.arguments:
        if field.type.lists > 1 or (field.type.is_variadic and field.type.optional):
            raise BadHeader(f"`{field.name}`: only replies may have this type")


def _check_once(where: str, names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadHeader(f"{', '.join(sorted(twice))}: repeated in {where}")
