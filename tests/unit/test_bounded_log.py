import os
import subprocess
from pathlib import Path

import pytest

from queue_engine.processes.bounded_log import BoundedLog

LIMIT = 1000


@pytest.fixture
def log(tmp_path: Path) -> BoundedLog:
    return BoundedLog(tmp_path / "logs" / "w.log", limit_bytes=LIMIT)


def write(log: BoundedLog, text: str | bytes) -> None:
    with os.fdopen(log.open(), "wb") as output:
        output.write(text.encode() if isinstance(text, str) else text)


def older(log: BoundedLog) -> Path:
    return log.path.with_name("w.log.1")


def test_a_file_under_the_limit_is_left_alone(log: BoundedLog) -> None:
    write(log, "x" * LIMIT)
    log.trim()
    assert log.path.read_text() == "x" * LIMIT
    assert not older(log).exists()


def test_a_file_above_the_limit_keeps_its_end_in_the_second_file(log: BoundedLog) -> None:
    write(log, "a" * LIMIT + "b" * (LIMIT - 1) + "\n")
    log.trim()
    assert log.path.read_text() == ""
    assert older(log).read_text() == "b" * (LIMIT - 1) + "\n"


def test_a_writer_goes_on_at_the_new_end(log: BoundedLog) -> None:
    with os.fdopen(log.open(), "wb", buffering=0) as output:
        output.write(b"x" * 5000)
        log.trim()
        output.write(b"next\n")
    assert log.path.read_text() == "next\n"


def test_a_child_writes_to_it_directly(log: BoundedLog) -> None:
    fd = log.open()
    subprocess.run(["/bin/sh", "-c", "echo out; echo err >&2"], stdout=fd, stderr=fd, check=True)
    os.close(fd)
    assert log.last_lines() == ("out", "err")


def test_the_files_are_private(log: BoundedLog) -> None:
    write(log, "x" * 5000)
    log.trim()
    write(log, "x")
    modes = [path.stat().st_mode & 0o777 for path in (log.path.parent, log.path, older(log))]
    assert modes == [0o700, 0o600, 0o600]


def test_a_link_in_its_place_is_not_followed(log: BoundedLog, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    log.path.parent.mkdir()
    log.path.symlink_to(victim)
    with pytest.raises(OSError):
        log.open()
    assert not victim.exists()


def test_the_last_lines_go_back_over_a_cut(log: BoundedLog) -> None:
    write(log, "".join(f"line {number}\n" for number in range(200)))
    log.trim()
    write(log, "after\n")
    assert log.last_lines(3) == ("line 198", "line 199", "after")


def test_the_last_lines_are_bounded_and_always_text(log: BoundedLog) -> None:
    write(log, b"y" * 9_000 + b"\n\n\xff\xfe broken\r\nno end")
    assert log.last_lines() == ("y" * 1000, "\ufffd\ufffd broken", "no end")


def test_the_last_lines_begin_where_the_log_was_begun(log: BoundedLog) -> None:
    write(log, "of the former process\n")
    log.begin()
    assert log.last_lines() == ()
    write(log, "first\nsecond\n")
    assert log.last_lines() == ("first", "second")


def test_the_last_lines_of_a_begun_log_are_new_ones_after_a_truncation(log: BoundedLog) -> None:
    write(log, "of the former process\n" * 5)
    log.begin()
    write(log, "x" * 2 * LIMIT)
    log.trim()
    write(log, "after\n")
    assert log.last_lines() == ("after",)


def test_a_log_that_is_begun_without_a_file_has_all_lines(log: BoundedLog) -> None:
    log.begin()
    write(log, "first\n")
    assert log.last_lines() == ("first",)


def test_a_missing_file_has_no_lines_and_is_no_error(log: BoundedLog) -> None:
    log.trim()
    assert log.last_lines() == ()
    log.remove()


def test_a_file_that_cannot_be_kept_is_cut_all_the_same(log: BoundedLog) -> None:
    write(log, "x" * 5000)
    older(log).mkdir()
    log.trim()
    assert log.path.read_text() == ""


def test_removed_means_both_files(log: BoundedLog) -> None:
    write(log, "x" * 5000)
    log.trim()
    log.remove()
    assert list(log.path.parent.iterdir()) == []
