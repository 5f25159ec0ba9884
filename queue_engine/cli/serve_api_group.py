"""`queue-engine api --processes N`: N API processes on one port, kept running by this one."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from queue_engine.api.http.server import SHUTDOWN_SECONDS, certificate_of
from queue_engine.cli.api_listeners import ApiListeners
from queue_engine.cli.process import bound_or_fail, on_end, or_fail
from queue_engine.config.engine import ApiSettings
from queue_engine.crypto.secret_files import FILE_SUFFIX
from queue_engine.net.listening import listen
from queue_engine.net.private_sockets import listen_privately, remove_unserved, sockets_of
from queue_engine.observability.exporter import Page, serve_pages
from queue_engine.observability.scraping import fetch_page
from queue_engine.observability.sums import summed
from queue_engine.processes.interpreter import python_command
from queue_engine.processes.sharing import Membership
from queue_engine.processes.start_notice import notice_fd
from queue_engine.processes.supervisor import Program, Supervisor

log = logging.getLogger("queue_engine")

END_SECONDS = SHUTDOWN_SECONDS + 10.0
"""Time between SIGTERM and SIGKILL for a member: its requests under way, and what it closes afterwards."""
MEMBER_SECONDS = 1.0
"""Timeout for the metrics of one member."""
MAX_AT_ONCE = 16

_LOCK = "lock"
_LAST = "last"
"""File with the page of a member as it was last scraped."""
_ENDED = "ended"
"""File with the counts of the members that had the same number and have ended."""


async def serve_api_group(settings: ApiSettings) -> int:
    """Run the members until SIGTERM or SIGINT. A member that dies is started again."""
    listeners = ApiListeners.bound(settings)
    or_fail("QUEUE_ENGINE_TLS_CERT", lambda: certificate_of(settings))  # here, because members would be restarted
    supervisor = Supervisor()
    stopping = asyncio.Event()
    on_end(stopping.set)
    folder = Path(tempfile.mkdtemp(prefix="queue-engine-api-"))
    try:
        metrics_port = _serve_metrics(settings, folder)
        members = [
            _member(settings, listeners.membership(folder, number), metrics_port)
            for number in range(1, settings.api_processes + 1)
        ]
        for member in members:
            supervisor.start(member)
        # Each member logs `started` when it listens.
        log.info("starting", extra={"url": f"{settings.url}:{listeners.port}", "processes": len(members)})
        await stopping.wait()
        await asyncio.gather(*(supervisor.stop([member.name]) for member in members))
    finally:
        listeners.close()
        await supervisor.aclose()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def group_metrics(folder: Path) -> bytes:
    """Return the metrics of all members on one page. Waits at most a second for a member."""
    with _locked(folder):
        members = _members_in(folder)
        with ThreadPoolExecutor(MAX_AT_ONCE) as pool:
            pages = dict(zip(members, pool.map(_page_of, members), strict=True))
        for member, page in pages.items():
            if page is not None:
                _write(member / _LAST, page.encode())
        silent = [member / _LAST for member, page in pages.items() if page is None]
        ended = [*silent, *(member / _ENDED for member in members)]
        return summed(
            {member.name: page for member, page in pages.items() if page is not None},
            [path.read_text() for path in ended if path.exists()],
        )


def join_group(membership: Membership, pages: Mapping[str, Page]) -> Page:
    """Serve a member's pages to the group, and return the page of the group.

    The counts of the member that it replaces stay in the sums, as they were when they were last scraped.
    """
    member = membership.folder / str(membership.number)
    member.mkdir(mode=0o700, exist_ok=True)
    with _locked(membership.folder):
        before = [path.read_text() for path in (member / _ENDED, member / _LAST) if path.exists()]
        if before:
            _write(member / _ENDED, summed({}, before))
            (member / _LAST).unlink(missing_ok=True)
        remove_unserved(member)
        listener, _ = listen_privately(member)
    serve_pages(listener, pages)
    return partial(group_metrics, membership.folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one scrape or start of a member happen at a time, so that no sum is made of halves."""
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, page: bytes) -> None:
    """Replace a file in one step, because its writer may be killed."""
    draft = path.with_suffix(".new")
    draft.write_bytes(page)
    draft.replace(path)


def _page_of(member: Path) -> str | None:
    """Return the page of a member. A socket that a dead process has left does not respond."""
    pages = (fetch_page(address, MEMBER_SECONDS) for address in sockets_of(member))
    return next((page for page in pages if page is not None), None)


def _members_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _serve_metrics(settings: ApiSettings, folder: Path) -> int | None:
    """Serve the metrics of the group at the metrics address, and return the port; None if they are public."""
    if settings.api_metrics == "public":
        return None
    listener = bound_or_fail("QUEUE_ENGINE_METRICS", lambda: listen(settings.metrics_host, settings.metrics_port))
    serve_pages(listener, {"/metrics": partial(group_metrics, folder)})
    port: int = listener.getsockname()[1]
    log.info("metrics", extra={"url": f"http://{settings.metrics_host}:{port}/metrics"})
    return port


def _member(settings: ApiSettings, membership: Membership, metrics_port: int | None) -> Program:
    return Program(
        f"api {membership.number}",
        python_command("queue_engine", "api"),
        {**_given(settings, os.environ, metrics_port), **membership.variables()},
        grace_seconds=END_SECONDS,
        inherited_fds=tuple(fd for fd in (*membership.fds(), notice_fd(os.environ)) if fd is not None),
    )


def _given(settings: ApiSettings, environment: Mapping[str, str], metrics_port: int | None) -> dict[str, str]:
    """Return this process's environment with what the command line may have set."""
    kept = {name: value for name, value in environment.items() if name != "QUEUE_ENGINE_REDIS_URL" + FILE_SUFFIX}
    return {
        **kept,
        "QUEUE_ENGINE_HOST": settings.host,
        "QUEUE_ENGINE_PORT": str(settings.port),
        "QUEUE_ENGINE_OWN_PORTS": ",".join(map(str, [*settings.own_ports, *([metrics_port] if metrics_port else [])])),
        "QUEUE_ENGINE_REDIS_URL": settings.redis_url.get_secret_value(),
    }
