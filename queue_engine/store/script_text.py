"""The text that the server runs for a script: its library functions, its keys and arguments as locals, then its body.

Every run defines all functions of its text again. Therefore a script gets only the functions and constants of
`library.lua` that it uses, directly or through another function. They are found by the names that occur in the text.

`library.lua` consists of blocks with an empty line between them; each begins with comments and defines functions or
constants as locals. A function may use keys by their names. It lists them in its last comment, `-- keys: task, leases`,
and every script that uses the function has these keys, without listing them.

A script may reply the result of a library function, `return { cancel_task(call_id) }`. The words that the function
returns are then the words of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from queue_engine.store.script_headers import KEY, Field, Header, Type

_ITEM = re.compile(r"--[^\n]*|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[A-Za-z_]\w*|\.\.\.|\.\.|==|\d[\w.]*|\S")
_NAME = re.compile(r"[A-Za-z_]\w*")
_DEFINITION = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)
_WORD = re.compile(r"'([A-Z][A-Z_]*)'")
_RESULT = re.compile(r"\breturn ([^\n]*)")
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_KEYWORDS = frozenset(
    {
        *("and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not"),
        *("or", "repeat", "return", "then", "true", "until", "while"),
    }
)
_GLOBALS = frozenset(
    {
        *("KEYS", "ARGV", "redis", "cjson", "math", "string", "table", "assert", "error", "ipairs", "next", "pairs"),
        *("pcall", "select", "tonumber", "tostring", "type", "unpack"),
    }
)
_KEY_TYPE = Type(KEY)
_PLACES = frozenset(("KEYS", "ARGV"))
"""Names that only the loader may use, because scripts address keys and arguments by name."""


class BadScript(Exception):
    """A script or a part of the library is invalid. The message names the part."""


def items(text: str) -> list[str]:
    """Return the tokens of a Lua text, without comments."""
    return [item for item in _ITEM.findall(text) if not item.startswith("--")]


def free_names(text: str) -> set[str]:
    """Return the names that a text uses and does not define, without fields of tables."""
    found = items(text)
    return set(_used(found)) - _defined(found) - _KEYWORDS


def own_names(text: str) -> set[str]:
    """Return the names that a text defines: locals, parameters and loop variables."""
    return _defined(items(text))


def _used(found: Sequence[str]) -> Iterable[str]:
    brackets: list[str] = []
    for index, item in enumerate(found):
        if item in "({[":
            brackets.append(item)
        elif item in ")}]":
            brackets.pop()
        elif _NAME.fullmatch(item):
            is_field = found[index - 1] in (".", ":") if index else False
            is_label = brackets[-1:] == ["{"] and found[index + 1 : index + 2] == ["="]
            if not is_field and not is_label:
                yield item


def _defined(found: Sequence[str]) -> set[str]:
    names: set[str] = set()
    for index, item in enumerate(found):
        if item == "local" and found[index + 1] != "function":
            names |= _names_from(found, index + 1, ("=", "\n"))
        elif item == "for":
            names |= _names_from(found, index + 1, ("=", "in"))
        elif item == "function":
            if _NAME.fullmatch(found[index + 1]):
                names.add(found[index + 1])
            names |= _names_from(found, found.index("(", index) + 1, (")",))
    return names


def _names_from(found: Sequence[str], start: int, ends: Sequence[str]) -> set[str]:
    """Return names with commas between them, up to one of `ends` or to the first name without a comma behind it."""
    names = set()
    while start < len(found) and found[start] not in ends and (_NAME.fullmatch(found[start]) or found[start] == "..."):
        names.add(found[start])
        if found[start + 1] != ",":
            break
        start += 2
    return names - {"..."}


@dataclass(frozen=True)
class Block:
    """A part of the library."""

    text: str
    names: tuple[str, ...]
    keys: tuple[str, ...]
    """Keys that the block uses by name."""
    uses: frozenset[str]
    """Other names of the library, and constants, that the block uses."""

    @property
    def words(self) -> frozenset[str]:
        """Words in capitals that the block's functions return."""
        results = (_IN_PARENTHESES.sub("", result) for result in _RESULT.findall(self.text))
        return frozenset(word for result in results for word in _WORD.findall(result))


class Library:
    """Blocks of Lua and constants by the names that they define. Raises BadScript for unknown names and unused keys."""

    def __init__(self, text: str, constants: Mapping[str, str | int]) -> None:
        self._constants = {name: f"local {name} = {_literal(value)}" for name, value in constants.items()}
        self._blocks: list[Block] = []
        self._by_name: dict[str, Block] = {}
        for part in re.split(r"\n\n+", text.strip()):
            self._add(part)

    @property
    def names(self) -> frozenset[str]:
        """All names that the library defines."""
        return frozenset(self._by_name) | frozenset(self._constants)

    def _add(self, part: str) -> None:
        comments = [line for line in part.splitlines() if line.startswith("--")]
        text = "\n".join(line for line in part.splitlines() if not line.startswith("--"))
        names = tuple(name.strip() for match in _DEFINITION.finditer(text) for name in match[1].split(","))
        if not names:
            if text:
                raise BadScript(f"library.lua: a part defines nothing: {text}")
            return
        listed = comments[-1].removeprefix("-- keys:") if comments and comments[-1].startswith("-- keys:") else ""
        keys = tuple(name.strip() for name in listed.split(",") if name.strip())
        used = free_names(text) - _GLOBALS - set(names)
        where = f"library.lua, {names[0]}"
        if places := _PLACES & free_names(text):
            raise BadScript(f"{where}: only the loader may use {_list(places)}: use names")
        if unused := set(keys) - used:
            raise BadScript(f"{where}: unused keys: {_list(unused)}")
        # A function is defined after the functions that it uses, because Lua resolves locals in order.
        if unknown := used - set(keys) - self.names:
            raise BadScript(f"{where}: unknown names: {_list(unknown)}")
        block = Block(text, names, keys, frozenset(used - set(keys)))
        self._blocks.append(block)
        self._by_name |= dict.fromkeys(names, block)

    def words_of(self, name: str) -> frozenset[str]:
        """Return the words that a function of the library returns; none for any other name."""
        return self._by_name[name].words if name in self._by_name else frozenset()

    def part_for(self, names: Iterable[str]) -> tuple[list[str], list[Block]]:
        """Return the constants and blocks that define these names, with everything they use, in order."""
        needed: set[str] = set()
        waiting = [name for name in names if name in self.names]
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting += self._by_name[name].uses if name in self._by_name else ()
        constants = [text for name, text in self._constants.items() if name in needed]
        return constants, [block for block in self._blocks if needed & set(block.names)]


