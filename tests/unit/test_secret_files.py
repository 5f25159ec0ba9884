"""A secret may be in a file that a variable names, for every secret of every process."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from queue_engine.config.agent import AgentSettings
from queue_engine.config.base import ProcessSettings, secret_fields
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings
from queue_engine.config.shared import StoreSettings
from queue_engine.crypto.secret_files import MAX_SECRET_FILE_BYTES, secret_from

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
VALUES = {
    "secret_key": KEY,
    "secret_key_previous": KEY,
    "endpoint_key": KEY,
    "api_key": "a-first-key",
    "token": f"qea_1_{'t' * 43}",
}
PROCESSES = [ApiSettings, ControllerSettings, DeliverySettings, StoreSettings, AgentSettings]


@pytest.mark.parametrize("kind", PROCESSES)
def test_every_secret_of_every_process_can_be_in_a_file(
    kind: type[ProcessSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, secrets = kind.model_config["env_prefix"], secret_fields(kind)
    assert {"redis_url", "secret_key", "secret_key_previous"} <= set(secrets)
    for name in secrets:
        path = tmp_path / name
        path.write_text(f"\n {VALUES.get(name, 'redis://127.0.0.1:1/7')} \n")
        monkeypatch.setenv(f"{prefix}{name.upper()}_FILE", str(path))
    monkeypatch.setenv("WORKER_AGENT_ENDPOINT", "1")
    found = kind()
    for name in secrets:
        secret = getattr(found, name)
        assert isinstance(secret, SecretStr)
        assert secret.get_secret_value() == VALUES.get(name, "redis://127.0.0.1:1/7")


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_secret_that_is_given_in_both_forms_is_an_error_that_names_both(
    kind: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{kind.model_config['env_prefix']}SECRET_KEY"
    monkeypatch.setenv(name, KEY)
    monkeypatch.setenv(f"{name}_FILE", "/nowhere")
    with pytest.raises(ValueError, match=f"^{name} and {name}_FILE are both set: set only one of them$"):
        kind()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"", "{path} is empty"),
        (b" \n\n", "{path} is empty"),
        (b"\xff", "{path} is not text in UTF-8"),
        (b"x" * (MAX_SECRET_FILE_BYTES + 1), "{path} is longer than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_secret_is_an_error_that_names_variable_and_file(
    content: bytes | None, rule: str, tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="X_FILE") as caught:
        secret_from({"X_FILE": str(path)}, "X")
    assert str(caught.value) == f"X_FILE: {rule.format(path=path)}"


def test_an_empty_variable_counts_as_absent() -> None:
    assert secret_from({"X": "", "X_FILE": ""}, "X") is None
    assert secret_from({"X": "a", "X_FILE": ""}, "X") == "a"
    assert secret_from({}, "X") is None
