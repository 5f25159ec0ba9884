"""The token of an agent in a file that is replaced while the agent runs."""

import logging
import os
from pathlib import Path

import pytest

from queue_engine.net.reloaded_files import CHECK_SECONDS
from worker_agent.server.token import Token


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    os.replace(draft, path)


def only_tokens(text: str) -> None:
    if not text.startswith("token"):
        raise ValueError("must be a token")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "token"
    made.write_text("token 1\n")
    return made


def test_a_replaced_file_is_read_again(path: Path) -> None:
    clock = Clock()
    token = Token("token 1", path, monotonic=clock)
    replace(path, "token 2\n")
    assert token.current() == "token 1"
    clock.now += CHECK_SECONDS
    assert token.current() == "token 2"


def test_a_refused_token_is_read_again_at_once(path: Path) -> None:
    token = Token("token 1", path, monotonic=Clock())
    assert token.after_refusal("token 1") is None
    replace(path, "token 2")
    assert token.after_refusal("token 1") == "token 2"
    assert token.after_refusal("token 2") is None


def test_a_file_with_something_else_is_not_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    token = Token("token 1", path, check=only_tokens, monotonic=clock)
    replace(path, "an API key")
    clock.now += CHECK_SECONDS
    with caplog.at_level(logging.WARNING):
        assert token.current() == "token 1"
    assert token.after_refusal("token 1") is None
    assert "WORKER_AGENT_TOKEN_FILE" in caplog.text
    assert "an API key" not in caplog.text


def test_a_token_that_is_in_no_file_stays() -> None:
    token = Token("token 1")
    assert token.current() == "token 1"
    assert token.after_refusal("token 1") is None
