"""deploy/redis/valkey.conf, loaded by real servers as the compose file starts them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from queue_engine.config.store_users import acl_lines, rules_of
from tests.deploy.programs import DEPLOY
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until

CONFIGURATION = DEPLOY / "redis/valkey.conf"
PASSWORD = "password-of-a-test"
USERS = ("engine", "agent", "metrics")


@pytest.fixture
def port(store_server: StoreServer, tmp_path: Path) -> Iterator[int]:
    """The port of a server with this configuration, whose data are in a folder of the test."""
    users, configuration, log = tmp_path / "users.acl", tmp_path / "valkey.conf", tmp_path / "log"
    users.write_text("".join(f"{line}\n" for line in acl_lines(dict.fromkeys(USERS, PASSWORD))))
    configuration.write_text(CONFIGURATION.read_text().replace("dir /data", f"dir {tmp_path}"))
    chosen = free_port()
    own = ("--port", str(chosen), "--bind", "127.0.0.1", "--aclfile", str(users))
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(store_server.binary), str(configuration), *own], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: server.poll() is not None or answers(chosen), message="the store does not answer")
        assert server.poll() is None, log.read_text()
        yield chosen
    finally:
        server.terminate()
        server.wait()


def answers(port: int) -> bool:
    """Return whether the server takes connections, with or without a password."""
    with redis.Redis(port=port) as client:
        try:
            client.ping()
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False
    return True


def test_the_store_requires_a_user_and_its_password(port: int) -> None:
    for user, password in ((None, None), (None, PASSWORD), ("engine", "other")):
        client = redis.Redis(port=port, username=user, password=password)
        with client, pytest.raises(redis.AuthenticationError):
            client.ping()
    for user in USERS:
        with redis.Redis(port=port, username=user, password=PASSWORD) as client:
            assert client.ping()


def test_the_file_of_users_has_the_rules_of_the_code_and_all_users_are_off() -> None:
    lines = [f"user {user} off {rules_of(user)}" for user in USERS]
    assert (DEPLOY / "redis/users.acl").read_text().splitlines() == ["user default off", *lines]


def test_the_store_writes_to_disk_and_never_evicts(port: int) -> None:
    with redis.Redis(port=port, username="engine", password=PASSWORD) as client:
        settings: Any = client.config_get("*")
        persistence: Any = client.info("persistence")
    assert settings["maxmemory-policy"] == "noeviction"
    assert int(settings["maxmemory"]) == 2 * 1024**3
    assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "everysec", "")
    assert settings["protected-mode"] == "yes"
    assert persistence["aof_enabled"] == 1
