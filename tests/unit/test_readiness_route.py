"""`/readyz` asks the store at most once a second, and pages that do not change are made once."""

import asyncio
from typing import Any, cast

import pytest

from queue_engine.api.public.routes import OperationsRoutes, Readiness
from queue_engine.domain.errors import StoreUnavailable


class Engine:
    """An engine whose store is available or not, and that counts the checks."""

    def __init__(self) -> None:
        self.checks = 0
        self.is_available = True

    async def check_ready(self) -> None:
        self.checks += 1
        await asyncio.sleep(0)
        if not self.is_available:
            raise StoreUnavailable("it does not respond")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_the_store_is_asked_once_a_second_however_many_requests_come() -> None:
    engine, clock = Engine(), Clock()
    readiness = Readiness(cast(Any, engine), monotonic=clock)
    await asyncio.gather(*(readiness.check() for _ in range(20)))
    clock.now += 0.9
    await readiness.check()
    assert engine.checks == 1
    clock.now += 0.1
    await readiness.check()
    assert engine.checks == 2


async def test_an_unavailable_store_is_remembered_for_a_second_too() -> None:
    engine, clock = Engine(), Clock()
    readiness = Readiness(cast(Any, engine), monotonic=clock)
    engine.is_available = False
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await readiness.check()
    assert engine.checks == 1
    engine.is_available = True
    clock.now += 1.0
    await readiness.check()


async def test_a_client_that_disconnects_does_not_end_the_check_of_the_others() -> None:
    engine = Engine()
    readiness = Readiness(cast(Any, engine), monotonic=Clock())
    first, second = [asyncio.create_task(readiness.check()) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert engine.checks == 1


async def test_the_document_and_its_page_are_made_once() -> None:
    made: list[int] = []

    def document() -> dict[str, Any]:
        made.append(1)
        return {"info": {"title": "x", "description": "", "version": "1"}, "tags": [], "paths": {}, "webhooks": {}}

    routes = OperationsRoutes(cast(Any, Engine()), document, lambda: b"")
    bodies = {(await routes.show_openapi(cast(Any, None))).body for _ in range(3)}
    pages = {(await routes.show_docs(cast(Any, None))).body for _ in range(3)}
    assert (len(bodies), len(pages), len(made)) == (1, 1, 2)
