"""Requests that the console refuses: a row of the printed table for each kind of request, made to a running engine.

Refusals that only a browser can show are here too. The limits of time of a session and a link are in
`tests/integration/test_console.py`, where a clock can be moved.
"""

import re
import shlex
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.browser.conftest import Visitor
from tests.browser.figures import note
from tests.browser.test_console import HOSTILE, call, endpoint
from tests.integration.parts import HttpServer
from tests.integration.test_up import API_KEY, Up
from tests.waiting import wait_until

__all__ = ["endpoint"]

REFUSED = "refused"


class Session:
    """A session of the console, whose halves a test sends as it likes."""

    def __init__(self, up: Up, key: str = API_KEY) -> None:
        self.up = up
        self.base = f"http://127.0.0.1:{up.port}"
        begun = httpx.post(
            f"{self.base}/console/session", json={"apiKey": key}, headers={"Origin": self.base}, timeout=60
        )
        assert begun.status_code == 200, begun.text
        self.header = {"X-Console-Session": begun.json()["data"]["session"]}
        self.cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
        self.origin = {"Origin": self.base}

    def status(self, method: str, path: str, *headers: dict[str, str]) -> int:
        """Return the status of a request with these headers."""
        joined = {name: value for given in headers for name, value in given.items()}
        return httpx.request(method, f"{self.base}{path}", headers=joined, timeout=60).status_code


@pytest.fixture
def session(engine: Up) -> Session:
    begun = Session(engine)
    assert begun.status("GET", "/console/api/me", begun.header, begun.cookie) == 200
    return begun


def told(row: str, statuses: dict[str, int], refused: set[int]) -> None:
    """Note a row, whose requests must all have one of the statuses `refused`."""
    found = ", ".join(f"{what}: {status}" for what, status in statuses.items())
    note(f"refused: {row}", found, REFUSED)
    assert set(statuses.values()) <= refused, found


def test_a_change_without_the_header(session: Session, endpoint: str) -> None:
    path = f"/console/api/serverless/{endpoint}/pause"
    told("change without the header", {"POST": session.status("POST", path, session.cookie, session.origin)}, {401})
    assert call(session.up, "GET", f"/serverless/{endpoint}")["paused"] is False


def test_a_change_from_another_page(session: Session, endpoint: str) -> None:
    path = f"/console/api/serverless/{endpoint}/pause"
    both = session.header, session.cookie
    given: dict[str, dict[str, str]] = {
        "foreign": {"Origin": "https://evil.example"},
        "another port": {"Origin": "http://127.0.0.1:9"},
        "null": {"Origin": "null"},
        "absent": {},
    }
    told(
        "change with a foreign, null or absent Origin",
        {what: session.status("POST", path, *both, origin) for what, origin in given.items()},
        {403},
    )
    assert call(session.up, "GET", f"/serverless/{endpoint}")["paused"] is False


def test_half_a_session_and_halves_of_two(engine: Up, session: Session) -> None:
    other = Session(engine)
    told(
        "cookie alone, header alone, halves of two sessions",
        {
            "cookie": session.status("GET", "/console/api/me", session.cookie),
            "header": session.status("GET", "/console/api/me", session.header),
            "of two": session.status("GET", "/console/api/me", session.cookie, other.header),
        },
        {401},
    )


def test_a_session_of_a_revoked_key(engine: Up) -> None:
    made = call(engine, "POST", "/keys", {"name": "short-lived", "role": "admin"})
    session = Session(engine, made["key"])

    def status() -> int:
        return session.status("GET", "/console/api/me", session.header, session.cookie)

    assert status() == 200
    call(engine, "DELETE", f"/keys/{made['id']}")
    wait_until(lambda: status() != 200)
    told("session of a revoked key", {"GET": status()}, {401})


def test_a_cookie_outside_the_console(session: Session, endpoint: str) -> None:
    paths = ["/v2/me", f"/e/{endpoint}/run"]
    told(
        "session on /v2 and /e",
        {path: session.status("GET", path, session.header, session.cookie) for path in paths},
        {401},
    )


def test_another_host(session: Session) -> None:
    told(
        "Host that is not loopback",
        {
            host: session.status("GET", "/console", {"Host": host})
            for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1")
        },
        {403},
    )


def test_a_link_that_was_used(engine: Up) -> None:
    token = call(engine, "POST", "/console-links")["url"].partition("#login=")[2]
    base = f"http://127.0.0.1:{engine.port}"

    def status(given: str) -> int:
        origin = {"Origin": base}
        return httpx.post(f"{base}/console/session", json={"login": given}, headers=origin, timeout=60).status_code

    assert status(token) == 200
    told("link that was used, made-up link", {"again": status(token), "made up": status("A" * 43)}, {401})


