"""Values of settings that no process may start with, and what is said of them."""

from typing import get_args

import pytest
from pydantic import ValidationError

from queue_engine.config.agent import AgentSettings
from queue_engine.config.base import ProcessSettings, variable_of
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings

CLASSES = (ApiSettings, DeliverySettings, ControllerSettings, AgentSettings)
FLOATS = [
    (settings, name)
    for settings in CLASSES
    for name, field in settings.model_fields.items()
    if float in (field.annotation, *get_args(field.annotation))
]


def said(settings: type[ProcessSettings], name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is said of a value that is refused."""
    monkeypatch.setenv(variable_of(settings, name), value)
    with pytest.raises(ValidationError) as refused:
        settings()
    return "; ".join(fault["msg"] for fault in refused.value.errors() if fault["loc"][0] == name)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
@pytest.mark.parametrize(("settings", "name"), FLOATS)
def test_a_number_must_be_finite(
    settings: type[ProcessSettings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(settings, name, value, monkeypatch)


def test_there_are_numbers_to_try() -> None:
    assert {settings for settings, _ in FLOATS} == set(CLASSES)


@pytest.mark.parametrize("value", ["1,x", "8000.5", "0", "65536", "-1"])
def test_ports_are_named_with_their_rule(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must be ports" in said(ApiSettings, "own_ports", value, monkeypatch)


@pytest.mark.parametrize("value", ["0.0.0.0", "::", "93.184.216.34", "2001:4860::8"])
def test_the_address_for_agents_must_be_private(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must be a private address" in said(ApiSettings, "agent_host", value, monkeypatch)


@pytest.mark.parametrize("value", ["http://0.0.0.0:8003", "http://93.184.216.34", "http://engine.example", "10.88.0.1"])
def test_the_url_for_agents_is_https_or_at_a_private_address(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must b" in said(ControllerSettings, "agent_url", value, monkeypatch)


@pytest.mark.parametrize("value", ["1,soon", "1,,x", "1;2"])
def test_a_schedule_is_named_with_its_rule(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "must be seconds, separated by commas" in said(DeliverySettings, "delivery_schedule", value, monkeypatch)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("namespace", "Workers", "must be up to 63 lower-case letters"),
        ("service_account", "a b", "must be up to 253 lower-case letters"),
        ("pull_secrets", "a,B", "must be up to 253 lower-case letters"),
        ("pull_policy", "always", "'Always', 'IfNotPresent' or 'Never'"),
        ("pod_security", "privileged", "'baseline' or 'restricted'"),
        ("volume_path", "data", "must be an absolute path"),
        ("volume_path", "/a/../b", "must be an absolute path"),
        ("tolerations", "gpu", "must be a JSON array"),
        ("tolerations", '[{"key": "a", "effect": "Never"}]', "[0].effect: "),
        ("tolerations", '[{"keys": "a"}]', "[0].keys: "),
        ("annotations", "[]", "the text: "),
        ("annotations", '{"a b": "c"}', "a b: must be the key of a label"),
        ("annotations", '{"a": 1}', "a: "),
        ("force_delete_after_seconds", "-1", "greater than or equal to 0"),
    ],
)
def test_a_setting_of_pods_is_named_with_its_rule(
    name: str, value: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"QUEUE_ENGINE_KUBERNETES_{name.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        ControllerSettings()
    [fault] = refused.value.errors()
    assert fault["loc"][0] == f"kubernetes_{name}"
    assert rule in fault["msg"]


@pytest.mark.parametrize("value", ["<b>", "-live", "a" * 33, "production\n", "production "])
def test_the_name_of_the_installation_is_a_short_word(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(ApiSettings, "environment", value, monkeypatch)


@pytest.mark.parametrize(
    "value",
    [
        "javascript:{traceId}",
        "https://traces.example",
        "//traces.example/{traceId}",
        "https://a b/{traceId}",
        "https://a/\x01{traceId}",
    ],
)
def test_the_url_of_a_trace_is_a_web_address_with_its_id(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(ApiSettings, "trace_url", value, monkeypatch)
