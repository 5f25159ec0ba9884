"""Make the environments of the peers: `python -m tests.bench.environments`.

`.venv-peers` has the Python peers, from a lock with hashes, and `.venv-peers/node` has BullMQ, by `npm ci`. An
environment that fits its lock is kept. An environment that cannot be made leaves its reason in a file, and the table of
`make bench` names its peers with that reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("peers")
DIRECTORY = ROOT / ".venv-peers"
NODE_DIRECTORY = DIRECTORY / "node"
PYTHON_LOCK = ROOT / "requirements" / "peers.txt"
NODE_LOCK = PROGRAMS / "node" / "package-lock.json"
SHOWN_LINES = 3
"""Lines of an installer's output that are the reason for its failure."""


@dataclass(frozen=True)
class Environment:
    """A folder that is made from a lock."""

    name: str
    directory: Path
    lock: Path

    @property
    def installed(self) -> Path:
        """A copy of the lock that the folder was made from."""
        return self.directory / ".lock"

    @property
    def failure(self) -> Path:
        return self.directory / ".failure"

    @property
    def is_up_to_date(self) -> bool:
        return self.installed.exists() and self.installed.read_text() == self.lock.read_text()

    @property
    def reason(self) -> str:
        """The reason why the environment does not exist; empty when it does."""
        if self.is_up_to_date:
            return ""
        return self.failure.read_text().strip() if self.failure.exists() else "not installed: `make bench` does it"

    def note(self, failure: str) -> None:
        """Note how the installation ended; an empty text is success."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if failure:
            self.failure.write_text(failure)
            say(f"!! {self.name} cannot be installed here, so its peers are not measured:\n{failure}")
            return
        self.failure.unlink(missing_ok=True)
        self.installed.write_text(self.lock.read_text())


PYTHON = Environment("the peers in Python", DIRECTORY, PYTHON_LOCK)
NODE = Environment("the peers in Node", NODE_DIRECTORY, NODE_LOCK)


def main() -> None:
    if not PYTHON.is_up_to_date:
        say(f"== {PYTHON.name}: installing them into {DIRECTORY.relative_to(ROOT)}")
        PYTHON.note(_install_python())
    if not NODE.is_up_to_date:
        say(f"== {NODE.name}: installing them into {NODE_DIRECTORY.relative_to(ROOT)}")
        NODE.note(_install_node())
    copy_node_programs()


def _install_python() -> str:
    """Return why it failed; empty when it did not."""
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    venv.create(DIRECTORY, with_pip=True)
    pip = (str(DIRECTORY / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    return _failure_of((*pip, "--require-hashes", "-r", str(PYTHON_LOCK)), ROOT)


def _install_node() -> str:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed on this machine"
    shutil.rmtree(NODE_DIRECTORY, ignore_errors=True)
    NODE_DIRECTORY.mkdir(parents=True)
    copy_node_programs()
    return _failure_of(("npm", "ci", "--no-audit", "--no-fund"), NODE_DIRECTORY)


def copy_node_programs() -> None:
    """Copy the programs to their packages: Node finds packages of modules in the folders above a program only."""
    if NODE_DIRECTORY.exists():
        for path in (PROGRAMS / "node").iterdir():
            shutil.copy(path, NODE_DIRECTORY / path.name)


def _failure_of(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "\n".join(lines[-SHOWN_LINES:]) or f"{command[0]} ended with status {done.returncode}"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
