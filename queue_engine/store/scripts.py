"""The scripts of the store: loaded, checked against the headers of their files, and made callable.

`load_scripts` returns the scripts by name. `Script.bind` returns a coroutine function that takes keys and arguments by
keyword and returns a reply with its `word` and its fields, each with the type from the header. `calls.py` has these
functions as methods. `calls.pyi` is generated from the headers too and gives mypy their signatures.

A server does not keep scripts over a restart, and a replica that becomes the master does not have them. Agents have no
right to load scripts, so the engine's processes load all scripts, also those that only agents call: at start, and when
a server does not know a script that they call. The text of every script ends with the digest of all of them. So the
scripts of two versions have different hashes, and a server that knows a script of a version got all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, make_dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from operator import attrgetter, itemgetter
from typing import Any, Protocol

from queue_engine.store.constants import CONSTANTS
from queue_engine.store.keys import EndpointKeys, Partition, TaskKeys, WorkerKeys
from queue_engine.store.redis.client import pairs
from queue_engine.store.script_headers import BadHeader, Field, Header, Type, parse_header, split_source
from queue_engine.store.script_text import BadScript, Library, assemble

Argument = str | bytes | int | float
Call = Callable[..., Awaitable[Any]]
_SCOPES: dict[str | None, tuple[tuple[str, type], ...]] = {
    None: (),
    "task": (("", TaskKeys), ("endpoint_keys.", EndpointKeys), ("endpoint_keys.partition.", Partition)),
    "worker": (("", WorkerKeys), ("endpoint_keys.", EndpointKeys), ("endpoint_keys.partition.", Partition)),
    "endpoint": (("", EndpointKeys), ("partition.", Partition)),
    "partition": (("", Partition),),
}
"""Attribute paths in which the keys of a scope are looked up, starting at an object of its first class."""


class Submit(Protocol):
    """Sends a script with the number of its keys, its keys and its arguments, and returns the store's reply."""

    def __call__(self, script: Script, arguments: list[Argument]) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Script:
    """A script: one transition in the store."""

    name: str
    header: Header
    text: str
    """The text that the server runs."""
    sha: str
    scoped_keys: tuple[str, ...]
    """Attributes of the scope's keys that are passed, in order."""

    @property
    def label(self) -> str:
        """Return its value of the metric label `op`."""
        return self.header.label or self.name

    @property
    def is_durable(self) -> bool:
        """True if a call waits for the configured durability."""
        return "durable" in self.header.flags

    def bind(self, submit: Submit) -> Call:
        """Return a function that calls the script with keywords and, for a script with a scope, the object of its keys.

        It raises TypeError when a keyword is missing or unknown. The script is submitted when the function is called,
        so calls that are awaited later share a round trip, and reach the store in the order of the calls.
        """
        pack, parse = self._pack, self._parse

        async def parsed(reply: Awaitable[Any]) -> Any:
            return parse(await reply)

        if not self.scoped_keys:

            def call(**given: Any) -> Awaitable[Any]:
                return parsed(submit(self, pack(None, given)))

            return call

        def call_with_keys(keys: Any, /, **given: Any) -> Awaitable[Any]:
            return parsed(submit(self, pack(keys, given)))

        return call_with_keys

    @cached_property
    def _pack(self) -> Callable[[Any, dict[str, Any]], list[Argument]]:
        """Function that makes the arguments of a call from the scope's keys and the keywords."""
        header = self.header
        names = [field.name for field in header.given]
        take_keys = _taker(attrgetter, [path_of(header.scope, name) for name in self.scoped_keys])
        take_given = _taker(itemgetter, names)
        key_count = len(self.scoped_keys) + len(header.keys)
        shift = 1 + len(self.scoped_keys)
        encoders = [
            (shift + index, encode)
            for index, field in enumerate(header.given)
            if (encode := _encoder(field.type)) is not None
        ]
        key_list = key_count if header.keys and header.keys[-1].type.is_variadic else None
        has_list = bool(header.arguments) and header.arguments[-1].type.is_variadic

        def pack(keys: Any, given: dict[str, Any]) -> list[Argument]:
            try:
                values = take_given(given)
            except KeyError as error:
                raise TypeError(f"{self.name}: {error} is missing") from None
            if len(given) != len(names):
                raise TypeError(f"{self.name}: unknown: {', '.join(sorted(set(given) - set(names)))}")
            arguments: list[Any] = [key_count, *take_keys(keys), *values]
            for place, encode in encoders:
                arguments[place] = encode(arguments[place])
            if has_list:
                arguments[-1:] = arguments[-1]
            if key_list is not None:
                arguments[0] += len(arguments[key_list]) - 1
                arguments[key_list : key_list + 1] = arguments[key_list]
            return arguments

        return pack

    @cached_property
    def _parse(self) -> Callable[[Any], Any]:
        """Function that makes a reply object from the store's reply."""
        kinds = {
            word.encode(): (_reply_class(self.name, word, fields), [_decoder(field.type) for field in fields])
            for word, fields in self.header.replies.items()
        }

        # Most replies are a word, and one object stands for all of them.
        words = {word: make() for word, (make, decoders) in kinds.items() if not decoders}

        def parse(reply: Any) -> Any:
            if (made := words.get(reply[0])) is not None and len(reply) == 1:
                return made
            make, decoders = kinds[reply[0]]
            return make(*[decode(value) for decode, value in zip(decoders, reply[1:], strict=True)])

        return parse


