"""The built console and what it is made from: types, files, and the wheel."""

import gzip
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from queue_engine.web.files import STATIC, Files
from tests import console_types

ROOT = Path(__file__).resolve().parents[2]
MAX_PACKED_BYTES = 80_000
"""Goal for all that the first view loads. Parts that a view loads later, such as the charts, do not count."""


def test_the_consoles_types_are_those_of_the_api() -> None:
    assert console_types.FILE.read_text() == console_types.text(), "run `make docs`, then `make web` where node is"


def test_every_file_has_its_compressed_form() -> None:
    files = [path for path in STATIC.iterdir() if path.suffix in (".js", ".css")]
    assert files
    for path in files:
        assert gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()) == path.read_bytes()
    assert {path.suffix for path in STATIC.iterdir()} == {".html", ".js", ".css", ".gz"}


def test_the_first_load_is_small() -> None:
    (main,), (style,) = STATIC.glob("main-*.js"), STATIC.glob("*.css")
    found, left = {style}, {main}
    while left:
        found |= left
        parts = {name for path in left for name in re.findall(r'(?:from|import)"\./(part-\w+\.js)"', path.read_text())}
        left = {STATIC / name for name in parts} - found
    assert len(found) < len(list(STATIC.glob("*.gz"))), "no part is loaded later"
    assert sum(path.with_name(f"{path.name}.gz").stat().st_size for path in found) < MAX_PACKED_BYTES


def test_the_page_names_files_that_exist() -> None:
    files = Files.read("/prefix")
    page = files.page.text.decode()
    named = [part.split('"')[0] for part in page.split("/prefix/console/assets/")[1:]]
    assert len(named) == 2
    assert set(named) <= files.by_name.keys()
    assert "{{" not in page


def test_the_wheel_has_the_built_console_and_no_sources(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("queue_engine", "worker_agent"):
        # node_modules stands for what a checkout has besides: one file, because copying thousands takes long.
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    modules = tree / "queue_engine" / "web" / "app" / "node_modules" / "one"
    modules.mkdir(parents=True)
    (modules / "setup.py").write_text("")
    (modules / "pyproject.toml").write_text("")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = (
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        tmp_path,
        tree,
    )
    made = subprocess.run(build, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    of_console = {name for name in names if name.startswith("queue_engine/web/")}
    static = {f"queue_engine/web/static/{path.name}" for path in STATIC.iterdir()}
    assert {name for name in of_console if not name.endswith(".py")} == static
    assert not [name for name in names if "/app/" in name or "node_modules" in name]
    # The other data of the package.
    assert {"queue_engine/py.typed", "queue_engine/domain/catalogue.toml", "queue_engine/store/lua/claim.lua"} <= set(
        names
    )
