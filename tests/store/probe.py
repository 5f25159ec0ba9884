"""Direct access to the store without the code under test: its content as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from queue_engine.store.redis.cluster import ClusterClient

Fields = dict[str, str]

_SNAPSHOT = """
local READS = {
  string = { 'GET' }, hash = { 'HGETALL' }, list = { 'LRANGE', 0, -1 }, set = { 'SMEMBERS' },
  zset = { 'ZRANGE', 0, -1, 'WITHSCORES' }, stream = { 'XRANGE', '-', '+' },
}
local found = {}
for _, name in ipairs(redis.call('KEYS', '*')) do
  if name:sub(1, #ARGV[1]) == ARGV[1] then
    local kind, unacknowledged = redis.call('TYPE', name).ok, {}
    local read = READS[kind]
    local content = redis.call(read[1], name, unpack(read, 2))
    for _, group in ipairs(kind == 'stream' and redis.call('XINFO', 'GROUPS', name) or {}) do
      for _, entry in ipairs(redis.call('XPENDING', name, group[2], '-', '+', 100000)) do
        table.insert(unacknowledged, { entry[1], entry[2] })
      end
    end
    table.insert(found, { name, kind, content, unacknowledged })
  end
end
return found
"""
"""Returns all keys of a server that begin with a prefix: name, type, content, and the entries of a stream that were
read and not acknowledged, with their consumer. One script, because tests look at everything after each step."""


class Probe:
    """Plain reads and writes of keys. Replies are decoded, and invalid UTF-8 is replaced."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def ask(self, *words: str | bytes | int | float) -> Any:
        """Send a command, and return redis-py's reply."""
        return await self.redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def now_ms(self) -> int:
        """Return the store's clock."""
        seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def keys(self) -> set[str]:
        """Return the names of all keys, of all masters in a cluster."""
        if isinstance(self.redis, ClusterClient):
            replies = [await Probe(master).keys() for master in (await self.redis.masters()).values()]
            return {name for reply in replies for name in reply}
        return {_text(name) for name in await self.ask("KEYS", "*")}

    async def hash(self, key: str) -> Fields:
        return _fields(await self.ask("HGETALL", key))

    async def hashes(self, keys: Sequence[str]) -> list[Fields]:
        """Return the content of many hashes on one connection, because a machine under load opens many slowly."""
        return [_fields(record) for record in await self._all([("HGETALL", key) for key in keys])]

    async def scores(self, key: str) -> dict[str, float]:
        """A sorted set."""
        return _scores(await self.ask("ZRANGE", key, 0, -1, "WITHSCORES"))

    async def stream(self, key: str) -> dict[str, Fields]:
        """All entries by id, oldest first."""
        return {_text(entry_id): _fields(fields) for entry_id, fields in await self.ask("XRANGE", key, "-", "+")}

    async def pending(self, key: str, group: str) -> dict[str, str]:
        """Entries that were read and not acknowledged: consumer by entry id."""
        if not await self.ask("EXISTS", key):
            return {}
        records = await self.redis.xpending_range(key, group, min="-", max="+", count=100_000)
        return {_text(one["message_id"]): _text(one["consumer"]) for one in records}

    async def dump(self) -> dict[str, bytes]:
        """Return every key with its content as bytes."""
        return {name: _flat(content) for name, content in (await self.snapshot()).contents.items()}

    async def snapshot(self, prefix: str = "") -> "Snapshot":
        """Return a snapshot of all keys that begin with `prefix`, of all masters in a cluster."""
        servers = (await self.redis.masters()).values() if isinstance(self.redis, ClusterClient) else [self.redis]
        contents: dict[str, Any] = {}
        unacknowledged: dict[str, Fields] = {}
        for server in servers:
            for name, kind, content, read in await Probe(server).ask("EVAL", _SNAPSHOT, 0, prefix):
                contents[_text(name)] = _as_redis_py(_text(kind), content)
                unacknowledged[_text(name)] = {_text(entry_id): _text(consumer) for entry_id, consumer in read}
        return Snapshot(contents, unacknowledged)

    async def _all(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute()


@dataclass(frozen=True)
class Snapshot:
    """The content of a set of keys at one time."""

    contents: dict[str, Any]
    unacknowledged: dict[str, Fields]

    def hash(self, key: str) -> Fields:
        return _fields(self.contents.get(key))

    def scores(self, key: str) -> dict[str, float]:
        """A sorted set."""
        return _scores(self.contents.get(key, []))

    def members(self, key: str) -> set[str]:
        """A set."""
        return set(map(_text, self.contents.get(key, ())))

    def stream(self, key: str) -> dict[str, Fields]:
        """All entries by id, oldest first."""
        return {_text(entry_id): _fields(fields) for entry_id, fields in self.contents.get(key, [])}

    def pending(self, key: str) -> Fields:
        """Entries that were read and not acknowledged: consumer by entry id."""
        return self.unacknowledged.get(key, {})


def _as_redis_py(kind: str, content: Any) -> Any:
    """Return the content of a key as redis-py returns it for the command that reads this type."""
    if kind == "hash":
        return _pairs(content)
    if kind == "set":
        return set(content)
    if kind == "stream":
        return [(entry_id, _pairs(fields)) for entry_id, fields in content]
    return content


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fields(record: dict[bytes, bytes] | None) -> Fields:
    return {_text(name): _text(value) for name, value in (record or {}).items()}


def _scores(flat: list[bytes]) -> dict[str, float]:
    return {_text(flat[index]): float(flat[index + 1]) for index in range(0, len(flat), 2)}


def _flat(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b"\n".join(_flat(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set)):
        return b"\n".join(_flat(item) for item in value)
    return str(value).encode()
