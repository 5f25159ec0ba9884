"""The audit logs of the tenants: a stream for each, with a limited number of records."""

from __future__ import annotations

import re

from redis.asyncio import Redis

from queue_engine.domain.audit import MAX_SCANNED_RECORDS, AuditFilter, AuditPage, AuditRecord, Change, action_in
from queue_engine.store import keys
from queue_engine.store.calls import Scripts

PIECE = 500
"""Number of records that a call reads, so that none holds the server for long."""
EVERYTHING = AuditFilter()
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

    async def page(self, tenant: str, *, before: str | None, size: int, wanted: AuditFilter = EVERYTHING) -> AuditPage:
        """Return at most `size` records that match, newest first; with `before` only records older than that one.

        At most `MAX_SCANNED_RECORDS` are looked at. `next_before` then is the last one of them.
        """
        last, first = _newest(before, wanted.to_ms), "-" if wanted.from_ms is None else str(max(wanted.from_ms, 0))
        piece = PIECE if wanted.is_selective else size + 1
        found: list[AuditRecord] = []
        looked_at = 0
        while looked_at < MAX_SCANNED_RECORDS:
            entries = await self._redis.xrevrange(keys.audit_of(tenant), last, first, count=piece)
            for entry_id, fields in entries:
                record = _record(entry_id.decode(), fields)
                if wanted.matches(record.change):
                    if len(found) == size:
                        return AuditPage(tuple(found), True, found[-1].record_id, looked_at)
                    found.append(record)
                looked_at += 1
            if len(entries) < piece:
                return AuditPage(tuple(found), False, found[-1].record_id if found else None, looked_at)
            last = f"({entries[-1][0].decode()}"
        return AuditPage(tuple(found), True, last[1:], looked_at)


def _newest(before: str | None, to_ms: int | None) -> str:
    """Return the end of the range of records that are older than one, and older than a time."""
    if to_ms is None:
        return "+" if before is None else f"({before}"
    end = (max(to_ms, 1), 0)
    if before is not None:
        at, _, number = before.partition("-")
        end = min(end, (int(at), int(number)))
    return f"({end[0]}-{end[1]}"


def _record(entry_id: str, fields: dict[bytes, bytes]) -> AuditRecord:
    texts = {name.decode(): value.decode() for name, value in fields.items()}
    is_certain = texts.get("certain") != "0"
    action = action_in(texts["action"])
    change = Change(action, texts["target"], texts["key"], texts["name"], texts["address"], is_certain)
    return AuditRecord(entry_id, int(entry_id.partition("-")[0]), change)
