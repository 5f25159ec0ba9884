"""A gate in front of an API server: lets connections through, cuts them off, or keeps them silent."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.clusters.kubernetes_cluster import Cluster
from tests.ports import free_port


class Gate:
    """Listens on a port of loopback. `kubeconfig` leads through it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--output=json"))
        server = config["clusters"][0]["cluster"]["server"]
        host, _, port = server.partition("://")[2].rstrip("/").rpartition(":")
        self._target = (host, int(port))
        self._port = free_port()
        config["clusters"][0]["cluster"] |= {
            "server": f"https://127.0.0.1:{self._port}",
            "insecure-skip-tls-verify": True,
        }
        config["clusters"][0]["cluster"].pop("certificate-authority-data", None)
        config["clusters"][0]["cluster"].pop("certificate-authority", None)
        self.kubeconfig = folder / "through-the-gate.json"
        self.kubeconfig.write_text(json.dumps(config))
        self._server: asyncio.Server | None = None
        self._flows: set[asyncio.Task[None]] = set()
        self._may_flow = asyncio.Event()
        self._may_flow.set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def close(self) -> None:
        """Refuse connections, and cut off those that exist."""
        self.speak()
        if self._server is not None:
            self._server.close()
            self._server = None
        for flow in list(self._flows):
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)

    def be_silent(self) -> None:
        """Keep all connections and send nothing on them."""
        self._may_flow.clear()

    def speak(self) -> None:
        """Send everything again."""
        self._may_flow.set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._flows.add(task)
        outward: asyncio.StreamWriter | None = None
        try:
            inward, outward = await asyncio.open_connection(*self._target)
            await asyncio.gather(self._copy(reader, outward), self._copy(inward, writer))
        except (OSError, asyncio.CancelledError):
            pass  # the end of the connection is all that the other side sees
        finally:
            self._flows.discard(task)
            for one in filter(None, (writer, outward)):
                one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._may_flow.wait()
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof() if writer.can_write_eof() else writer.close()
