"""The images of the tests that are made of this machine's Python."""

import os
import sys
import tarfile
from pathlib import Path

from tests.clusters.python_image import add_python


def test_the_interpreter_of_an_image_does_not_depend_on_its_place_on_this_machine(tmp_path: Path) -> None:
    """The program of a virtual environment may be a copy of the interpreter or a link to it."""
    library, environment = tmp_path / "lib/python3.11", tmp_path / "checkout/.venv/bin"
    for folder in (library / "__pycache__", library / "site-packages", environment):
        folder.mkdir(parents=True)
    (library / "os.py").touch()
    (library / "site-packages/other.py").touch()
    (environment / "copy").hardlink_to(_a_program(tmp_path))
    (environment / "link").symlink_to(tmp_path / "program")
    for name in ("copy", "link"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            add_python(archive, environment / name, library)
        with tarfile.open(tmp_path / f"{name}.tar") as archive:
            assert archive.getnames() == [
                "usr/local/bin/python3",
                "usr/local/lib/python3.11",
                "usr/local/lib/python3.11/os.py",
            ]
            assert archive.getmember("usr/local/bin/python3").isreg()


def _a_program(folder: Path) -> Path:
    path = folder / "program"
    path.write_bytes(Path(sys.executable).read_bytes()[:64])
    os.chmod(path, 0o755)
    return path
