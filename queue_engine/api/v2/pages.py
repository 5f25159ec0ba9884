"""Pages of a list, by number and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from queue_engine.api.http.operations import in_query
from queue_engine.api.http.queries import Query
from queue_engine.engine.endpoints import Page

MAX_PAGE_NUMBER = 10**9
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 10
PAGE_PARAMETERS = frozenset({"pageNumber", "pageSize"})


def page_in(query: Query) -> Page:
    """Return the page that `pageNumber` and `pageSize` name, by default the first. Raises InvalidRequest."""
    return Page(
        number=query.integer("pageNumber", default=1, maximum=MAX_PAGE_NUMBER),
        size=query.integer("pageSize", default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE),
    )


def optional_page_in(query: Query) -> Page | None:
    """Return the page that the query names; None if it names neither number nor size. Raises InvalidRequest."""
    has_page = query.one("pageNumber") is not None or query.one("pageSize") is not None
    return page_in(query) if has_page else None


def page_parameters(entries: str, *, optional: bool = False) -> list[dict[str, object]]:
    """Return the parameters for a list of `entries`. Without an optional page the response has all entries."""
    note = "; without number and size, all are returned" if optional else ""
    size = _integer(MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE, optional)
    return [
        in_query("pageNumber", f"Number of the page, from 1{note}", _integer(MAX_PAGE_NUMBER, 1, optional)),
        in_query("pageSize", f"Maximum number of {entries} on a page", size),
    ]


def page_view(items: Sequence[Any], total: int, page: Page) -> dict[str, Any]:
    """Return the response with the entries of a page; `total` is the number of entries on all pages."""
    pages = -(-total // page.size)
    return {"items": items, "page": page.number, "size": page.size, "total": total, "pages": pages}


def _integer(maximum: int, default: int, optional: bool) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": maximum}
    return schema if optional else schema | {"default": default}
