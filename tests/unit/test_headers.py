"""Which headers may be forwarded, and which of their values are shown."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.rules.headers import (
    MASK,
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    headers_error,
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
    assert headers_error({name: value}) is None


@pytest.mark.parametrize(
    "name",
    [
        "Transfer-Encoding",
        "Content-Length",
        "Host",
        "Connection",
        "Proxy",
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
        "X-Forwarded",
        "Sec-WebSocket-Key",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Script-Name",
        "X-Accel-Mapping",
        "CF-Connecting-IP",
        "Fastly-Client-IP",
        "True-Client-IP",
        "X-Azure-ClientIP",
        "X-Original-Forwarded-For",
        "X-Vercel-Forwarded-For",
        "Ali-CDN-Real-IP",
        "Incap-Client-IP",
        "Real-IP",
        "X-Client-IP",
        "X-True-Client-IP",
        "X-Cluster-Client-IP",
        "WL-Proxy-Client-IP",
        "DO-Connecting-IP",
        "X-Forward-For",
        "X-Real-Host",
        "X-Original-Path",
        "X-Rewrite-Path",
        "X-Request-Uri",
        "X-Envoy-Original-Path",
        "X-Envoy-Max-Retries",
        "X-Url-Scheme",
        "Content-Encoding",
        "X-Task-Id",
        "X-Endpoint-Id",
        "X-Task-Attempt",
    ],
)
@pytest.mark.parametrize(
    "spell",
    [str, str.lower, str.upper, lambda name: name.replace("-", "_"), lambda name: name.replace("-", ".")],
    ids=["as it is", "lower case", "upper case", "underscores", "dots"],
)
def test_framing_routing_and_our_own_headers_are_refused_by_name_in_every_spelling(
    name: str, spell: Callable[[str], str]
) -> None:
    error = headers_error({spell(name): "x"})
    assert error is not None
    assert repr(spell(name)) in error


@pytest.mark.parametrize(
    "name",
    ["X-Amzn-Trace-Id", "X-Amzn-Oidc-Data", "Cf-Ray", "Cf-Access-Jwt-Assertion", "CDN-Loop", "traceparent", "X_Trace"],
)
def test_tracing_and_identity_headers_pass(name: str) -> None:
    assert headers_error({name: "x"}) is None


@pytest.mark.parametrize("name", ["Content_Type", "content.type", "CONTENT_TYPE"])
def test_a_content_type_that_a_server_may_read_beside_the_agents_is_refused(name: str) -> None:
    error = headers_error({name: "text/plain"})
    assert error is not None
    assert "Content-Type" in error


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a:", ":authority", "a\n", "a\r\nb", "a\x00", "é", "a(b)", "a,b", '"a"', "a" * 257]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    assert headers_error({name: "x"}) is not None


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
    error = headers_error({"X-Trace": value})
    assert error is not None
    assert "X-Trace" in error
    assert "canary" not in error


@pytest.mark.parametrize("other", ["x-trace", "X_Trace", "x_TRACE", "X.Trace"])
def test_names_that_a_server_may_not_tell_apart_are_refused(other: str) -> None:
    error = headers_error({"X-Trace": "1", other: "2"})
    assert error is not None
    assert "twice" in error


def test_there_is_a_limit_to_how_many() -> None:
    assert headers_error({f"x-{index}": "" for index in range(MAX_HEADERS)}) is None
    assert headers_error({f"x-{index}": "" for index in range(MAX_HEADERS + 1)}) is not None


def test_there_is_a_limit_to_their_size() -> None:
    assert headers_error({"x": "a" * (MAX_HEADERS_BYTES - 1)}) is None
    assert headers_error({"x": "a" * MAX_HEADERS_BYTES}) is not None


@given(st.text(), st.text())
def test_what_passes_can_be_put_on_the_wire(name: str, value: str) -> None:
    if headers_error({name: value}) is None:
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
        "X_Api_Key",
        "X-Session-Id",
        "PHPSESSID",
        "X-Amz-Credential",
        "X-Hub-Signature-256",
        "X_Signature",
        "X-Hmac",
        "X-Passwd",
        "X_Passphrase",
        "X-CSRF",
        "X-Jwt",
        "DPoP",
        "X-Pin",
        "x_otp",
        "X-Sid",
        "Cf-Access-Jwt-Assertion",
    ],
)
def test_values_that_may_be_secrets_are_masked(name: str) -> None:
    assert is_secret_name(name)
    assert masked({name: "canary", "Accept": "*/*"}) == {name: MASK, "Accept": "*/*"}


@pytest.mark.parametrize(
    "name", ["Accept", "Content-Type", "X-Trace", "X-Opinion", "X-Design", "X-Sidecar", "X-Compass"]
)
def test_other_values_are_shown(name: str) -> None:
    assert masked({name: "shown"}) == {name: "shown"}
