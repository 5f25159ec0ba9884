"""A second API server of the cluster that takes one request and one change at a time, and refuses others with 429.

It is made of the words of the cluster's own one, and serves the same objects. Its user is no administrator, because an
API server refuses an administrator nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import httpx

from tests.clusters.kubernetes_cluster import Cluster
from tests.ports import free_port
from tests.waiting import wait_until_async

START_SECONDS = 300
"""Time for the start of an API server on a loaded machine."""
USER, TOKEN = "queue-engine-limited", "canary-of-the-limited-user"
FUTURE_VERSION = "9000000000000000"
"""A version that an API server waits for, for three seconds, before it refuses the request."""
_CHANGED = ("--secure-port", "--token-auth-file")
_LIMITS = (
    "--max-requests-inflight=1",
    "--max-mutating-requests-inflight=1",
    "--enable-priority-and-fairness=false",  # its queues would let the requests wait
    "--endpoint-reconciler-type=none",  # because the cluster's own one is the address of the cluster
)


class LimitedServer:
    """The server. `kubeconfig` leads to it."""

    def __init__(self, cluster: Cluster, pid_file: Path, namespace: str, folder: Path) -> None:
        process = Path("/proc") / pid_file.read_text().strip()
        words = process.joinpath("cmdline").read_text().rstrip("\0").split("\0")
        self._port, tokens = free_port(), folder / "tokens.csv"
        tokens.write_text(f"{TOKEN},{USER},{USER}\n")
        self._words = [one for one in words if not one.startswith(_CHANGED)]
        self._words += [*_LIMITS, f"--secure-port={self._port}", f"--token-auth-file={tokens}"]
        self._place = os.readlink(process / "cwd")
        self._log = folder / "limited-apiserver.log"
        self._cluster = cluster
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._url = f"https://127.0.0.1:{self._port}"
        self.kubeconfig = folder / "limited.json"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [
                        {"name": "limited", "cluster": {"server": self._url, "insecure-skip-tls-verify": True}}
                    ],
                    "users": [{"name": USER, "user": {"token": TOKEN}}],
                    "contexts": [{"name": "limited", "context": {"cluster": "limited", "user": USER}}],
                    "current-context": "limited",
                }
            )
        )

    async def __aenter__(self) -> Self:
        words = ("create", "rolebinding", USER, f"--user={USER}", "--clusterrole=admin")
        self._cluster.kubectl(f"--namespace={self._namespace}", *words)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                self._words, cwd=self._place, stdout=log, stderr=log
            )
        try:
            async with self._client() as client:
                await wait_until_async(lambda: self._serves(client), START_SECONDS, f"no API server: {self._log}")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)  # its end by SIGTERM takes up to a minute
            self._process.wait()
        self._cluster.kubectl(f"--namespace={self._namespace}", "delete", "rolebinding", USER, check=False)

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Let all that it takes at a time be in progress: a request that waits, and a change whose body is not sent."""
        async with AsyncExitStack() as stack:
            reading = asyncio.create_task(self._keep_reading())
            stack.callback(reading.cancel)
            changing = asyncio.create_task(self._keep_changing())
            stack.callback(changing.cancel)
            client = await stack.enter_async_context(self._client())
            await wait_until_async(lambda: self._refuses(client), message="the API server is not full")
            yield
            assert not reading.done()
            assert not changing.done()

    async def _keep_reading(self) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        async with self._client() as client:
            while True:
                await client.get(path, params={"resourceVersion": FUTURE_VERSION})

    async def _keep_changing(self) -> None:
        head = (
            f"POST /api/v1/namespaces/{self._namespace}/configmaps HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        )
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=trusting)
            try:
                writer.write(head.encode())
                await reader.read(1)  # the server gives it up after a time, or has refused it
            finally:
                writer.transport.abort()

    async def _serves(self, client: httpx.AsyncClient) -> bool:
        """Return True if it is ready, and knows the rights of its user."""
        try:
            ready = await client.get("/readyz")
            found = await client.get(f"/api/v1/namespaces/{self._namespace}/pods")
        except httpx.TransportError:
            return False
        return ready.is_success and found.is_success

    async def _refuses(self, client: httpx.AsyncClient) -> bool:
        path = f"/api/v1/namespaces/{self._namespace}/configmaps"
        responses = [await client.get(path), await client.post(path, json={})]
        return [one.status_code for one in responses] == [429, 429]

    def _client(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.AsyncClient(base_url=self._url, headers=headers, verify=False, trust_env=False, timeout=60)
