"""The API as a process of its own, whose resolver asks nobody, with one of everything in the store.

Prints one line of JSON when it serves: its `url`, its `key`, and `known`, values of path parameters that exist.
"""

import asyncio
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from queue_engine.domain.tasks import Succeeded
from queue_engine.domain.workers import WorkerStatus
from tests.api_server import TASK, RunningApi, running_api

CREDENTIALS = "/v2/container-registry-auths"


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    container = _serve_container()
    async with running_api(os.environ["QUEUE_ENGINE_REDIS_URL"]) as api:
        api.engine.waits.drain()  # because a made-up request may wait for minutes
        known = {"id": await _new_endpoint(api), "workerId": "w1", "taskId": "known"}
        known["alb"] = await _new_alb_endpoint(api, container)
        known["credential"] = await _new_credential(api)
        print(json.dumps({"url": api.url, "key": api.key, "known": known}), flush=True)  # noqa: T201 - its one line
        await stopping.wait()


async def _new_endpoint(api: RunningApi) -> str:
    """An endpoint with a worker that has printed something and executed a task whose webhook is due."""
    endpoint_id = await api.create_endpoint(
        environmentVars=[{"key": "A", "value": "b"}], expose={"port": 80, "protocol": "http"}
    )
    await api.store.workers.put(endpoint_id, "w1", managed=True)
    await api.store.workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address="127.0.0.1:9")
    lines = [f"line {number}" for number in range(30)]
    await api.store.logs.append(endpoint_id, "w1", "1", lines, retention_ms=3_600_000)
    await api.submit(
        endpoint_id, **TASK | {"taskId": "known", "headers": {"X-Key": "x"}, "webhook": "http://a.example/"}
    )
    claims = api.store.queue(endpoint_id=endpoint_id, worker_id="w1", lease_ms=30_000)
    (entry,) = await claims.claim(1, block_ms=1000)
    started = await claims.start(entry, address="127.0.0.1:8000")
    assert started is not None
    await claims.settle(started.lease, Succeeded(b'{"a": [1.5, null]}'))
    return endpoint_id


async def _new_alb_endpoint(api: RunningApi, container: ThreadingHTTPServer) -> str:
    """An endpoint whose one worker is `container`."""
    endpoint_id = await api.create_endpoint(serviceMode="ALB", expose={"port": 80, "protocol": "http"})
    address = f"127.0.0.1:{container.server_port}"
    await api.store.workers.put(endpoint_id, "w1", managed=True)
    await api.store.workers.report(endpoint_id, "w1", WorkerStatus.RUNNING, running_tasks=0, address=address)
    return endpoint_id


def _serve_container() -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Container)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Container(BaseHTTPRequestHandler):
    """Answers every request with nothing."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815 - as http.server has it

    def log_message(self, *_: object) -> None:
        """Nothing: the output of this process is read."""


async def _new_credential(api: RunningApi) -> str:
    body = {"name": "mine", "type": "PRIVATE", "username": "me", "password": "a password"}
    answer = await api.post(CREDENTIALS, body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["data"]["id"])


if __name__ == "__main__":
    asyncio.run(main())
