"""Find phrases in prose that an engineer has to read twice.

    python -m tests.prose [--check | --update] [FILE …]

Prose is what people read: documents, docstrings, comments, the texts of fields and options, the messages of exceptions
and the comments of Lua scripts. Identifiers and code are not. `tests/prose_baseline.json` has the number of hits that
a folder still has; it may only fall.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).with_name("prose_baseline.json")
FOLDERS = ("queue_engine", "worker_agent", "deploy", "docs", "tests")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
SUFFIXES = (".py", ".md", ".lua")
TEXT_ARGUMENTS = {"description", "help", "text", "summary"}

OWN_FILES = {"prose.py", "test_prose.py"}

_START = r"(?:^|(?<=[.:;!?]\s))"


@dataclass(frozen=True)
class Pattern:
    """A phrase, and what to write instead."""

    regex: re.Pattern[str]
    instead: str


def _word(words: str, instead: str) -> Pattern:
    return Pattern(re.compile(rf"\b(?:{words})\b", re.IGNORECASE), instead)


def _start(words: str, instead: str) -> Pattern:
    return Pattern(re.compile(rf"{_START}(?:{words})\b(?![^.?!]*\?)"), instead)


PATTERNS = (
    _word("answers?|answered|answering", "response, respond, reply"),
    _word("told", "notified, or say what is sent"),
    _word("wanted", "desired"),
    _word("(?:given|gives?|giving) back", "release, return"),
    _word("taken for", "treated as"),
    _word("anew", "again, new"),
    _word("for ever", "forever"),
    _word("no more", "no longer"),
    _word("nobody", "no client, no process, no user"),
    _word("mend|mends|mended|mending", "fix, repair"),
    _word("meanwhile", "at the same time, until then"),
    _word("heeds?|heeded", "respect, follow"),
    _word("whoever", "the client that, each process that"),
    _word("whom", "name the noun"),
    _word("(?:is|are|was|were|has|have|had) gone", "does not exist any longer, has ended"),
    _word("bears?|bore", "tolerate, carry"),
    _word("(?:comes|come|came) to nothing", "fails"),
    _word("ever after|ever since", "from then on"),
    _word("in vain", "without effect"),
    _word("lest|thereof|hence|ought", "plain words"),
    _word("a crowd", "a burst"),
    _word("stands? still", "stalls"),
    _word("of (?:its|one's|their) own accord", "without a request"),
    _word("to be had", "available"),
    _word("so many|so much", "the number"),
    _word("far from|nigh|ere", "plain words"),
    _start("What", "start with the noun or the verb"),
    _start("Who(?:ever)?|Whose", "start with the noun"),
    _start("Whether", "Return True if …"),
    _start("Of", "start with the noun"),
    _start("One", "A, or the noun"),
    _start("Those", "name the noun"),
    _start("Nothing|Nobody|None of", "name the subject"),
)


@dataclass(frozen=True)
class Hit:
    """A phrase that was found."""

    path: Path
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: “{self.phrase}”: {self.instead}"


def hits(path: Path, source: str) -> Iterator[Hit]:
    """Yield the phrases in the prose of a file."""
    for line, text in prose(path.suffix, source):
        plain = re.sub(r"`[^`]*`|“[^”]*”|\]\([^)]*\)", "x", text)
        for pattern in PATTERNS:
            for match in pattern.regex.finditer(plain):
                yield Hit(path, line + plain.count("\n", 0, match.start()), match.group().strip(), pattern.instead)


def prose(suffix: str, source: str) -> Iterable[tuple[int, str]]:
    """Return pieces of prose with the line on which each starts."""
    return {".py": _python_prose, ".md": _markdown_prose, ".lua": _lua_prose}[suffix](source)


def _python_prose(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr):
            yield from _texts(node.value)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                yield from _texts(argument)
        elif isinstance(node, ast.keyword) and node.arg in TEXT_ARGUMENTS:
            yield from _texts(node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#: ")


def _texts(node: ast.expr) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.lineno, "\n".join(line.strip() for line in node.value.split("\n"))
    elif isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        yield node.lineno, "".join(map(str, parts))


def _markdown_prose(source: str) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield from ((number, cell.strip(" -*#>")) for cell in line.split("|"))


def _lua_prose(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        if "--" in line:
            yield number, line.partition("--")[2].strip()


def files() -> Iterator[Path]:
    """Yield the files of this repository that hold prose."""
    yield from (ROOT / name for name in DOCUMENTS if (ROOT / name).exists())
    for folder in FOLDERS:
        found = (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES)
        yield from (path for path in found if path.name not in OWN_FILES and "node_modules" not in path.parts)


def counted() -> dict[str, int]:
    """Return the number of hits by folder of the first level, or document."""
    counts: Counter[str] = Counter()
    for path in files():
        name = path.relative_to(ROOT)
        counts[name.parts[0]] += sum(1 for _ in hits(name, path.read_text("utf-8")))
    return dict(sorted(counts.items()))


def risen() -> list[str]:
    """Return a line for each folder or document with more hits than the baseline allows."""
    allowed = json.loads(BASELINE.read_text())
    return [
        f"{name}: {count} hits, {allowed.get(name, 0)} are allowed"
        for name, count in counted().items()
        if count > allowed.get(name, 0)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the baseline")
    parser.add_argument("--update", action="store_true", help="lower the baseline to what there is; it never rises")
    parser.add_argument("files", nargs="*", type=Path, help="only these files")
    arguments = parser.parse_args()
    if arguments.update:
        allowed = json.loads(BASELINE.read_text())
        lowered = {name: min(count, allowed.get(name, 0)) for name, count in counted().items()}
        BASELINE.write_text(json.dumps(lowered, indent=2) + "\n")
        return 0
    if arguments.check:
        lines = risen()
        sys.stdout.writelines(f"{line}; `python -m tests.prose` lists them\n" for line in lines)
        return int(bool(lines))
    for path in [path.resolve() for path in arguments.files] or files():
        sys.stdout.writelines(f"{hit}\n" for hit in hits(path.relative_to(ROOT), path.read_text("utf-8")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