def test_paths_out_of_the_files(engine: Up) -> None:
    paths = ["/console/assets/../console.py", "/console/assets/%2e%2e/console.py", "/console/assets/a%00.js"]
    found = {}
    for path in paths:
        with socket.create_connection(("127.0.0.1", engine.port), timeout=60) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            found[path.removeprefix("/console/assets/")] = int(connection.recv(1024).split(b" ", 2)[1])
    told("`..`, `%2e` and NUL in the path of a file", found, {400, 404})


def test_a_forbidden_call_and_its_button(engine: Up, visitor: Visitor, endpoint: str) -> None:
    key = call(engine, "POST", "/keys", {"name": "reader", "role": "read"})["key"]
    session = Session(engine, key)
    path = f"/console/api/serverless/{endpoint}/pause"
    status = session.status("POST", path, session.header, session.cookie, session.origin)
    visitor.log_in(key)
    visitor.open(f"/console/endpoints/{endpoint}")
    button = visitor.page.get_by_role("button", name="Pause the queue : Needs a key with the role operate")
    button.wait_for()
    assert button.get_attribute("aria-disabled") == "true"
    told("forbidden call; its button names the role", {"POST": status}, {403})


def test_pages_of_others(operator: Visitor, endpoint: str) -> None:
    """A page of another port, which is sent the cookie; a frame; a page of a worker, which navigation cannot open."""
    with HttpServer() as other:
        operator.page.goto(f"http://127.0.0.1:{other.port}/")
        script = """async (url) => {
            try { return (await fetch(url, {credentials: "include"})).status; } catch { return 0; }
        }"""
        fetched = operator.page.evaluate(script, f"{operator.base}/console/api/me")
        operator.page.evaluate(
            "(url) => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))",
            f"{operator.base}/console",
        )
        operator.page.wait_for_function("document.querySelector('iframe').contentDocument === null")
        is_framed = not operator.page.frames[-1].url.startswith("chrome-error:")
    response = operator.page.goto(f"{operator.base}/e/{endpoint}/page")
    assert response is not None
    told(
        "page of another port, frame, page of a worker",
        {"read": fetched, "frame": int(is_framed), "worker's page": response.status},
        {0, 401},
    )


@pytest.fixture
def noisy(engine: Up) -> Iterator[str]:
    """An endpoint whose worker writes hostile lines to its log and exits, so that they are its error too."""
    body = call(engine, "GET", "/templates")[0]["endpoint"]
    script = " ".join(["printf", "'%s\\n'", *map(shlex.quote, HOSTILE), "; exit 3"])
    made: Any = {**body, "name": "noisy", "workers": 1, "initializationCommand": shlex.join(["sh", "-c", script])}
    created: str = call(engine, "POST", "/serverless", made)["id"]
    yield created
    call(engine, "DELETE", f"/serverless/{created}")


def test_hostile_lines_of_a_log_are_shown_and_never_run(operator: Visitor, engine: Up, noisy: str) -> None:
    wait_until(lambda: any(one["error"] for one in call(engine, "GET", f"/serverless/{noisy}/workers")))
    worker = call(engine, "GET", f"/serverless/{noisy}/workers")[0]["workerId"]
    for path in (f"workers/{noisy}/{worker}", f"endpoints/{noisy}/logs", f"endpoints/{noisy}/workers"):
        operator.open(f"/console/{path}")
        operator.page.get_by_text("onerror=").first.wait_for()
        assert "owned" not in operator.page.title()
        links = operator.page.locator("main a").evaluate_all("all => all.map((one) => one.getAttribute('href'))")
        assert not [one for one in links if not re.match(r"^(?:/console|\?|#)", one or "")], links
    assert operator.reports == []
    note("hostile lines of a log", "shown in 3 views, none run, none a link", REFUSED)


def test_nothing_writes_cells_of_a_spreadsheet(engine: Up) -> None:
    """Cells that begin with = + - @ are formulas there. The API and the console write JSON and text only."""
    document = httpx.get(f"http://127.0.0.1:{engine.port}/openapi.json", timeout=60).json()
    types = {
        kind
        for operations in document["paths"].values()
        for operation in operations.values()
        for response in operation["responses"].values()
        for kind in response.get("content", {})
    }
    note("cells of a spreadsheet", f"none is written: {', '.join(sorted(types))}", REFUSED)
    assert types
    assert not [kind for kind in types if "csv" in kind or "sheet" in kind or "excel" in kind]
