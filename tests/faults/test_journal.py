"""What a killed process wrote is still there, but for a line that was cut."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from queue_engine.net.listening import bind
from tests.faults.journal import Journal, JournalOverTcp, JournalReader, JournalServer, read_journal
from tests.waiting import wait_until


def test_records_come_back_in_order_with_both_clocks(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        written = [journal.write("begin", task="a"), journal.write("end", task="a", how="ok")]
    assert read_journal(tmp_path / "j") == written
    assert written[0]["mono"] <= written[1]["mono"]
    assert written[0]["wall"] > 1e9


def test_no_file_is_an_empty_journal(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none") == []


def test_a_cut_line_is_left_out_and_what_another_process_wrote_behind_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.write("one")
        with path.open("ab") as torn:
            torn.write(b'{"what":"cut","ta')
        journal.write("two")
        with path.open("ab") as torn:
            torn.write(b'{"what":"cut')
    assert [record["what"] for record in read_journal(path)] == ["one", "two"]


def test_a_reader_of_a_growing_journal_has_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    reader = JournalReader(path)
    assert reader.records() == []
    with Journal(path) as journal:
        journal.write("one")
        assert reader.records() == read_journal(path)
        with path.open("ab") as torn:
            torn.write(b'{"what":"cut","ta')
        assert reader.records() == read_journal(path)
        journal.write("two")
        journal.write("three")
    assert [record["what"] for record in reader.records()] == ["one", "two", "three"]
    assert reader.records() == read_journal(path)


def _write_without_end(path: Path) -> None:
    journal = Journal(path)
    number = 0
    while True:
        number += 1
        journal.write("n", number=number, filling="x" * 200)


def test_a_writer_that_is_killed_leaves_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "j"
    writer = multiprocessing.get_context("spawn").Process(target=_write_without_end, args=(path,))
    writer.start()
    wait_until(lambda: len(read_journal(path)) > 100)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    numbers = [record["number"] for record in read_journal(path)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_record_over_tcp_is_in_the_file_when_its_call_returns(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener, JournalServer(listener, tmp_path / "j"):
        journal = JournalOverTcp(*listener.getsockname())
        written = [journal.write("begin", task=f"t{number}") for number in range(20)]
        assert read_journal(tmp_path / "j") == written
    with pytest.raises(ConnectionError):
        journal.write("end")
    journal.close()
