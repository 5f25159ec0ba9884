"""A running engine and a browser. Tests are skipped without Chromium or playwright: `make test-browser` installs it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.browser import figures
from tests.integration.test_up import API_KEY, Up, running_up

pytest.importorskip("playwright", reason="playwright is not installed: make test-browser installs it")

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

BROWSERS = ("chromium-headless-shell", "chromium")
SHOTS = Path(__file__).resolve().parents[2] / "build" / "console"
"""Pictures of all views, as an output of the tests."""
TRACE_URL = "https://traces.example/find?id={traceId}"
WAIT_MS = 90_000
"""When a failing test gives up. A test that passes never waits so long."""


@dataclass
class Visitor:
    """A person with a page of the console. Whatever the page reports is kept."""

    up: Up
    context: BrowserContext
    page: Page
    reports: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    clicks: int = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.up.port}"

    def open(self, path: str) -> None:
        self.page.goto(f"{self.base}{path}")

    def click(self, name: str, role: Any = "button") -> None:
        """Click what has exactly this name, as a person would."""
        self.clicks += 1
        self.page.get_by_role(role, name=name, exact=True).click()

    def see(self, text: str) -> None:
        """Wait until the text is shown."""
        self.page.get_by_text(text).first.wait_for()

    def log_in(self, key: str = API_KEY) -> None:
        self.open("/console")
        self.page.get_by_label("API key").fill(key)
        self.click("Log in")
        self.page.get_by_role("navigation", name="Sections").wait_for()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # The name stands in the top bar of all views, in red.
    settings = {"QUEUE_ENGINE_ENVIRONMENT": "production", "QUEUE_ENGINE_TRACE_URL": TRACE_URL}
    with running_up(tmp_path_factory.mktemp("up"), **settings) as up:
        yield up


@pytest.fixture
def visitor(engine: Up, browser: Browser) -> Iterator[Visitor]:
    with visiting(engine, browser) as one:
        yield one


@pytest.fixture
def operator(visitor: Visitor) -> Visitor:
    """A visitor who is logged in with the key of `up`."""
    visitor.log_in()
    return visitor


@contextmanager
def visiting(up: Up, browser: Browser) -> Iterator[Visitor]:
    """Open a page of the console in a browser that knows nothing yet."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    one = Visitor(up, context, page)
    # Reports of the policy and errors of scripts are messages of the console of the browser.
    page.on("console", lambda message: one.reports.append(_report(message)) if message.type == "error" else None)
    page.on("pageerror", lambda error: one.reports.append(str(error)))
    page.on("request", lambda request: one.requests.append(request.url))
    try:
        yield one
    finally:
        context.close()


def _report(message: ConsoleMessage) -> str:
    """Return an error of the browser's console with the URL that it is about, which its text does not have."""
    return f"{message.text} ({message.location['url']})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, and keep it beside the pictures."""
    figures.write()
    for line in figures.table():
        terminalreporter.write_line(line)
