"""The controller gives its agents the credentials of their endpoint, and names at start what is not isolated."""

from typing import Any

import pytest
from pydantic import SecretStr

from queue_engine.cli.serve_controller import agent_environment, warn_of_shared_user
from queue_engine.config.engine import ControllerSettings
from queue_engine.crypto.sealing import endpoint_keys_text, new_secret_key, parse_secret_key

NEW, OLD = new_secret_key(), new_secret_key()
AGENTS_URL = "redis://agent:x@127.0.0.1:1/0"


def settings(**given: str) -> ControllerSettings:
    secrets: dict[str, Any] = {name: SecretStr(value) for name, value in given.items()}
    return ControllerSettings(**secrets)


def test_an_agent_gets_the_keys_of_its_endpoint_and_no_secret_key() -> None:
    variables = agent_environment(settings(secret_key=NEW, secret_key_previous=OLD, agent_redis_url=AGENTS_URL))
    for endpoint_id in ("7", "8"):
        found = variables(endpoint_id)
        keys = endpoint_keys_text([parse_secret_key(NEW), parse_secret_key(OLD)], endpoint_id)
        assert found["WORKER_AGENT_ENDPOINT_KEY"] == keys
        assert found["WORKER_AGENT_REDIS_URL"] == AGENTS_URL
        assert not [name for name, value in found.items() if NEW in value or OLD in value]


def test_without_a_secret_key_there_is_no_key_of_an_endpoint() -> None:
    assert "WORKER_AGENT_ENDPOINT_KEY" not in agent_environment(settings())("7")


def test_without_a_url_for_agents_they_have_the_engines_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    shared = settings(redis_url="redis://:x@127.0.0.1:1/0")
    assert agent_environment(shared)("7")["WORKER_AGENT_REDIS_URL"] == "redis://:x@127.0.0.1:1/0"
    warn_of_shared_user(settings(agent_redis_url=AGENTS_URL))
    assert caplog.records == []
    warn_of_shared_user(shared)
    (record,) = caplog.records
    assert "QUEUE_ENGINE_AGENT_REDIS_URL" in record.getMessage()
