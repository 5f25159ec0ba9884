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
from queue_engine.domain.audit import Action, AuditRecord
from queue_engine.domain.principals import Right

TAG = "keys"
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100


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
    has_more: bool = Field(description="True if there are older records")
    next_before: str | None = Field(description="`before` of the next page; null for a page without records")


class AuditRoutes:
    """Read the audit log."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._audit = services.engine.audit

    def operations(self) -> list[Operation]:
        size = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE}
        return [
            Operation(
                "GET", "/v2/audit", self.list_changes, right=Right.MANAGE_TENANT,
                summary="List the changes in the tenant, newest first", tag=TAG, response=Success[AuditPageView],
                parameters=[
                    in_query("pageSize", "Maximum number of records on a page", size),
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
        """
        principal = await self._services.admit(request)
        query = Query(request)
        size = query.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)
        page = await self._audit.page(principal, before=query.one("before"), size=size)
        return success(
            {
                "items": [record_view(record) for record in page.records],
                "hasMore": page.has_more,
                "nextBefore": page.records[-1].record_id if page.records else None,
            }
        )


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
