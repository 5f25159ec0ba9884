"""The bytes of an output are those that the container returned, however the JSON text is cut into parts."""

import base64
import json

import pytest

from queue_engine.rules.outputs import MAX_CONTENT_TYPE_LENGTH, output_of
from queue_engine.rules.raw_outputs import HEAD_BYTES, TAIL_BYTES, Decoder, Form, RawForm, raw_form


def form_of(output: bytes) -> RawForm:
    return raw_form(output[:HEAD_BYTES], output[-TAIL_BYTES:], len(output))


def decoded(output: bytes, cut: int) -> bytes:
    found = form_of(output)
    inside = output[found.start : found.end]
    decoder = Decoder(found.form)
    parts = [inside[at : at + cut] for at in range(0, len(inside), cut)] or [b""]
    pieces = [piece for at, part in enumerate(parts) for piece in decoder.pieces(part, is_last=at == len(parts) - 1)]
    return b"".join(pieces)


TEXT = 'a"b\\c\n\x00\x1f/é€😀 \\u00e9 \\\\n' * 3
BINARY = bytes(range(256)) * 3


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 11, 12, 13, 10_000])
@pytest.mark.parametrize("length", [0, 1, 2, 3, len(BINARY)])
def test_binary_outputs_are_what_the_container_returned(length: int, cut: int) -> None:
    body = BINARY[:length] + b"\xff"
    output = bytes(output_of("image/png", body))
    assert (form_of(output).media_type, form_of(output).size, form_of(output).suffix) == ("image/png", len(body), "png")
    assert decoded(output, cut) == body


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 11, 12, 13, 10_000])
def test_texts_are_what_the_container_returned(cut: int) -> None:
    for text in (TEXT, "x"):
        output = bytes(output_of("text/html", text.encode()))
        assert form_of(output).media_type == "text/plain; charset=utf-8"
        assert decoded(output, cut) == text.encode()
    assert decoded(b'""', cut) == b""
    assert decoded(json.dumps(TEXT).encode(), cut) == TEXT.encode()  # with escaped surrogates


@pytest.mark.parametrize("cut", [1, 3, 100])
@pytest.mark.parametrize("space", [b"\n", b"\r\n", b" \t\n"])
def test_white_space_around_a_string_is_not_of_the_text(space: bytes, cut: int) -> None:
    assert decoded(b'"hello"' + space, cut) == b"hello"
    assert decoded(space + b'"hello"', cut) == b"hello"
    assert decoded(b'""' + space, cut) == b""


def test_the_longest_media_type_is_recognised() -> None:
    output = bytes(output_of("\x01" * 2 * MAX_CONTENT_TYPE_LENGTH, b"\xff"))
    assert output.count(b"\\u0001") == MAX_CONTENT_TYPE_LENGTH
    assert (form_of(output).form, decoded(output, 10_000)) == (Form.BASE64, b"\xff")


@pytest.mark.parametrize("cut", [1, 3, 6, 100])
def test_half_a_surrogate_pair_is_replaced(cut: int) -> None:
    assert decoded(rb'"a\ud83d"', cut) == "a\ufffd".encode()
    assert decoded(rb'"\ud83d\ud83d\ude00b"', cut) == "\ufffd😀b".encode()


@pytest.mark.parametrize(
    "output",
    [b"null", b"1", b"[1]", b'{"a": 1}', b'{"contentType": "a/b", "base64": "AAA"}',
     b'{"contentType":"a/b","base64":"AAAA"}', b'{"contentType": "a/b", "base64": "AA!="}',
     b'{"contentType": "a/b", "base64": ""}',
     b'{"contentType": "a/b", "base64": "AAAA", "more": 1}', rb'{"contentType": "\ud800", "base64": "AAAA"}',
     b'"x"' + b" " * TAIL_BYTES, b'{"contentType": "%b", "x": "AAAA"}' % (rb"\u0001" * 1000)],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_json_stays_as_it_is(output: bytes) -> None:
    assert form_of(output) == RawForm(Form.JSON, "application/json", 0, len(output), len(output))
    assert decoded(output, 2) == output


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ("image/png", "image/png"),
        ("IMAGE/JPEG", "image/jpeg"),
        ("audio/x-wav", "audio/x-wav"),
        ("application/zip", "application/zip"),
        *[
            (own, "application/octet-stream")
            for own in (
                "text/html", "image/svg+xml", "image/svg", "application/xhtml+xml", "application/pdf",
                "text/javascript",
                "image/png\r\nx: y", 'image/"png', "image/x-xml", "multipart/mixed", "message/rfc822", "image/*",
                "video/mp4; codecs=x", "application/javascript", "application/wasm",
            )
        ],
    ],
)  # fmt: skip
def test_a_browser_runs_no_media_type(own: str, shown: str) -> None:
    output = b'{"contentType": %b, "base64": "%b"}' % (json.dumps(own).encode(), base64.b64encode(b"<script>"))
    found = form_of(output)
    assert (found.form, found.media_type) == (Form.BASE64, shown)


def test_damaged_base64_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"(?i)base64|excess|padding|chars"):
        list(Decoder(Form.BASE64).pieces(b"AA==AAAA", is_last=True))
