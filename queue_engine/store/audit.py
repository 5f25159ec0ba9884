"""The audit logs of the tenants: a stream for each, with a limited number of records."""

from __future__ import annotations

import re

from redis.asyncio import Redis

from queue_engine.domain.audit import AuditPage, AuditRecord, Change, action_in
from queue_engine.store import keys
from queue_engine.store.calls import Scripts

_RECORD_ID = re.compile(r"[1-9][0-9]{0,18}-[0-9]{1,19}")


def is_record_id(text: str) -> bool:
    """Return True if `text` has the form of a record's id."""
    return _RECORD_ID.fullmatch(text) is not None


class AuditStore:
    """The audit logs of all tenants."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def append(self, tenant: str, change_id: str, change: Change) -> None:
        """Record a change. Safe to repeat with the same id soon after."""
        await self._scripts.append_audit(
            audit=keys.audit_of(tenant),
            change_id=change_id,
            fields={
                "action": str(change.action),
                "target": change.target,
                "key": change.key_id,
                "name": change.key_name,
                "address": change.address,
                **({} if change.is_certain else {"certain": "0"}),
            },
        )

    async def page(self, tenant: str, *, before: str | None, size: int) -> AuditPage:
        """Return at most `size` records, newest first; with `before` only records older than the one with this id."""
        last = "+" if before is None else f"({before}"
        entries = await self._redis.xrevrange(keys.audit_of(tenant), last, "-", count=size + 1)
        records = tuple(_record(entry_id.decode(), fields) for entry_id, fields in entries[:size])
        return AuditPage(records, len(entries) > size)


def _record(entry_id: str, fields: dict[bytes, bytes]) -> AuditRecord:
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    is_certain = texts.get("certain") != "0"
    action = action_in(texts["action"])
    change = Change(action, texts["target"], texts["key"], texts["name"], texts["address"], is_certain)
    return AuditRecord(entry_id, int(entry_id.partition("-")[0]), change)
