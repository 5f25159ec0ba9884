"""The error of a command on the store, when no store is at the default URL."""

import subprocess
import sys
from pathlib import Path

import pytest

from queue_engine.cli.startup import settings_from
from queue_engine.cli.store_access import URL_OF_UP, hinted
from queue_engine.config.shared import StoreSettings
from queue_engine.config.store_url import DEFAULT_PORT
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.net.ports import is_free
from tests.forked import program_environment

AWAY = StoreUnavailable("it cannot be reached", retry_after_seconds=3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("QUEUE_ENGINE_REDIS_URL", "QUEUE_ENGINE_REDIS_URL_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start_up_in(folder: Path) -> Path:
    """Make the file that `up` makes in a folder."""
    file = folder / URL_OF_UP
    file.parent.mkdir(parents=True)
    file.write_text("redis://127.0.0.1:1/0")
    return file


def test_the_error_names_the_store_of_up_in_this_folder(folder: Path) -> None:
    assert hinted(AWAY, settings_from(StoreSettings)) is AWAY
    start_up_in(folder)
    error = hinted(AWAY, settings_from(StoreSettings))
    assert str(error) == (
        "the store is unavailable: it cannot be reached; for the store of `queue-engine up`, set "
        "QUEUE_ENGINE_REDIS_URL_FILE=queue-engine-data/store/store-url"
    )
    assert error.retry_after_seconds == 3


def test_the_error_of_a_store_that_was_named_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = start_up_in(folder)
    assert hinted(AWAY, settings_from(StoreSettings, redis_url="redis://127.0.0.1:1/0")) is AWAY
    monkeypatch.setenv("QUEUE_ENGINE_REDIS_URL_FILE", str(file))
    assert hinted(AWAY, settings_from(StoreSettings)) is AWAY


@pytest.mark.skipif(not is_free(DEFAULT_PORT), reason="a store listens at the default URL")
def test_a_command_names_the_store_of_up(folder: Path) -> None:
    start_up_in(folder)
    command = [sys.executable, "-m", "queue_engine", "keys", "list"]
    done = subprocess.run(command, cwd=folder, env=program_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"set QUEUE_ENGINE_REDIS_URL_FILE={URL_OF_UP}\n")
