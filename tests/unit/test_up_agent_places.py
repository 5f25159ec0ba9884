"""`up` gives its processes the address at which agents in containers reach the API."""

from pathlib import Path

from queue_engine.local.up import AGENT_PORT_OFFSET, UpOptions, _Stack


def variables_of(role: str, **given: str) -> dict[str, str]:
    """Return the variables for agents, and the own ports, of a process of `up` on port 9000."""
    options = UpOptions("127.0.0.1", 9000, Path("data"), None, given)
    environment = _Stack(options, lambda _: None)._environment(role, "redis://x", "key", "key", {"delivery": 9002})
    names = ("AGENT_HOST", "AGENT_PORT", "AGENT_URL", "OWN_PORTS")
    return {name: environment[f"QUEUE_ENGINE_{name}"] for name in names if f"QUEUE_ENGINE_{name}" in environment}


def test_without_an_address_for_agents_there_is_no_url() -> None:
    assert variables_of("api") == {"OWN_PORTS": "9000,9002,"}


def test_all_processes_have_the_address_and_the_port_after_those_of_the_metrics() -> None:
    port = str(9000 + AGENT_PORT_OFFSET)
    for role in ("api", "controller", "delivery"):
        assert variables_of(role, QUEUE_ENGINE_AGENT_HOST="10.88.0.1") == {
            "AGENT_HOST": "10.88.0.1", "AGENT_PORT": port, "AGENT_URL": f"http://10.88.0.1:{port}",
            "OWN_PORTS": f"9000,9002,{port},",
        }  # fmt: skip


def test_a_configured_port_and_url_have_precedence() -> None:
    given = {"QUEUE_ENGINE_AGENT_HOST": "fd00::1", "QUEUE_ENGINE_AGENT_PORT": "7000"}
    assert variables_of("controller", **given)["AGENT_URL"] == "http://[fd00::1]:7000"
    found = variables_of("controller", **given, QUEUE_ENGINE_AGENT_URL="https://engine.example")
    assert (found["AGENT_PORT"], found["AGENT_URL"]) == ("7000", "https://engine.example")
