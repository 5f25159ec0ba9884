"""A connection to the store that loses replies after the commands were executed."""

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class LossyProxy:
    """Passes bytes between clients and the store at `store_url`. Use as an async context manager."""

    def __init__(self, store_url: str) -> None:
        self.lead_to(store_url)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.replies_to_lose = 0
        """Number of further replies that are dropped, each together with its connection."""
        self.lost = 0
        self.held = b""
        """Bytes that were held back."""
        self._ends: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        """The ends of each open connection, that to the store first."""
        self._silent: list[asyncio.StreamWriter] = []
        """Ends to which nothing is sent any longer."""

    def hold_replies(self) -> None:
        """Hold back the replies on the connections that are open now. New connections get theirs."""
        self._silent = [to_client for _, to_client in self._ends.values()]

    def hold_requests(self) -> None:
        """Hold back the requests on the connections that are open now. The store gets those on new connections."""
        self._silent = [to_store for to_store, _ in self._ends.values()]

    def cut_held(self) -> None:
        """Close the connections of which something is held back, and lose it."""
        for ends in list(self._ends.values()):
            if any(end in self._silent for end in ends):
                for end in ends:
                    end.close()

    def lead_to(self, store_url: str) -> None:
        """Connect new connections to this address. Existing connections are not changed."""
        target = urlsplit(store_url)
        self._target = (target.hostname or "", target.port or 0)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._serving)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        reader, writer = await asyncio.open_connection(*self._target)
        self._ends[task] = writer, client_writer
        requests = asyncio.create_task(self._pass(client_reader, writer))
        try:
            while data := await reader.read(65536):
                if client_writer in self._silent:
                    self.held += data
                    continue
                if self.replies_to_lose:
                    self.replies_to_lose -= 1
                    self.lost += 1
                    break
                client_writer.write(data)
        except OSError:
            pass  # the client has closed the connection
        finally:
            requests.cancel()
            writer.close()
            client_writer.close()
            self._serving.discard(task)
            del self._ends[task]

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if writer in self._silent:
                self.held += data
                continue
            writer.write(data)
        writer.close()
