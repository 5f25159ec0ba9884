"""Requests for `/metrics` that come at the same time share one page."""

import asyncio
import threading
from typing import Any, cast

from queue_engine.api.public.routes import OperationsRoutes


async def test_a_burst_of_scrapes_makes_one_page() -> None:
    made: list[int] = []
    go_on = threading.Event()

    def page() -> bytes:
        made.append(len(made))
        go_on.wait(60)
        return b"page %d" % len(made)

    routes = OperationsRoutes(cast(Any, None), dict, page)
    requests = [asyncio.create_task(routes.show_metrics(cast(Any, None))) for _ in range(20)]
    await asyncio.sleep(0)
    requests.pop().cancel()  # a client that disconnects does not end the scrape of the others
    go_on.set()
    bodies = {response.body for response in await asyncio.gather(*requests)}

    assert (bodies, made) == ({b"page 1"}, [0])
    assert (await routes.show_metrics(cast(Any, None))).body == b"page 2"
