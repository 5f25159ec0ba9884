"""Which files the demo takes."""

import os
from pathlib import Path

import pytest

from deploy.demo.files import MAX_BYTES, NotEnoughFiles, SampleFile, collect, default_roots


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"I am {name}")


def names(files: list[SampleFile]) -> set[str]:
    return {file.name for file in files}


def test_kinds_take_turns(tmp_path: Path) -> None:
    write(tmp_path, *(f"a/{number}.py" for number in range(50)), "a/one.c", "a/two.h", "b/three.png")
    kinds = [Path(file.name).suffix for file in collect(8, [tmp_path])]
    assert sorted(kinds[:4]) == [".c", ".h", ".png", ".py"]
    assert kinds[4:] == [".py"] * 4


def test_the_most_frequent_kinds_come_first(tmp_path: Path) -> None:
    write(tmp_path, *(f"a/{number}.py" for number in range(3)), *(f"a/{number}.k{number:03}" for number in range(60)))
    assert Path(collect(1, [tmp_path])[0].name).suffix == ".py"


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
    (root / "a" / "large.txt").write_bytes(b"x" * (MAX_BYTES + 1))
    (root / "a" / "full.txt").write_bytes(b"x" * MAX_BYTES)
    (root / "a" / "bell\x07.txt").write_text("a name that a terminal would obey")
    assert names(collect(2, [root])) == {"a/good.txt", "a/full.txt"}
    with pytest.raises(NotEnoughFiles, match="only 2 files that fit, not 3"):
        collect(3, [root])


def test_the_same_content_is_taken_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("the same")
    with pytest.raises(NotEnoughFiles, match="only 1 "):
        collect(2, [tmp_path])


def test_a_root_that_is_missing_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "here/one.txt")
    assert len(collect(1, [tmp_path / "nowhere", tmp_path / "here"])) == 1


def test_nothing_private_is_looked_at() -> None:
    roots = default_roots()
    assert Path.home() not in roots
    assert not any(root == Path("/etc") or Path("/etc") in root.parents for root in roots)
    project = Path(__file__).resolve().parents[2]
    assert project not in roots


def test_this_machine_has_enough_files_of_many_kinds() -> None:
    files = collect(120)
    assert len({file.content for file in files}) == 120
    assert len({Path(file.name).suffix for file in files}) > 5
    assert all(0 < len(file.content) <= MAX_BYTES for file in files)
