"""The tests' own store server: it comes back on its port, and it can be frozen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import StoreServer, StoreServerError, valkey_binary
from tests.waiting import wait_until, wait_until_async


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(valkey_binary(), tmp_path) as started:
        yield started


def test_a_killed_server_starts_again_on_the_same_port_without_its_data(server: StoreServer) -> None:
    url = server.url
    assert server.command("SET", "key", "value") == "+OK"

    server.kill()
    assert not server.running
    server.start()

    assert server.url == url
    assert server.command("DBSIZE") == ":0"


def test_options_come_after_the_defaults(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with StoreServer(valkey_binary(), tmp_path, options=options) as server:
        server.command("SET", "key", "value")
        server.kill()
        server.start()
        assert server.command("GET", "key") == "value"


def test_a_paused_server_responds_again_when_it_is_emptied(server: StoreServer) -> None:
    server.command("SET", "key", "value")
    server.pause()
    assert server.running
    server.empty()
    assert server.command("DBSIZE") == ":0"


def test_stopping_ends_a_paused_server(server: StoreServer) -> None:
    server.pause()
    server.stop()
    server.stop()
    assert not server.running
    with pytest.raises(StoreServerError):
        server.pause()


def test_a_server_that_refuses_its_options_says_why(tmp_path: Path) -> None:
    server = StoreServer(valkey_binary(), tmp_path, options=("--no-such-option", "1"))
    with pytest.raises(StoreServerError, match="no-such-option"):
        server.start()
    assert not server.running


def test_waiting_returns_the_result_and_names_the_missing_condition() -> None:
    assert wait_until(lambda: "there") == "there"
    with pytest.raises(AssertionError, match="no answer yet"):
        wait_until(lambda: None, 0.02, "no answer yet")


async def test_waiting_takes_plain_and_async_conditions() -> None:
    answers = iter([0, 0, 7])

    async def answer() -> int:
        return next(answers)

    assert await wait_until_async(answer) == 7
    assert await wait_until_async(lambda: "there") == "there"
    with pytest.raises(AssertionError, match="no answer yet"):
        await wait_until_async(lambda: False, 0.02, "no answer yet")


async def test_a_time_out_of_the_condition_itself_is_passed_on() -> None:
    def fails() -> bool:
        raise TimeoutError("the condition's own")

    with pytest.raises(TimeoutError, match="the condition's own"):
        await wait_until_async(fails)
