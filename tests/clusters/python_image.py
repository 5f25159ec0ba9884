"""An image with the agent, made of this machine's Python and the packages of the tests, because none can be pulled."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AGENT_IMAGE = "localhost/queue-engine-test/agent:1"
"""Its entry point is the agent. The example worker is `python3 /app/worker_plain.py`."""
ENTRY_POINT = ("python3", "-P", "-m", "worker_agent")
ENVIRONMENT = {"PATH": "/usr/local/bin:/bin", "PYTHONPATH": "/app:/app/packages", "PYTHONDONTWRITEBYTECODE": "1"}
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
    """Return a tar archive of the image's files."""
    path = folder / "agent.tar"
    interpreter = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(path, "w") as archive:
        packages = dict(_package_files())
        for name, file in packages.items():
            archive.add(file, f"app/packages/{name}", recursive=False)
        for package in ("queue_engine", "worker_agent"):
            archive.add(ROOT / package, f"app/{package}", filter=_without_caches)
        archive.add(ROOT / "deploy/examples/worker_plain.py", "app/worker_plain.py")
        archive.add(interpreter, str(interpreter).lstrip("/"))
        archive.add(library, str(library).lstrip("/"), filter=_without_caches)
        _add_link(archive, "usr/local/bin/python3", str(interpreter))
        binaries = [interpreter, *library.rglob("*.so"), *(file for file in packages.values() if ".so" in file.name)]
        for needed in _libraries(binaries):
            archive.add(needed.resolve(), str(needed).lstrip("/"))
        _add_folders(archive, ("tmp", "proc", "sys", "dev", "etc"))
    return path


def _package_files() -> Iterator[tuple[str, Path]]:
    """Yield the files of the agent's locked packages, each with its name below the folder of packages."""
    for name in re.findall(r"^([a-z0-9][a-z0-9._-]*)==", (ROOT / "requirements/base.txt").read_text(), re.MULTILINE):
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
    empty = tarfile.TarInfo("etc/passwd")
    text = b"root:x:0:0:root:/tmp:/bin/sh\n"
    empty.size = len(text)
    archive.addfile(empty, io.BytesIO(text))
