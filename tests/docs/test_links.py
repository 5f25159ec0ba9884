"""Every link to a page, a file or a heading of this repository leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Page, all_pages, page

PAGES = all_pages()
CODE = ("queue_engine", "worker_agent", "tests", "deploy")


def broken(one: Page) -> Iterator[str]:
    for link in one.links:
        path, _, fragment = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (one.path.parent / path).resolve() if path else one.path
        if not target.exists() or not target.is_relative_to(ROOT):
            yield f"{link}: there is no such file"
        elif fragment and fragment not in (page(target) if path else one).anchors:
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("one", PAGES, ids=lambda one: str(one.path.relative_to(ROOT)))
def test_links_of_a_page_resolve(one: Page) -> None:
    assert list(broken(one)) == []


@pytest.mark.parametrize(
    "link", ["docs/no-such-page.md", "docs/glossary.md#no-such-heading", "#no-such-heading", "../outside.md"]
)
def test_a_broken_link_is_found(link: str) -> None:
    assert len(list(broken(Page(ROOT / "README.md", f"# A\n\n[there]({link})\n")))) == 1


def test_a_heading_is_found_by_its_anchor() -> None:
    text = "# `make x`, and *more*\n\n[up](#make-x-and-more) [again](#again-1)\n\n## Again\n\n## Again\n"
    assert list(broken(Page(ROOT / "README.md", text))) == []


def test_pages_named_in_code_exist() -> None:
    """Docstrings, help texts and raised messages name pages by their path."""
    missing = {
        f"{source.relative_to(ROOT)}: {name}"
        for folder in CODE
        for source in (ROOT / folder).rglob("*")
        if source.suffix in (".py", ".yml", ".toml", ".lua", ".conf", ".service") and "node_modules" not in source.parts
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", source.read_text())
        if not (ROOT / name).exists() and source != Path(__file__)
    }
    assert missing == set()


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "docs" / "index.md"]
    while ahead:
        path = ahead.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        ahead += [(path.parent / link.partition("#")[0]).resolve() for link in page(path).links if ":" not in link]
    assert {one.path for one in PAGES if one.path.is_relative_to(ROOT / "docs")} - reached == set()


def test_tests_that_are_named_as_evidence_exist() -> None:
    named = re.findall(
        r"`((?:unit|store|integration|faults|upgrade)/[\w/]+\.py)`", page("docs/internals/guarantees.md").text
    )
    assert named
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
