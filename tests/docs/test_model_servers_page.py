"""The commands of the page for workers start the model servers as their tests do."""

import json
import shlex
from itertools import pairwise

import pytest

from tests.docs.pages import page
from tests.model_servers.servers import SERVERS, ModelServer

PAGE = page("docs/guides/write-a-worker.md")
PREFIX = "cd $PROJECT && export PATH=$VENV/bin:$PATH && "
OF_PAGE = [server for server in SERVERS if server.name != "flask"]
"""Flask is an example of this repository."""


def commands() -> list[list[str]]:
    """Return the words of each command in the block about model servers."""
    [text] = [block.text for block in PAGE.blocks if "PROJECT=" in block.text]
    lines = text.replace("\\\n", " ").replace("\\$", "$").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def options(words: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(words) if option == name]


@pytest.mark.parametrize("server", OF_PAGE, ids=lambda server: server.name)
def test_the_endpoint_of_a_model_server_is_the_tested_one(server: ModelServer) -> None:
    start = ["queue-engine", "endpoints", "create", "--name", server.name]
    [words] = [one for one in commands() if one[:5] == start]
    assert options(words, "--command") == [PREFIX + server.command.replace('"', "")]
    assert options(words, "--env-plain") == [f"{name}={value}" for name, value in server.environment.items()]
    assert options(words, "--ready-path") == [server.ready_path] * (server.ready_path is not None)
    assert options(words, "--retry-on") == server.settings.get("retryOn", [])
    assert server.settings.keys() <= {"retryOn"}


@pytest.mark.parametrize("server", OF_PAGE, ids=lambda server: server.name)
def test_the_task_of_a_model_server_is_the_tested_one(server: ModelServer) -> None:
    [words] = [one for one in commands() if one[:4] == ["queue-engine", "tasks", "submit", server.name]]
    assert options(words, "--path") == [server.process_uri]
    assert [json.loads(text) for text in options(words, "--input")] == [server.input]
