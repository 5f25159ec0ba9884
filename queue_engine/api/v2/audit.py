"""`/v2/audit`: the changes that were made in a tenant."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.requests import Request

from queue_engine.api.http.envelope import Success, View
from queue_engine.api.http.operations import Operation, in_query
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import Services
from queue_engine.api.v2.times import epoch_ms
from queue_engine.domain.audit import MAX_SCANNED_RECORDS, Action, AuditFilter, AuditRecord
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.principals import Right

TAG = "keys"
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100
MAX_TEXT = 255


class AuditRecordView(View):
    """A change, without the values that it set."""

    id: str = Field(description="Id of the record")
    time: int = Field(description="Time at which the change was recorded")
    action: Action = Field(description="Kind of change")
    target: str = Field(description="The changed object", examples=["endpoint 7, task a"])
    key_id: str | None = Field(description="Id of the key; null for the command line on the store")
    key_name: str = Field(description="Purpose of the key")
    address: str | None = Field(description="Network address of the client; null for the command line on the store")
    certain: bool = Field(description="False if the store became unavailable, so that the change may not be made")


class AuditPageView(View):
    """A page of the audit log."""

    items: list[AuditRecordView] = Field(description="The records, newest first")
    has_more: bool = Field(description="True if there are older records, or may be older ones that match")
    next_before: str | None = Field(
        description="`before` of the next page; null if the page has no record and nothing is left to look at"
    )
    scanned: int = Field(description=f"Number of records that were looked at, {MAX_SCANNED_RECORDS} at most")


class AuditRoutes:
    """Read the audit log."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._audit = services.engine.audit

    def operations(self) -> list[Operation]:
        text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
        time: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}
        size = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE}
        return [
            Operation(
                "GET", "/v2/audit", self.list_changes, right=Right.MANAGE_TENANT,
                summary="List the changes in the tenant, newest first", tag=TAG, response=Success[AuditPageView],
                parameters=[
                    in_query("pageSize", "Maximum number of records on a page", size),
                    in_query("key", "Only changes with the key that has this id or name", text),
                    in_query(
                        "action", "Only these kinds of changes, repeated or separated by commas",
                        {"type": "array", "items": {"type": "string", "enum": list(Action)}},
                    ),
                    in_query(
                        "target", "Only changes of objects with these words: `endpoint 7` also finds its tasks", text
                    ),
                    in_query("from", "Only changes at this time or later", time),
                    in_query("to", "Only changes before this time", time),
                    in_query(
                        "before", "`nextBefore` of the previous page: return only older records",
                        {"type": "string", "pattern": "^[1-9][0-9]{0,18}-[0-9]{1,19}$"},
                    ),
                ],
                failures=(400,),
            ),
        ]  # fmt: skip

    async def list_changes(self, request: Request) -> Response:
        """All changes except submissions, each with the key and the address of the client. The newest 10,000 records
        are kept.

        With a filter, a request looks at a limited number of records: `scanned`. While `hasMore` is true, `nextBefore`
        goes on, also after a page without a record.
        """
        principal = await self._services.admit(request)
        query = Query(request)
        size = query.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        page = await self._audit.page(principal, before=query.one("before"), size=size, wanted=_wanted(query))
        return success(
            {
                "items": [record_view(record) for record in page.records],
                "hasMore": page.has_more,
                "nextBefore": page.next_before,
                "scanned": page.looked_at,
            }
        )


def _wanted(query: Query) -> AuditFilter:
    """Return the filter of a request."""
    from_ms, to_ms = _time(query, "from"), _time(query, "to")
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidRequest("from", "must be before to")
    actions = query.choices("action", Action)
    return AuditFilter(_text(query, "key"), actions, _text(query, "target"), from_ms, to_ms)


def _text(query: Query, name: str) -> str | None:
    text = query.one(name)
    if text is not None and not 1 <= len(text) <= MAX_TEXT:
        raise InvalidRequest(name, f"must be 1–{MAX_TEXT} characters long")
    return text


def _time(query: Query, name: str) -> int | None:
    text = query.one(name)
    return None if text is None else epoch_ms(name, text)


def record_view(record: AuditRecord) -> dict[str, Any]:
    """Return an AuditRecordView."""
    change = record.change
    return {
        "id": record.record_id,
        "time": record.at_ms,
        "action": change.action,
        "target": change.target,
        "keyId": change.key_id or None,
        "keyName": change.key_name,
        "address": change.address or None,
        "certain": change.is_certain,
    }
