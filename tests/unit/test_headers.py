"""Which headers may be forwarded, and which of their values are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.domain.headers import (
    MASK,
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    headers_fault,
    is_secret_name,
    masked,
)

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer abc.def"),
        ("Cookie", "a=b; c=d"),
        ("X-Trace", ""),
        ("X-Trace", "a\tb c"),
        ("accept", "*/*"),
        ("Content-Type", "application/json"),
        ("x!#$%&'*+-.^_`|~1", "~"),
        ("a" * 256, "1"),
        ("X-Api-Key", "k"),
    ],
)
def test_ordinary_headers_pass(name: str, value: str) -> None:
    assert headers_fault({name: value}) is None


@pytest.mark.parametrize(
    "name",
    [
        "Transfer-Encoding",
        "Content-Length",
        "Host",
        "Connection",
        "Upgrade",
        "Expect",
        "TE",
        "Trailer",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy-Anything",
        "HTTP2-Settings",
        "Forwarded",
        "Via",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Whatever",
        "X-Real-IP",
        "Sec-WebSocket-Key",
        "X-Task-Id",
        "X-Endpoint-Id",
        "X-Task-Attempt",
    ],
)
@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
def test_framing_routing_and_our_own_headers_are_refused_by_name(name: str, spell: type[str]) -> None:
    fault = headers_fault({spell(name): "x"})
    assert fault is not None
    assert name.lower() in fault.lower()


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:", ":authority", "a\n", "a\r\nb", "a\x00", "é", "a(b)", "a,b", '"a"', "a" * 257]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    assert headers_fault({name: "x"}) is not None


@pytest.mark.parametrize(
    "value",
    [
        "canary\r\nb",
        "canary\nb",
        "canary\rb",
        "canary\x00b",
        "\x7f",
        "é",
        "\u00a0",
        " canary",
        "canary ",
        "\tcanary",
        "canary\t",
        " ",
        "\ud800",
        "canary\n",
        "\u2028",
    ],
)
def test_what_is_no_value_is_refused_and_not_repeated(value: str) -> None:
    fault = headers_fault({"X-Trace": value})
    assert fault is not None
    assert "X-Trace" in fault
    assert "canary" not in fault


def test_names_that_differ_in_case_only_are_refused() -> None:
    fault = headers_fault({"X-Trace": "1", "x-trace": "2"})
    assert fault is not None
    assert "twice" in fault


def test_there_is_a_limit_to_how_many() -> None:
    assert headers_fault({f"x-{index}": "" for index in range(MAX_HEADERS)}) is None
    assert headers_fault({f"x-{index}": "" for index in range(MAX_HEADERS + 1)}) is not None


def test_there_is_a_limit_to_their_size() -> None:
    assert headers_fault({"x": "a" * (MAX_HEADERS_BYTES - 1)}) is None
    assert headers_fault({"x": "a" * MAX_HEADERS_BYTES}) is not None


@given(st.text(), st.text())
def test_what_passes_can_be_put_on_the_wire(name: str, value: str) -> None:
    if headers_fault({name: value}) is None:
        line = f"{name}: {value}".encode("ascii")
        assert set(name) <= set(TOKEN_CHARACTERS)
        assert not set(line) & set(b"\r\n\x00")
        assert value == value.strip()


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "X-Api-Key",
        "x-hub-SECRET",
        "Access-Token",
        "X-Auth",
        "Set-Cookie",
        "X-Password",
        "APIKEY",
    ],
)
def test_values_that_may_be_secrets_are_masked(name: str) -> None:
    assert is_secret_name(name)
    assert masked({name: "canary", "Accept": "*/*"}) == {name: MASK, "Accept": "*/*"}
