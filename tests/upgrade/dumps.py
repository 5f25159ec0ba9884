"""Write the data of a store to a text file, and restore it into any store.

Redis 7 cannot read an RDB file of Valkey, and RDB files cannot be compared as text. A dump has JSON lines: the first
line describes the dump, each other line is a key. A value that is not UTF-8 is `{"base64": …}`. For example:

    {"format": 1, "recorded_at_ms": 1795815000000, "recorded_on": "a17922d"}
    {"key": "{p03}:t:1:sum", "type": "hash", "value": {"state": "queued", "created": "1795814998000"}}
    {"key": "{p03}:b:1:sum", "type": "string", "value": "{\"port\":8000}1", "ttl_ms": 172800000}

Times in the store are absolute: leases, waits, ages, ids of stream entries. A dump restored without a change would be a
store unused for months, and the retention of all ended tasks would be over. `restore` therefore moves the dump to the
present: each number that can only be a time, because it has 13 digits and lies within MAX_DISTANCE_MS of the recording,
is moved by the dump's age. A moved time has the same number of digits, so that lengths and offsets in other fields stay
right.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

Value = dict[str, Any]
MAX_DISTANCE_MS = 30 * 86_400_000
_TIME = re.compile(r"(?<![0-9A-Za-z_.])[1-9][0-9]{12}(?![0-9A-Za-z_.])")


@dataclass(frozen=True)
class Dump:
    """The content of a dump's file."""

    about: dict[str, Any]
    records: tuple[Value, ...]

    @property
    def recorded_at_ms(self) -> int:
        return int(self.about["recorded_at_ms"])

    def replaced(self, texts: Mapping[str, str]) -> Dump:
        """Return the dump with other texts of the same lengths, such as the port of a receiver."""
        assert all(len(old) == len(new) for old, new in texts.items()), "lengths are part of the data"

        def replace(text: str) -> str:
            for old, new in texts.items():
                text = text.replace(old, new)
            return text

        return Dump(self.about, tuple(mapped(record, replace) for record in self.records))


def read(path: Path) -> Dump:
    """Return the dump in this file."""
    about, *records = (json.loads(line) for line in path.read_text().splitlines())
    return Dump(about, tuple(records))


