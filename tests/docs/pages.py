"""The Markdown pages of the repository, and what a renderer makes of their headings, links and fenced blocks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--((?:(?!-->).)*)-->\s*\Z", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    line: int
    """Line of the opening fence, from 1."""
    language: str
    text: str
    comment: str
    """The text of the HTML comment directly above the block; empty when there is none."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def blocks(self) -> list[Block]:
        return list(self._found())

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """The targets of all links."""
        return _LINK.findall(re.sub(r"`[^`\n]*`", "", self.prose))

    @property
    def anchors(self) -> frozenset[str]:
        """The fragments that links may name. A repeated heading gets a number."""
        seen: Counter[str] = Counter()
        found = set()
        for heading in _HEADING.findall(self.prose):
            slug = _slug(heading)
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return frozenset(found)

    def _found(self) -> Iterator[Block]:
        for fence in _FENCE.finditer(self.text):
            before = self.text[: fence.start()]
            comment = _COMMENT.search(before)
            language = fence["info"].split()[0] if fence["info"].strip() else ""
            text = re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
            yield Block(self.path, before.count("\n") + 1, language, text, comment[1].strip() if comment else "")


def page(path: str | Path) -> Page:
    """Return the page at this path, relative to the repository."""
    full = ROOT / path
    return Page(full, full.read_text())


def all_pages() -> list[Page]:
    """Return every page at the top, in docs/ and in deploy/."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    return [page(path) for path in sorted(paths)]


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
