"""Reading a receiver's answer, of which nothing can be trusted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.delivery.responses import (
    ERROR_TEXTS,
    ERROR_TYPES,
    EXCERPT_BYTES,
    error_type_of_status,
    excerpt_of,
    retry_after_seconds,
)
from queue_engine.net import error_types

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (200, None), (204, None), (299, None),
        (100, "bad_response"), (101, "bad_response"), (199, "bad_response"), (0, "bad_response"),
        (300, "redirect"), (302, "redirect"), (304, "redirect"), (308, "redirect"),
        (400, "http_4xx"), (404, "http_4xx"), (499, "http_4xx"), (410, "gone"), (429, "rate_limited"),
        (500, "http_5xx"), (503, "http_5xx"), (599, "http_5xx"), (999, "http_5xx"),
    ],
)  # fmt: skip
def test_a_status_has_its_word(status: int, error_type: str | None) -> None:
    assert error_type_of_status(status) == error_type


def test_the_words_are_the_closed_set_of_the_metric() -> None:
    assert {
        "dns_error", "connect_refused", "connect_timeout", "tls_error", "read_timeout", "reset", "bad_response",
        "redirect", "gone", "rate_limited", "http_4xx", "http_5xx", "blocked_address", "invalid_request", "internal",
    } == ERROR_TYPES  # fmt: skip


def test_every_error_type_without_a_response_has_its_sentence() -> None:
    assert set(ERROR_TEXTS) == error_types.ERROR_TYPES


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("00120", 120.0),
        ("999999999", 999999999.0),
        ("9" * 13, None),
        ("9" * 5000, None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("1_000", None),
        ("12 ", None),
        ("", None),
        ("soon", None),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:13:00 GMT", None),
        ("Tue, 14 Nov 2023 25:61:00 GMT", None),
        ("Tue, 14 Nov 99999999999 22:13:00 GMT", None),
        ("Tue, 14 Nov 2023 22:13:00 +99999999", None),
        ("Tue Tue Tue Tue Tue Tue", None),
    ],
)
def test_retry_after_is_read_or_ignored_as_invalid(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.one_of(st.text(max_size=40), st.from_regex(r"Mon, [0-9A-Za-z :-]{12,30}", fullmatch=True)))
def test_no_retry_after_breaks_the_reader(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds < 1e12


@given(st.binary(max_size=20_000))
def test_an_excerpt_is_short_and_printable(body: bytes) -> None:
    excerpt = excerpt_of(body)
    assert len(excerpt.encode()) <= EXCERPT_BYTES
    assert excerpt.isprintable()


def test_controls_and_invisible_characters_are_escaped() -> None:
    body = "a\r\n\x1b[2J\0\x9b\u202eb\u2028\ufeff<b>é😀".encode()
    assert excerpt_of(body) == r"a\r\n\x1b[2J\x00\x9b\u202eb\u2028\ufeff<b>é😀"


def test_invalid_utf_8_is_replaced() -> None:
    assert excerpt_of(b"ok \xff\xfe \xc3") == "ok �� �"


def test_no_half_character_is_kept() -> None:
    excerpt = excerpt_of("é".encode() * 4000)
    assert excerpt == "é" * 1024


def test_a_secret_that_the_receiver_sends_back_is_masked() -> None:
    secret = 'k"e\\y'
    body = f"you sent {secret} as {json.dumps(secret)}".encode()
    assert excerpt_of(body, [secret, ""]) == 'you sent *** as "***"'


def test_a_short_secret_masks_no_parts_of_words() -> None:
    assert excerpt_of(b"application/json", ["a", "", "ti", "ion"]) == "application/json"
    assert excerpt_of(b"the key is k3y!", ["k3y!"]) == "the key is ***"


def test_a_secret_at_the_end_of_the_excerpt_is_masked_whole() -> None:
    body = b"x" * (EXCERPT_BYTES - 3) + b"canary-key" + b"y" * 100
    assert "can" not in excerpt_of(body, ["canary-key"])
