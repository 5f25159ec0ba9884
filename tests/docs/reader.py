"""A reader of a page: somebody who runs its blocks from top to bottom, in one shell, beside a running engine.

What happens to a block follows from its language and from the HTML comment directly above it:

| block | is |
| --- | --- |
| `sh` | run |
| `console` | run line by line: `$ ` begins a command, the lines below are its output, and `…` stands for any text |
| `json` | parsed |
| without a language, or `text` | shown only: a picture, or output |
| any, below `<!-- file: NAME -->` | written to the file NAME in the reader's folder |
| any, below `<!-- from: PATH -->` | compared: it is a part of that file of the repository |
| any, below `<!-- not run: REASON -->` | shown only |

Ports of the pages are replaced: 8000 behind `127.0.0.1:` is the engine's, and 9000 is a free one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.docs.pages import ROOT, Block, Page

SHOWN = ("", "text")
PAGE_SECONDS = 550
_PRELUDE = """
set -eo pipefail
curl() { command curl --fail-with-body --max-time 60 "$@"; }
"""
_MARK = "::reader::"
_LOG = "reader.log"


class Command(NamedTuple):
    """A piece of shell text, and the output that the page shows for it, if it does."""

    block: Block
    text: str
    expected: str | None


class Reader:
    """Runs pages in `folder`, which looks like the repository's own."""

    def __init__(self, folder: Path, *, engine_port: int, free_port: int) -> None:
        self._folder = folder
        self._engine_port = engine_port
        self._free_port = free_port
        self._own = {*self._names(), _LOG}

    def run(self, page: Page) -> None:
        """Run all blocks of the page. Raises AssertionError that names the block which does not work."""
        for block in page.blocks:
            self._prepare(block)
        commands = [command for block in page.blocks for command in commands_of(block)]
        if not commands:
            return
        status, outputs = self._shell(commands)
        for command, output in zip(commands, outputs, strict=False):
            last = command is commands[len(outputs) - 1]
            assert status == 0 or not last, f"{command.block.place}: exit status {status} of\n{command.text}\n{output}"
            if command.expected is not None:
                expected = self._local(command.expected)
                assert fits(output, expected), f"{command.block.place}: expected\n{expected}\nbut got\n{output}"

    def left(self) -> list[str]:
        """Return the files and the endpoints that the pages have made and not removed."""
        with self._api() as client:
            endpoints = [f"endpoint {one['name']}" for one in client.get("").raise_for_status().json()["data"]]
        return sorted(self._names() - self._own) + endpoints

    def clean(self) -> None:
        """Remove the files of the pages that were run, and delete their endpoints, so that their workers end."""
        with self._api() as client:
            for endpoint in client.get("").raise_for_status().json()["data"]:
                client.delete(f"/{endpoint['id']}").raise_for_status()
        for name in self._names() - self._own:
            path = self._folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _names(self) -> set[str]:
        return {path.name for path in self._folder.iterdir()}

    def _api(self) -> httpx.Client:
        key = (self._folder / "queue-engine-data" / "api-key").read_text().strip()
        url = f"http://127.0.0.1:{self._engine_port}/v2/serverless"
        return httpx.Client(base_url=url, headers={"X-Api-Key": key}, trust_env=False)

    def _prepare(self, block: Block) -> None:
        kind, _, value = block.comment.partition(":")
        if kind == "file":
            (self._folder / value.strip()).write_text(self._local(block.text))

    def _shell(self, commands: list[Command]) -> tuple[int, list[str]]:
        """Return the exit status, and the output of each command that was begun."""
        script = _PRELUDE + "".join(f"\necho '{_MARK}'\n{self._local(one.text)}\n" for one in commands)
        log = self._folder / _LOG
        with log.open("wb") as output:
            shell = subprocess.Popen(
                ("bash", "-c", script),
                cwd=self._folder,
                env={**_environment(), "TMPDIR": str(self._folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = shell.wait(PAGE_SECONDS)
            except subprocess.TimeoutExpired:
                status = -1
            finally:
                _end_group(shell.pid)
                shell.wait()
        return status, log.read_text(errors="replace").split(f"{_MARK}\n")[1:]

    def _local(self, text: str) -> str:
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self._engine_port}")
        return re.sub(r"\b9000\b", str(self._free_port), text)


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of this block that a reader runs, in order."""
    if block.comment.partition(":")[0] in ("file", "from", "not run"):
        return
    if block.language == "sh":
        yield Command(block, block.text, None)
    if block.language == "console":
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Command(block, command, output)


def faults_of(block: Block) -> Iterator[str]:
    """Why this block is not checked, or is wrong."""
    kind, _, value = (part.strip() for part in block.comment.partition(":"))
    if kind == "from":
        if not _is_part(block.text, ROOT / value):
            yield f"{block.place}: is not a part of {value}"
    elif kind == "not run":
        if not value:
            yield f"{block.place}: says no reason for which it is not run"
    elif kind != "file" and block.language == "json":
        try:
            json.loads(block.text)
        except ValueError as error:
            yield f"{block.place}: {error}"
    elif kind != "file" and block.language not in ("sh", "console", *SHOWN):
        yield f"{block.place}: {block.language} is neither run, compared nor marked with a reason"


def fits(output: str, expected: str) -> bool:
    """Return whether the output is the expected one, where `…` stands for any text and white space ends no line."""
    pattern = ".*".join(re.escape(part) for part in _trimmed(expected).split("…"))
    return re.fullmatch(pattern, _trimmed(output), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _is_part(text: str, path: Path) -> bool:
    """Return whether the text is in the file, at whatever depth; a line of `…` stands for lines left out."""
    if not path.is_file():
        return False
    whole = path.read_text()
    parts = re.split(r"^\s*…\n", text, flags=re.MULTILINE)
    return all(_occurs(part.strip("\n"), whole) for part in parts)


def _occurs(part: str, whole: str) -> bool:
    depths = {line[: len(line) - len(line.lstrip())] for line in whole.splitlines()}
    return any(textwrap.indent(part, depth) + "\n" in whole for depth in depths)


def _environment() -> dict[str, str]:
    """The variables that a reader's shell has."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def furnish(folder: Path, names: Iterable[str] = ("deploy", "docs", "Makefile")) -> None:
    """Make the folder look like the repository's, with an environment in which everything is installed."""
    for name in names:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
