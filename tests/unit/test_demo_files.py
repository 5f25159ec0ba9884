"""Files that the demo sends."""

import base64
import os
from pathlib import Path

from deploy.demo.tour import FOLDERS, MAX_FILE_BYTES, collect


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"I am {name}")


def test_kinds_take_turns(tmp_path: Path) -> None:
    write(tmp_path, *(f"a/{number}.py" for number in range(50)), "a/one.c", "a/two.h", "b/three.png")
    kinds = [Path(file["name"]).suffix for file in collect(8, [tmp_path])]
    assert sorted(kinds[:4]) == [".c", ".h", ".png", ".py"]
    assert kinds[4:] == [".py"] * 4


def test_the_choice_is_the_same_every_time(tmp_path: Path) -> None:
    write(tmp_path, *(f"{folder}/{number}.txt" for folder in "abc" for number in range(30)))
    assert collect(20, [tmp_path]) == collect(20, [tmp_path])


def test_nothing_hidden_linked_special_large_or_empty_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a/good.txt", ".hidden/x.txt", "a/.env", "a/__pycache__/x.pyc", "__pycache__/y.pyc")
    write(tmp_path, "outside/secret.txt")
    (root / "a" / "link.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    (root / "linked").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "a" / "pipe.txt")
    (root / "a" / "empty.txt").touch()
    (root / "a" / "large.txt").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (root / "a" / "full.txt").write_bytes(b"x" * MAX_FILE_BYTES)
    (root / "a" / "bell\x07.txt").write_text("a name that a terminal would obey")
    found = {file["name"]: base64.b64decode(file["content"]) for file in collect(9, [root])}
    assert found == {"good.txt": b"I am a/good.txt", "full.txt": b"x" * MAX_FILE_BYTES}


def test_a_folder_that_is_missing_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "here/one.txt")
    assert len(collect(1, [tmp_path / "nowhere", tmp_path / "here"])) == 1


def test_nothing_private_is_looked_at() -> None:
    assert Path.home() not in FOLDERS
    assert not any(folder == Path("/etc") or Path("/etc") in folder.parents for folder in FOLDERS)
    project = Path(__file__).resolve().parents[2]
    assert project not in FOLDERS


def test_this_machine_has_enough_files_of_many_kinds() -> None:
    files = collect(120)
    assert len(files) == 120
    assert len({Path(file["name"]).suffix for file in files}) > 5
