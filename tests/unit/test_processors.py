"""How many processors a process may use, with control groups made of files."""

import os
import sys
from pathlib import Path

import pytest

from queue_engine.backends.process import STARTS_PER_CPU, ProcessBackend
from queue_engine.processes.processors import usable_processors

ALL = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def in_groups(directory: Path, own: str, **files: str) -> int:
    for name, text in files.items():
        path = directory / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "own").write_text(own)
    return usable_processors(directory / "groups", directory / "own")


@pytest.mark.parametrize(
    ("own", "files", "processors"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
        ("0::/../outside\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, ALL),
        ("0::/\n", {"cpu.max": f"{1000 * ALL}00000 100000\n"}, ALL),
        ("0::/\n", {"cpu.max": "broken"}, ALL),
        ("broken\n", {}, ALL),
        (
            "3:cpu,cpuacct:/a\n2:memory:/\n",
            {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("3:cpu:/outside\n", {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, ALL),
    ],
)
def test_a_quota_below_the_affinity_counts(tmp_path: Path, own: str, files: dict[str, str], processors: int) -> None:
    assert in_groups(tmp_path, own, **files) == processors


@pytest.mark.skipif(ALL < 2, reason="one processor")
def test_a_part_of_a_processor_is_rounded_up(tmp_path: Path) -> None:
    assert in_groups(tmp_path, "0::/\n", **{"cpu.max": "110000 100000"}) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no affinity")
def test_the_affinity_counts(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_processors(tmp_path, tmp_path / "none") == 1
        assert ProcessBackend(tmp_path, instance_id="one", environment={}).max_starting == STARTS_PER_CPU
    finally:
        os.sched_setaffinity(0, before)
