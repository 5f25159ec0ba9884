"""The page of the repository's layout names only what is there."""

import re

import pytest

from tests.docs.pages import ROOT, page

PAGE = page(ROOT / "docs" / "internals" / "layout.md")
BASES = (ROOT, ROOT / "queue_engine", ROOT / "tests", ROOT / "deploy", ROOT / "docs")
PLACE = re.compile(r"`([\w/.]+\.(?:py|lua))`(?: \(`([\w.]+)`\))?")


def places(text: str) -> list[tuple[str, str]]:
    """Return the files of the section with questions, each with the name that the file defines, or an empty one."""
    return [(match[1], match[2] or "") for match in PLACE.finditer(text.partition("## Where to find")[2])]


def missing(path: str, name: str) -> str:
    """Return what is missing of a place, or an empty text."""
    if not (ROOT / path).is_file():
        return path
    source = (ROOT / path).read_text()
    parts = [part for part in name.split(".") if part]
    return ".".join(part for part in parts if not re.search(rf"^ *(?:async def|def|class) {part}\b", source, re.M))


@pytest.mark.parametrize(("path", "name"), places(PAGE.text))
def test_each_place_of_an_answer_exists(path: str, name: str) -> None:
    assert missing(path, name) == ""


def test_every_question_has_places() -> None:
    rows = [line for line in PAGE.text.partition("## Where to find")[2].splitlines() if "? |" in line]
    assert len(rows) == 9
    assert [row for row in rows if not PLACE.search(row)] == []


@pytest.mark.parametrize(
    ("path", "name", "lost"),
    [
        ("queue_engine/no_such.py", "", "queue_engine/no_such.py"),
        ("queue_engine/store/queue.py", "TaskQueue.no_such", "no_such"),
    ],
)
def test_a_place_that_is_not_there_is_found(path: str, name: str, lost: str) -> None:
    assert missing(path, name) == lost


def test_each_folder_of_the_table_exists() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", PAGE.text, re.M)
    folders = [name for row in rows for name in re.findall(r"`([\w/.]+)`", row)]
    assert len(folders) > 15
    assert [one for one in folders if not any((base / one).exists() for base in BASES)] == []
