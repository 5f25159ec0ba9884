"""Real files of many types from this machine: the same ones in every run, as long as the machine stays as it is.

They come from this project, the Python installation and /usr/share; nothing hidden, nothing from /etc or a home folder
(unless the project or Python is installed there).
"""

from __future__ import annotations

import os
import sysconfig
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from queue_engine.cli.client import CommandError

PROJECT = Path(__file__).resolve().parents[2]
PROJECT_FOLDERS = ("queue_engine", "worker_agent", "deploy", "docs", "tests")
"""Not the whole tree: the working folder of an engine, with its keys, may be in it."""
MAX_BYTES = 64 * 1024
MAX_FILES_OF_ONE_FOLDER = 300
"""Limit below each folder of a root, so that no large folder is walked for seconds."""
KINDS = 40
"""Number of file name endings that are chosen from: the most frequent ones."""


class NotEnoughFiles(CommandError):
    """The machine has fewer files that fit."""


class SampleFile(NamedTuple):
    """A file, read once."""

    name: str
    content: bytes


def default_roots() -> list[Path]:
    """Return where files are taken from."""
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    return [*(PROJECT / name for name in PROJECT_FOLDERS), *python, Path("/usr/share")]


def collect(count: int, roots: Sequence[Path] | None = None) -> list[SampleFile]:
    """Return `count` different files of at most 64 KiB, a different kind each time. Raises NotEnoughFiles."""
    names = {path: str(path.relative_to(root.parent)) for root in roots or default_roots() for path in _files_in(root)}
    kinds: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(names, key=lambda path: zlib.crc32(names[path].encode("utf-8", "surrogateescape"))):
        if names[path].isascii() and names[path].isprintable():
            kinds[path.suffix.lower()].append(path)
    frequent = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:KINDS]
    found: dict[bytes, SampleFile] = {}
    for path in filter(None, chain.from_iterable(zip_longest(*(kinds[kind] for kind in frequent)))):
        if 0 < len(content := _start_of(path)) <= MAX_BYTES:
            found.setdefault(content, SampleFile(f"{path.parent.name}/{path.name}", content))
        if len(found) == count:
            return list(found.values())
    raise NotEnoughFiles(f"found only {len(found)} files that fit, not {count}")


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield the plain files below `folder`, without what is hidden and what Python writes at any time."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in (one for one in entries if not one.name.startswith((".", "__pycache__"))):
        if entry.is_dir(follow_symlinks=False):
            yield from islice(_files_in(Path(entry)), MAX_FILES_OF_ONE_FOLDER)
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry)


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        return b""
