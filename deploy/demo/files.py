"""Real files of many types from this machine: the same ones in every run, as long as the machine stays as it is.

They come from this project, the Python installation and /usr/share; nothing hidden, nothing from /etc or a home folder
(unless the project or Python is installed there).
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PROJECT_FOLDERS = ("queue_engine", "worker_agent", "deploy", "docs", "tests")
"""Not the whole tree: the working folder of an engine, with its keys, may be in it."""

MAX_BYTES = 64 * 1024
FILES_OF_ONE_FOLDER = 300
"""Looked at below each folder of a root, so that no big one is walked for seconds."""
COMMON_KINDS = 40
"""File name endings that the choice begins with: the most frequent ones."""


class NotEnoughFiles(Exception):
    """The machine has fewer files that fit."""


@dataclass(frozen=True)
class SampleFile:
    """One file, read once."""

    name: str
    content: bytes = field(repr=False)


def default_roots() -> list[Path]:
    """Where files are taken from."""
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    return [*(PROJECT / name for name in PROJECT_FOLDERS), *python, Path("/usr/share")]


def collect(count: int, roots: Sequence[Path] | None = None) -> list[SampleFile]:
    """`count` different files of at most 64 KiB, of as many kinds as go. Raises NotEnoughFiles."""
    paths = _candidates(default_roots() if roots is None else roots)
    found = list(islice(_read(_mixed(paths)), count))
    if len(found) < count:
        raise NotEnoughFiles(f"found only {len(found)} files that fit, not {count}")
    return found


def _candidates(roots: Iterable[Path]) -> dict[Path, str]:
    """Files, and the names to show for them."""
    found: dict[Path, str] = {}
    for root in roots:
        for folder in _folders(root):
            for path in islice(_files_below(folder), FILES_OF_ONE_FOLDER):
                found.setdefault(path, str(path.relative_to(root.parent)))
    return {path: name for path, name in found.items() if name.isascii() and name.isprintable()}


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(entry for entry in root.iterdir() if _is_lasting(entry.name) and not entry.is_symlink())
    except OSError:
        return []


def _files_below(top: Path) -> Iterator[Path]:
    """Plain files, in order; `top` itself when it is one."""
    if top.is_file():
        yield top
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(filter(_is_lasting, folders))
        yield from (Path(folder, name) for name in sorted(filter(_is_lasting, names)))


def _is_lasting(name: str) -> bool:
    """Not hidden, and not what Python writes when it likes."""
    return not name.startswith((".", "__pycache__"))


def _mixed(paths: dict[Path, str]) -> Iterator[Path]:
    """The files, a different kind each time; the most frequent kinds first."""
    kinds: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: zlib.crc32(paths[path].encode())):
        kinds[path.suffix.lower()].append(path)
    ordered = [kinds[kind] for kind in sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))]
    rounds = chain(zip_longest(*ordered[:COMMON_KINDS]), zip_longest(*ordered[COMMON_KINDS:]))
    return (path for one_of_each in rounds for path in one_of_each if path is not None)


def _read(paths: Iterable[Path]) -> Iterator[SampleFile]:
    seen: set[bytes] = set()
    for path in paths:
        content = _content(path)
        if content is None or (digest := hashlib.sha256(content).digest()) in seen:
            continue
        seen.add(digest)
        yield SampleFile(f"{path.parent.name}/{path.name}", content)


def _content(path: Path) -> bytes | None:
    """What is in a plain file of a size that fits; None for everything else, such as links and pipes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            content = file.read(MAX_BYTES + 1) if path.is_file() else b""
    except OSError:
        return None
    return content if 0 < len(content) <= MAX_BYTES else None
