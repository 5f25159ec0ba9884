"""The settings of an agent that say how it reaches the engine: the store, or the API with a token."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from pydantic import ValidationError

from queue_engine.config.agent import AgentSettings
from queue_engine.config.names import AGENT_PREFIX

TOKEN = f"qea_1_{'t' * 43}"
STORE = "redis://:secret@127.0.0.1:1/0"


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> AgentSettings:
    for name, value in {"endpoint": "1", **variables}.items():
        monkeypatch.setenv(AGENT_PREFIX + name.upper(), value)
    return AgentSettings()


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(ValidationError) as refused:
        settings(monkeypatch, **variables)
    return "; ".join(str(fault["msg"]) for fault in refused.value.errors())


@pytest.mark.parametrize(
    ("variables", "rule"),
    [
        ({}, "--server (WORKER_AGENT_SERVER) or --redis-url (WORKER_AGENT_REDIS_URL) is required"),
        ({"server": "https://api", "token": TOKEN, "redis_url": STORE}, "are both set: set only one of them"),
        ({"server": "https://api"}, "needs a token: set WORKER_AGENT_TOKEN, or --token-file"),
        ({"server": "http://api.example", "token": TOKEN}, "must begin with https://"),
        ({"server": "api.example", "token": TOKEN}, "must be https://<host>"),
        ({"server": "https://api", "token": "qe_an-api-key"}, "must be an agent token"),
        ({"server": "https://api", "token": f"qea_2_{'t' * 43}"}, "is a token of endpoint 2, not 1"),
        ({"server": "https://api", "token": f"qea_1-ab_{'t' * 43}", "worker_id": "1-cd"}, "of worker 1-ab, not 1-cd"),
        ({"redis_url": STORE, "advertise_host": "auto"}, "auto needs WORKER_AGENT_SERVER"),
        ({"redis_url": STORE, "advertise_host": "a host"}, "must be `auto`, a host name, or an IP address"),
    ],
)
def test_a_way_that_cannot_be_used_is_refused_with_its_rule(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rule: str
) -> None:
    said = refusal(monkeypatch, **variables)
    assert rule in said
    assert "t" * 43 not in said


def test_an_agent_with_a_token_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, server="https://api.example:8443", token=TOKEN, advertise_host="auto")
    assert found.server == "https://api.example:8443"
    assert found.own_secrets() == (TOKEN,)
    assert TOKEN not in repr(found)


def test_plain_http_is_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, server="http://127.0.0.1:8000", token=TOKEN).server == "http://127.0.0.1:8000"


def test_plain_http_to_a_gateway_is_for_container_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway of any other machine is a router, and the token would leave the machine in clear text."""
    monkeypatch.setattr("queue_engine.config.agent.default_gateways", lambda: {ip_address("192.168.0.1")})
    way = {"server": "http://192.168.0.1:8003", "token": TOKEN}
    assert "must begin with https://" in refusal(monkeypatch, **way)
    assert settings(monkeypatch, **way, container_network="true").server == way["server"]
    assert "must begin with https://" in refusal(monkeypatch, **way | {"server": "http://192.168.0.2:8003"})


def test_the_token_of_a_worker_is_for_that_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"qea_1-ab_{'t' * 43}\n")
    found = settings(monkeypatch, server="https://api", token_file=str(path), worker_id="1-ab")
    assert found.token is not None
    assert found.token.get_secret_value() == path.read_text().strip()
