"""Metrics of the API's outermost layer."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from queue_engine.api.http.middleware import Edge
from queue_engine.api.http.refused_requests import RefusedRequests
from queue_engine.observability.metrics import Role, registry_of


async def never() -> Message:
    raise AssertionError("nothing is probed or received here")


async def test_a_worker_that_chooses_any_status_makes_a_bounded_number_of_series() -> None:
    async def respond(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": int(scope["path"][1:])})
        await send({"type": "http.response.body"})

    async def drop(_: Message) -> None:
        return

    edge = Edge(respond, RefusedRequests(never))
    for status in range(200, 1000):
        path = f"/{status}"
        await edge({"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}, never, drop)
    families = text_string_to_metric_families(generate_latest(registry_of(Role.API)).decode())
    codes = {
        sample.labels["code"]
        for family in families
        if family.name == "queue_engine_http_requests"
        for sample in family.samples
        if sample.labels["route"] == "unmatched"
    }
    assert {"200", "404", "503", "2xx", "9xx"} <= codes
    assert len(codes) < 80
