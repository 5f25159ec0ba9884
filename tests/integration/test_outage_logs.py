"""The log of every process while the store is away: a line at the beginning, one at the end, no traceback."""

import asyncio
import json

import httpx

from tests.integration.parts import (
    HttpServer,
    Program,
    Programs,
    new_endpoint,
    open_store,
    submit,
    wait_for_port,
)
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until, wait_until_async

API_KEY = "a-key-of-the-outage-tests"
MAX_LINES = 6
MAX_BYTES = 2000


class Outage:
    """The lines that a process has logged since the store was stopped."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._begins_at = program.log.stat().st_size

    def text(self) -> str:
        return self._program.log.read_bytes()[self._begins_at :].decode()

    def lines(self, message: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in found if message in line["message"]]


async def test_an_outage_of_the_store_is_two_lines_in_every_process(
    own_server: StoreServer, own_programs: Programs, container: HttpServer
) -> None:
    store = open_store(own_server.url)
    await store.prepare()
    endpoint_id = await new_endpoint(store)
    api_port, delivery_port = free_port(), free_port()
    programs = {
        "api": own_programs.start(
            "api", "queue_engine", "api", QUEUE_ENGINE_PORT=str(api_port), QUEUE_ENGINE_API_KEY=API_KEY
        ),
        "controller": own_programs.controller(QUEUE_ENGINE_LEADER_LEASE_SECONDS="2"),
        "delivery": own_programs.delivery(QUEUE_ENGINE_METRICS_PORT=str(delivery_port)),
        "agent": own_programs.agent(endpoint_id, container.url),
    }
    wait_for_port(api_port)
    await submit(store, endpoint_id)
    wait_until(lambda: "attempt ended" in programs["agent"].output())
    wait_until(lambda: "leading" in programs["controller"].output())
    wait_until(lambda: "started" in programs["delivery"].output())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{api_port}", headers={"X-Api-Key": API_KEY}) as client:
        assert (await client.get("/v2/serverless")).status_code == 200
        outages = {name: Outage(program) for name, program in programs.items()}
        own_server.kill()
        refused = await asyncio.gather(*(client.get("/v2/serverless", timeout=30) for _ in range(50)))
        assert {one.status_code for one in refused} == {503}
        for name, outage in outages.items():
            wait_until(lambda outage=outage: outage.lines("is away"), message=f"{name} notices nothing")  # type: ignore[misc]

        async def failed_calls() -> bool:
            text = (await client.get(f"http://127.0.0.1:{delivery_port}/metrics")).text
            counts = [
                float(line.split()[-1]) for line in text.splitlines() if line.startswith("queue_engine_redis_err")
            ]
            return sum(counts) > 200

        await wait_until_async(failed_calls, 60, "delivery does not try again")
        own_server.start()
        for name, outage in outages.items():
            wait_until(lambda outage=outage: outage.lines("is back"), 60, f"{name} stays away")  # type: ignore[misc]
    await store.close()
    for name, outage in outages.items():
        text = outage.text()
        assert "Traceback" not in text, (name, text)
        assert text.count("\n") <= MAX_LINES, (name, text)
        assert len(text) <= MAX_BYTES, (name, text)
        assert len(outage.lines("the store is away")) == 1
        [back] = outage.lines("the store is back")
        assert float(str(back["seconds"])) > 0
        assert int(str(back["failed_calls"])) > 0
    [back] = outages["api"].lines("the store is back")
    calls = back["calls"]
    assert isinstance(calls, dict)
    assert calls["requests"] == 50
