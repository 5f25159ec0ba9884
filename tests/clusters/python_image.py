"""Images of the engine and the agent, made of this machine's Python and the packages of the tests, because none can be
pulled."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AGENT_IMAGE = "localhost/queue-engine-test/agent:1"
"""Its entry point is the agent. The example worker is `python3 /app/worker_plain.py`."""
ENTRY_POINT = ("python3", "-P", "-m", "worker_agent")
ENVIRONMENT = {"PATH": "/usr/local/bin:/bin", "PYTHONPATH": "/app:/app/packages", "PYTHONDONTWRITEBYTECODE": "1"}
_PROGRAMS = (
    "__init__.py",
    "clusters/__init__.py",
    "clusters/holding_server.py",
    "clusters/hostile_in_container.py",
    "faults/__init__.py",
    "faults/container.py",
    "faults/journal.py",
    "faults/serving.py",
    "integration/__init__.py",
    "integration/hostile_container.py",
)
"""Programs of the tests that are containers, with what they import: `python3 -m tests.…`."""
_LEFT_OUT = (
    "test",
    "tests",
    "site-packages",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "turtledemo",
    "__pycache__",
)
_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+\.so\S*) \(0x")


def agent_image(folder: Path) -> Path:
    """Return a tar archive of the files of the agent's image."""
    return _image(folder / "agent.tar", "agent.txt")


def engine_image(folder: Path) -> Path:
    """Return a tar archive of the files of an image with both commands and a shell."""
    path = _image(folder / "engine.tar", "server.txt")
    with tarfile.open(path, "a") as archive:
        for command, module in (("queue-engine", "queue_engine"), ("worker-agent", "worker_agent")):
            text = f"#!/usr/local/bin/python3 -P\nfrom {module}.__main__ import main\nmain()\n"
            add_text(archive, f"usr/local/bin/{command}", text, mode=0o755)
        archive.add(ROOT / "deploy/examples/worker_plain.py", "usr/local/lib/queue-engine/worker_plain.py")
        add_shell(archive)
    return path


def program_image(path: Path, programs: Mapping[str, Path]) -> Path:
    """Return a tar archive of programs by their names, with the libraries that they need and a shell."""
    with tarfile.open(path, "w") as archive:
        for name, program in programs.items():
            archive.add(program.resolve(), f"usr/local/bin/{name}")
        for needed in _libraries(list(programs.values())):
            archive.add(needed.resolve(), str(needed).lstrip("/"))
        add_shell(archive)
        _add_folders(archive, ("tmp", "proc", "sys", "dev", "etc", "data"))
    return path


def add_shell(archive: tarfile.TarFile) -> None:
    """Add busybox with some of its commands."""
    archive.add(os.path.realpath(shutil.which("busybox") or "/bin/busybox"), "bin/busybox")
    for name in ("sh", "cat", "grep", "sleep", "env"):
        _add_link(archive, f"bin/{name}", "busybox")


def add_python(archive: tarfile.TarFile, interpreter: Path, library: Path) -> None:
    """Add an interpreter as `/usr/local/bin/python3`, and its standard library where it looks for it.

    Neither keeps its place: that of a virtual environment may be below a folder, such as `/tmp`, that a pod hides with
    a volume.
    """
    archive.add(interpreter.resolve(), "usr/local/bin/python3")
    archive.add(library, f"usr/local/lib/{library.name}", filter=_without_caches)


def _image(path: Path, lock: str) -> Path:
    interpreter = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(path, "w") as archive:
        packages = dict(_package_files(lock))
        for name, file in packages.items():
            archive.add(file, f"app/packages/{name}", recursive=False)
        for package in ("queue_engine", "worker_agent"):
            archive.add(ROOT / package, f"app/{package}", filter=_without_caches)
        archive.add(ROOT / "deploy/examples/worker_plain.py", "app/worker_plain.py")
        for name in _PROGRAMS:
            archive.add(ROOT / "tests" / name, f"app/tests/{name}")
        add_python(archive, interpreter, library)
        binaries = [interpreter, *library.rglob("*.so"), *(file for file in packages.values() if ".so" in file.name)]
        for needed in _libraries(binaries):
            archive.add(needed.resolve(), str(needed).lstrip("/"))
        _add_folders(archive, ("tmp", "proc", "sys", "dev", "etc"))
    return path


def _package_files(lock: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of the packages of a lock, each with its name below the folder of packages."""
    for name in re.findall(r"^([a-z0-9][a-z0-9._-]*)==", (ROOT / "requirements" / lock).read_text(), re.MULTILINE):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:  # of another platform
            continue
        for file in files:
            place = Path(str(file.locate()))
            if not str(file).startswith("..") and "__pycache__" not in file.parts and place.is_file():
                yield str(file), place


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that binaries need, without those that the image has beside them."""
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platlib"))
    found = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    return {Path(one) for one in _LIBRARY.findall(found) if not one.startswith(folders)}


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if any(part in _LEFT_OUT for part in Path(member.name).parts) else member


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    archive.addfile(link)


def _add_folders(archive: tarfile.TarFile, names: Iterable[str]) -> None:
    for name in names:
        made = tarfile.TarInfo(name)
        made.type, made.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(made)
    add_text(archive, "etc/passwd", "root:x:0:0:root:/tmp:/bin/sh\n")


def add_text(archive: tarfile.TarFile, name: str, text: str, *, mode: int = 0o644) -> None:
    """Add a file with a text."""
    member = tarfile.TarInfo(name)
    data = text.encode()
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))
