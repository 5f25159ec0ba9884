"""The commands and snippets of the pages work as they stand, run by a reader beside one engine."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT, Page, all_pages
from tests.docs.reader import Reader, commands_of, faults_of, fits, furnish
from tests.integration.parts import Program
from tests.ports import free_port
from tests.waiting import wait_until

PAGES = all_pages()
KEPT = {"secrets.md": ["secret-key"]}
"""Files that a page makes for its reader to keep."""
RUN = [one for one in PAGES if any(list(commands_of(block)) for block in one.blocks)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    furnish(folder)
    port = free_port()
    given = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**given, "PYTHONPATH": str(ROOT), "QUEUE_ENGINE_DELIVERY_SCHEDULE": "1,60"}
    arguments = ("queue_engine", "up", "--port", str(port), "--data-dir", str(folder / "queue-engine-data"))
    up = Program("up", arguments, environment, folder)
    try:
        wait_until(lambda: "queue-engine is up" in up.output() or not up.running, message=up.output())
        assert up.running, up.output()
        yield Reader(folder, engine_port=port, free_port=free_port())
    finally:
        up.signal(signal.SIGINT)
        up.wait()


@pytest.mark.parametrize("one", PAGES, ids=lambda one: str(one.path.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(one: Page) -> None:
    assert [fault for block in one.blocks for fault in faults_of(block)] == []


@pytest.mark.parametrize("one", RUN, ids=lambda one: str(one.path.relative_to(ROOT)))
def test_the_commands_of_a_page_work_and_leave_nothing(one: Page, reader: Reader) -> None:
    try:
        reader.run(one)
        assert reader.left() == KEPT.get(one.path.name, [])
    finally:
        reader.clean()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nx = 1\n```", "neither run, compared nor marked"),
        ("<!-- not run: -->\n```python\nx = 1\n```", "says no reason"),
        ("<!-- from: pyproject.toml -->\n```toml\nname = 'other'\n```", "is not a part of pyproject.toml"),
        ("<!-- from: no-such-file -->\n```toml\n```", "is not a part of no-such-file"),
        ("```json\n{,}\n```", "Expecting property name"),
    ],
)
def test_a_block_that_nothing_checks_is_found(text: str, fault: str) -> None:
    [block] = Page(ROOT / "README.md", f"# A\n\n{text}\n").blocks
    [found] = faults_of(block)
    assert fault in found
    assert found.startswith("README.md:")


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("a 1\nb \n", "a 1\nb", True),
        ("a 1\nb 2\n", "a …\nb 2", True),
        ("a 1\nb 2\nc\n", "a …\nc", True),
        ("a 1\n", "a 2", False),
        ("a.1\n", "a-1", False),
    ],
)
def test_output_is_compared_with_what_a_page_shows(output: str, expected: str, same: bool) -> None:
    assert fits(output, expected) == same


def test_a_command_that_fails_is_named(reader: Reader) -> None:
    failing = Page(
        ROOT / "README.md", "# A\n\n```sh\ntrue\n```\n\n```sh\nls /no-such-folder\n```\n\n```sh\ntrue\n```\n"
    )
    with pytest.raises(AssertionError, match=r"README.md:7: exit status 2 of\nls /no-such-folder"):
        reader.run(failing)