async def write(redis: Redis, path: Path, **about: Any) -> None:
    """Write all data of the store. No process may use the store at the same time."""
    seconds, micros = await redis.time()
    about |= {"recorded_at_ms": int(seconds) * 1000 + int(micros) // 1000}
    records = [record async for record in _records(redis)]
    lines = (json.dumps(line, ensure_ascii=False, sort_keys=line is about) for line in (about, *records))
    path.write_text("".join(f"{line}\n" for line in lines))


async def restore(redis: Redis, dump: Dump) -> Callable[[str], str]:
    """Restore the dump into an empty store, moved to the present. Return the function that moves times in a text."""
    seconds, micros = await redis.time()
    moved = mover(dump.recorded_at_ms, int(seconds) * 1000 + int(micros) // 1000)
    for record in dump.records:
        record = mapped(record, moved)
        commands = _COMMANDS[record["type"]](record["key"], record["value"])
        if "ttl_ms" in record:
            commands = [*commands, ("PEXPIRE", record["key"], record["ttl_ms"])]
        for command in commands:
            await _ask(redis, *command)
    return moved


def mover(recorded_at_ms: int, now_ms: int) -> Callable[[str], str]:
    """Return a function that moves the times in a text from the recording to now."""

    def moved(found: re.Match[str]) -> str:
        time_ms = int(found[0])
        is_time = abs(time_ms - recorded_at_ms) <= MAX_DISTANCE_MS
        return str(time_ms - recorded_at_ms + now_ms) if is_time else found[0]

    return lambda text: _TIME.sub(moved, text)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return the value with all texts in it changed, including names."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        if "base64" in value:
            changed = change(_bytes(value).decode("latin-1")).encode("latin-1")
            return {"base64": base64.b64encode(changed).decode()}
        return {change(name): mapped(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [mapped(part, change) for part in value]
    return value


# Reading


async def _records(redis: Redis) -> AsyncIterator[Value]:
    for name in sorted(await _ask(redis, "KEYS", "*")):
        kind = (await _ask(redis, "TYPE", name)).decode()
        if kind == "none":  # it has just expired
            continue
        record = {"key": name.decode(), "type": kind, "value": await _READERS[kind](redis, name)}
        ttl_ms = await _ask(redis, "PTTL", name)
        yield record if ttl_ms < 0 else record | {"ttl_ms": ttl_ms}


async def _read_string(redis: Redis, name: bytes) -> Any:
    return _text(await _ask(redis, "GET", name))


async def _read_hash(redis: Redis, name: bytes) -> Any:
    found = await redis.hgetall(name.decode())  # type: ignore[misc]
    return {field.decode(): _text(value) for field, value in sorted(found.items())}


async def _read_list(redis: Redis, name: bytes) -> Any:
    return [_text(value) for value in await _ask(redis, "LRANGE", name, 0, -1)]


async def _read_set(redis: Redis, name: bytes) -> Any:
    return [_text(value) for value in sorted(await redis.smembers(name.decode()))]  # type: ignore[misc]


async def _read_sorted_set(redis: Redis, name: bytes) -> Any:
    return {member.decode(): f"{score:.0f}" for member, score in await redis.zrange(name, 0, -1, withscores=True)}


async def _read_stream(redis: Redis, name: bytes) -> Any:
    facts = await redis.xinfo_stream(name)
    entries = [[entry_id.decode(), _texts(fields)] for entry_id, fields in await redis.xrange(name)]
    groups = [await _read_group(redis, name, group) for group in await redis.xinfo_groups(name)]
    return {
        "entries": entries,
        "last_id": _text(facts["last-generated-id"]),
        "max_deleted_id": _text(facts["max-deleted-entry-id"]),
        "added": facts["entries-added"],
        "groups": groups,
    }


async def _read_group(redis: Redis, name: bytes, group: dict[str, Any]) -> Value:
    pending = await redis.xpending_range(name, group["name"], min="-", max="+", count=100_000)
    consumers = await redis.xinfo_consumers(name, group["name"])
    return {
        "name": _text(group["name"]),
        "last_delivered_id": _text(group["last-delivered-id"]),
        "entries_read": group["entries-read"],
        "consumers": [_text(one["name"]) for one in consumers],
        "pending": [
            {
                "id": _text(one["message_id"]),
                "consumer": _text(one["consumer"]),
                "idle_ms": one["time_since_delivered"],
                "times": one["times_delivered"],
            }
            for one in pending
        ],
    }


_READERS = {
    "string": _read_string,
    "hash": _read_hash,
    "list": _read_list,
    "set": _read_set,
    "zset": _read_sorted_set,
    "stream": _read_stream,
}


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _texts(fields: dict[bytes, bytes]) -> Value:
    return {field.decode(): _text(value) for field, value in fields.items()}


# Writing

Command = tuple[Any, ...]


def _write_string(name: str, value: Any) -> list[Command]:
    return [("SET", name, _bytes(value))]


def _write_hash(name: str, value: Any) -> list[Command]:
    return [("HSET", name, *(part for field, text in value.items() for part in (field, _bytes(text))))]


def _write_list(name: str, value: Any) -> list[Command]:
    return [("RPUSH", name, *map(_bytes, value))]


def _write_set(name: str, value: Any) -> list[Command]:
    return [("SADD", name, *map(_bytes, value))]


def _write_sorted_set(name: str, value: Any) -> list[Command]:
    return [("ZADD", name, *(part for member, score in value.items() for part in (score, member)))]


def _write_stream(name: str, value: Any) -> list[Command]:
    """Write entries, groups and the pending entries of each consumer. An empty stream may have a last id."""
    last_id = value["last_id"]
    commands: list[Command] = [
        ("XADD", name, entry_id, *(part for field, text in fields.items() for part in (field, _bytes(text))))
        for entry_id, fields in value["entries"]
    ]
    if not commands and last_id != "0-0":
        commands += [("XADD", name, last_id, "x", "x"), ("XDEL", name, last_id)]
    for group in value["groups"]:
        created = ["XGROUP", "CREATE", name, group["name"], group["last_delivered_id"], "MKSTREAM"]
        if group["entries_read"] is not None:
            created += ["ENTRIESREAD", group["entries_read"]]
        commands.append(tuple(created))
        commands += [("XGROUP", "CREATECONSUMER", name, group["name"], one) for one in group["consumers"]]
        commands += [
            (
                *("XCLAIM", name, group["name"], one["consumer"], 0, one["id"]),
                *("IDLE", one["idle_ms"], "RETRYCOUNT", one["times"], "FORCE"),
            )
            for one in group["pending"]
        ]
    counted = ("ENTRIESADDED", value["added"], "MAXDELETEDID", value["max_deleted_id"])
    return [*commands, ("XSETID", name, last_id, *counted)]


_COMMANDS: dict[str, Callable[[str, Any], list[Command]]] = {
    "string": _write_string,
    "hash": _write_hash,
    "list": _write_list,
    "set": _write_set,
    "zset": _write_sorted_set,
    "stream": _write_stream,
}


def _bytes(value: Any) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value).encode()


async def _ask(redis: Redis, *words: Any) -> Any:
    return await redis.execute_command(*words)  # type: ignore[no-untyped-call]


def subset_fault(expected: Any, found: Any, where: str = "") -> str | None:
    """Return the first place where `found` lacks or changes a part of `expected`, or None. Fields may be added."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return _first(subset_fault(part, found.get(name), f"{where}.{name}") for name, part in expected.items())
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return _first(subset_fault(part, other, f"{where}[{index}]") for index, (part, other) in pairs)
    return None if expected == found else f"{where}: {found!r}, it was {expected!r}"


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault is not None), None)