@dataclass(frozen=True)
class Assembled:
    """A script's text, and its keys in the order in which they are passed."""

    text: str
    scoped_keys: tuple[str, ...]


def assemble(header: Header, body: str, library: Library) -> Assembled:
    """Return the text that the server runs. Raises BadScript when header, body and library do not fit each other."""
    given = [field.name for field in header.given]
    declared = {*header.scoped_keys, *given}
    used = free_names(body)
    constants, blocks = library.part_for(used)
    _check_names(declared, used, own_names(body), library)
    _check_replies(header, body, library)
    inherited = dict.fromkeys(key for block in blocks for key in block.keys)
    scoped_keys = (*header.scoped_keys, *(key for key in inherited if key not in declared))
    if header.scope is None and scoped_keys:
        raise BadScript(f"keys without a section `keys of a …`: {_list(scoped_keys)}")
    keys = (*(Field(name, _KEY_TYPE) for name in scoped_keys), *header.keys)
    flags = ",".join(flag for flag in ("no-writes", "allow-oom") if flag in header.flags)
    parts = [
        f"#!lua flags={flags}" if flags else "#!lua",
        *_locals("KEYS", keys),
        *constants,
        *(block.text for block in blocks),
        *_locals("ARGV", header.arguments),
        body,
    ]
    return Assembled("\n".join(parts), scoped_keys)


def _check_names(declared: set[str], used: set[str], own: set[str], library: Library) -> None:
    if places := used & _PLACES:
        raise BadScript(f"only the loader may use {_list(places)}: use names")
    if hidden := (declared | library.names | _GLOBALS) & own:
        raise BadScript(f"defined although the name is in use: {_list(hidden)}")
    if hidden := declared & (library.names | _GLOBALS | _KEYWORDS):
        raise BadScript(f"declared although the name is in use: {_list(hidden)}")
    if unused := declared - used:
        raise BadScript(f"declared and unused: {_list(unused)}")
    if unknown := used - declared - library.names - _GLOBALS:
        raise BadScript(f"used and not declared: {_list(unknown)}")


def _check_replies(header: Header, body: str, library: Library) -> None:
    """Check that every reply has a declared word and its number of fields, and that every declared word is used."""
    seen: set[str] = set()
    for elements in _returned(items(body)):
        words = {match[1] for item in elements[0] if (match := _WORD.fullmatch(item))}
        words = words.union(*map(library.words_of, elements[0]))
        if not words:
            raise BadScript(f"a reply without a word: {' '.join(elements[0])}")
        for word in words:
            if word not in header.replies:
                raise BadScript(f"the reply {word} is not declared")
            if len(header.replies[word]) != len(elements) - 1:
                raise BadScript(f"the reply {word} has {len(elements) - 1} fields, not {len(header.replies[word])}")
        seen |= words
    if unused := set(header.replies) - seen:
        raise BadScript(f"declared and never replied: {_list(unused)}")


def _returned(found: Sequence[str]) -> Iterable[list[list[str]]]:
    """Return the elements of each table that begins with a word in capitals and follows a `return`."""
    for index, item in enumerate(found[:-1]):
        if item != "return" or found[index + 1] != "{":
            continue
        elements: list[list[str]] = [[]]
        depth = 0
        for inner in found[index + 1 :]:
            depth += (inner in ("{", "(", "[")) - (inner in ("}", ")", "]"))
            if depth == 0:
                break
            if depth == 1 and inner == ",":
                elements.append([])
            elif (depth, inner) != (1, "{"):
                elements[-1].append(inner)
        yield elements


def _locals(source: str, fields: Sequence[Field]) -> list[str]:
    """Return the Lua that assigns the fields to locals with their names."""
    single = [field for field in fields if not field.type.is_variadic]
    parts = []
    if single:
        names = ", ".join(field.name for field in single)
        parts = [f"local {names} = {', '.join(_value(source, at, field) for at, field in enumerate(single, 1))}"]
    for field in fields[len(single) :]:
        value = _value(source, "place", field)
        parts.append(f"local {field.name} = {{}}")
        parts.append(f"for place = {len(single) + 1}, #{source} do {field.name}[place - {len(single)}] = {value} end")
    return parts


def _value(source: str, place: int | str, field: Field) -> str:
    text = f"{source}[{place}]"
    if field.type.base in ("integer", "number"):
        return f"tonumber({text})"
    if field.type.base == "flag":
        return f"{text} == '1'"
    return f"{text} ~= '' and {text} or nil" if field.type.optional else text


def _literal(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if set("'\\\n") & set(value):
        raise BadScript(f"a constant with quotes: {value}")
    return f"'{value}'"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