AGENT_SCRIPTS = (
    *("claim", "unstarted", "take_over", "start", "renew", "finish", "retry", "release", "put_back", "make_queues"),
    *("mark", "put_worker", "report_worker", "remove_worker", "append_logs", "drop_logs", "ask_for_headers"),
)
"""The scripts that agents call."""


@cache
def load_scripts() -> dict[str, Script]:
    """Return all scripts of the package by name. Raises BadScript."""
    folder = files("queue_engine.store") / "lua"
    library = load_library()
    sources = {entry.name: entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".lua")}
    del sources["library.lua"]
    scripts = {
        name: make_script(name, source, library)
        for name, source in sorted((name.removesuffix(".lua"), source) for name, source in sources.items())
    }
    digest = _sha1("".join(script.sha for script in scripts.values()))
    return {name: _with_end(script, f"\n-- {digest}\n") for name, script in scripts.items()}


@cache
def load_library() -> Library:
    """Return the library of all scripts. Raises BadScript."""
    return Library((files("queue_engine.store") / "lua" / "library.lua").read_text(), CONSTANTS)


def make_script(name: str, source: str, library: Library) -> Script:
    """Return the script of a file's text. Raises BadScript."""
    comments, body = split_source(source)
    try:
        header = parse_header(comments)
        made = assemble(header, body, library)
        for key in made.scoped_keys:
            path_of(header.scope, key)
    except (BadHeader, BadScript) as error:
        raise BadScript(f"{name}.lua: {error}") from error
    return Script(name, header, made.text, _sha1(made.text), made.scoped_keys)


def _with_end(script: Script, end: str) -> Script:
    text = script.text + end
    return replace(script, text=text, sha=_sha1(text))


def _sha1(text: str) -> str:
    """Return the hash by which the servers name scripts."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def path_of(scope: str | None, key: str) -> str:
    """Return the attribute path of a key in an object of the scope's class. Raises BadScript."""
    for path, kind in _SCOPES[scope]:
        if isinstance(getattr(kind, key, None), (property, cached_property)):
            return path + key
    raise BadScript(f"`{key}` is not a key of a {scope} in keys.py")


def scope_class(scope: str | None) -> str:
    """Return the name of the class whose objects are passed for a scope."""
    return _SCOPES[scope][0][1].__name__


def _taker(getter: Callable[..., Any], names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that gets these attributes or items as a tuple."""
    if not names:
        return lambda _: ()
    take: Callable[[Any], Any] = getter(*names)
    return take if len(names) > 1 else lambda source: (take(source),)


def _encoder(kind: Type) -> Callable[[Any], Any] | None:
    """Return a function that encodes a value for the store; None when redis-py encodes it."""
    if kind.base == "flag":
        return lambda value: "1" if value else "0"
    if kind.base == "map":
        return lambda value: [item for pair in value.items() for item in pair]
    return (lambda value: "" if value is None else value) if kind.optional else None


def _decoder(kind: Type) -> Callable[[Any], Any]:
    if kind.lists:
        inner = _decoder(Type(kind.base, kind.optional, kind.lists - 1))
        return lambda values: [inner(value) for value in values]
    decode = _DECODERS[kind.base]
    return (lambda value: None if value is None else decode(value)) if kind.optional else decode


def _entries(values: Sequence[Any]) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return entries of a stream. A deleted entry has no fields."""
    return [(entry_id, dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}) for entry_id, flat in values]


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "text": bytes.decode,
    "bytes": bytes,
    "integer": int,
    "number": float,
    "flag": bool,
    "map": pairs,
    "entries": _entries,
}


def _reply_class(script: str, word: str, fields: Sequence[Field]) -> type[Any]:
    names = [field.name for field in fields]
    return make_dataclass(reply_name(script, word), names, namespace={"word": word}, slots=True)


def reply_name(script: str, word: str) -> str:
    """Return the name of the class of a reply, such as `StartOk`."""
    return "".join(part.capitalize() for part in (*script.split("_"), *word.split("_")))
