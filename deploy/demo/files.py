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

PROJECT = Path(__file__).resolve().parents[2]
PROJECT_FOLDERS = ("queue_engine", "worker_agent", "deploy", "docs", "tests")
"""Not the whole tree: the working folder of an engine, with its keys, may be in it."""
MAX_BYTES = 64 * 1024
MAX_FILES_OF_ONE_FOLDER = 300
"""Below each folder of a root, so that no big one is walked for seconds."""
KINDS = 40
"""File name endings that are chosen from: the most frequent ones."""


class NotEnoughFiles(Exception):
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
    names = {path: str(path.relative_to(root.parent)) for root in roots or default_roots() for path in _files_of(root)}
    kinds: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(names, key=lambda path: zlib.crc32(names[path].encode())):
        if names[path].isascii() and names[path].isprintable():
            kinds[path.suffix.lower()].append(path)
    frequent = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:KINDS]
    found: dict[bytes, SampleFile] = {}
    for path in filter(None, chain.from_iterable(zip_longest(*(kinds[kind] for kind in frequent)))):
        if content := _content(path):
            found.setdefault(content, SampleFile(f"{path.parent.name}/{path.name}", content))
        if len(found) == count:
            return list(found.values())
    raise NotEnoughFiles(f"found only {len(found)} files that fit, not {count}")


def _files_of(root: Path) -> Iterator[Path]:
    _, folders, files = next(os.walk(root), ("", [], []))
    yield from (root / name for name in _lasting(files))
    for folder in (root / name for name in _lasting(folders)):
        if not folder.is_symlink():
            yield from islice(_files_below(folder), MAX_FILES_OF_ONE_FOLDER)


def _files_below(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = _lasting(folders)
        yield from (Path(folder, name) for name in _lasting(files))


def _lasting(names: Sequence[str]) -> list[str]:
    """Return the names in order, without what is hidden and what Python writes at any time."""
    return sorted(name for name in names if not name.startswith((".", "__pycache__")))


def _content(path: Path) -> bytes | None:
    """Return the content of a plain file of a size that fits; None for everything else, such as links and pipes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            content = file.read(MAX_BYTES + 1) if path.is_file() else b""
    except OSError:
        return None
    return content if 0 < len(content) <= MAX_BYTES else None
