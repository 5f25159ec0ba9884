"""How the body of a container's response becomes a task's output."""

import base64
import codecs
import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queue_engine.rules.charsets import codec_of, decoded
from queue_engine.rules.excerpts import printable
from queue_engine.rules.outputs import output_of, read_content_type, text_of
from queue_engine.rules.strict_json import is_json

MIB = 1024 * 1024


def binary(content_type: str, body: bytes) -> bytes:
    return json.dumps({"contentType": content_type, "base64": base64.b64encode(body).decode()}).encode()


# JSON


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1.50, "a": 2}',
        b" [1] \n",
        b"123456789012345678901234567890",
        b"1e999",
        b'"\\ud83d"',
        b'"\\uDC00 \\\\ud800 \\ud83d\\ude00"',
        '"grüße"'.encode(),
        b"null",
    ],
)
@pytest.mark.parametrize(
    "content_type", ["application/json", "", "text/json", "Application/Problem+JSON; charset=UTF-8"]
)
def test_json_stays_as_it_is_to_the_byte(content_type: str, body: bytes) -> None:
    assert output_of(content_type, body) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": NaN}', b"[Infinity]", b"-Infinity", b"[1,]", b"{,}", b"01", b"1.", b".5", b"+1", b"[1] 2", b"'a'",
        b'"\x01"', b'"\\x41"', b'"\\u12G4"', b"\x0c1", b"[" * 100_000, b"[" * 5000 + b"]" * 5000,
        b'{"a": dead}', b"[d]",
    ],
)  # fmt: skip
def test_what_is_nearly_json_is_a_string(body: bytes) -> None:
    assert json.loads(output_of("application/json", body)) == body.decode()


def test_json_that_is_not_utf_8_is_binary() -> None:
    assert output_of("application/json", b'"\xff"') == binary("application/json", b'"\xff"')
    assert output_of("application/json", b'"\xed\xa0\x80"') == binary("application/json", b'"\xed\xa0\x80"')


_PIECES = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"d8", b"00e9", b"0", b"12", b"-", b"+", b".", b"e", b"E",
    b"t", b"true", b"false", b"null", b"NaN", b" ", b"\n", b"a", b"d", b"c", b'"a"', b'"a":', b"\\n", b"\\ud800",
    b"\\udc00", b"\x01", b"\xc3\xa9", b"\xff", b"\xef\xbb\xbf",
]  # fmt: skip


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map(b"".join))
def test_the_check_agrees_with_the_standard_library(body: bytes) -> None:
    assert is_json(body) == _is_json_for_the_standard_library(body)


def _is_json_for_the_standard_library(body: bytes) -> bool:
    def refuse(constant: str) -> object:
        raise ValueError(constant)

    try:
        json.loads(body.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * (8 * MIB // 3 - 1) + b"[]]",
        b"[" + b'{"a":{}},' * (8 * MIB // 9 - 1) + b"0]",
        b"[" + b"1," * (4 * MIB - 1) + b"1]",
        b"[" + (b"[" * 500 + b"]" * 500 + b",") * (8 * MIB // 1001) + b"1]",
        b'["' + b"\\n" * (4 * MIB - 2) + b'"]',
    ],
    ids=["lists", "objects", "numbers", "nests", "escapes"],
)
def test_nothing_is_built_of_json(body: bytes) -> None:
    tracemalloc.start()
    try:
        assert output_of("application/json", body) is body
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(body)


# Text


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain", "text/vtt", "text/csv; header=present", "TEXT/HTML", "image/svg+xml", "application/atom+xml",
        "application/xml", "application/vnd.oai.openapi+yaml", "application/yaml", "application/x-yaml",
        "application/toml", "application/jsonl", "application/x-jsonlines", "application/jsonlines",
        "application/x-ndjson",
        "application/ndjson", "application/json-seq", "application/geo+json-seq", "application/x-www-form-urlencoded",
        "application/x-subrip", "application/ttml+xml", "application/javascript", "application/ecmascript",
        "application/graphql", "application/sql", "application/vnd.apple.mpegurl",
        "application/json-lines", "application/x-json-lines", "application/ldjson", "application/x-ldjson",
        "application/json5", "application/edn", "application/srt", "application/x-srt", "application/ass",
        "application/x-ass", "application/subrip", "application/x-bibtex", "application/bibtex",
        "application/x-httpd-php", "application/x-python", "application/pgp-signature", "application/pgp-keys",
        "application/x-sh", "application/x-shellscript", "application/x-pem-file", "application/pem-file",
    ],
)  # fmt: skip
def test_text_is_a_string(content_type: str) -> None:
    assert json.loads(output_of(content_type, "ü\n\x1e\0{}".encode())) == "ü\n\x1e\0{}"


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "application/zip", "audio/mpeg"])
def test_other_media_types_are_binary(content_type: str) -> None:
    assert output_of(f"{content_type}; charset=utf-8", b"text") == binary(content_type, b"text")


def test_a_signature_without_armor_is_binary() -> None:
    body = bytes.fromhex("89 01 33 04 00 01 0a 00")
    assert output_of("application/pgp-signature", body) == binary("application/pgp-signature", body)


def test_a_body_without_a_type_is_a_string_unless_it_has_a_nul() -> None:
    assert output_of("", b"hello") == b'"hello"'
    assert output_of("", b"a\0b") == binary("application/octet-stream", b"a\0b")


def test_lines_of_json_are_one_string() -> None:
    assert output_of("application/jsonl", b'{"a":1}\n') == b'"{\\"a\\":1}\\n"'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=ISO-8859-1", b"caf\xe9"),
        ("text/plain;charset=latin1", b"caf\xe9"),
        ('text/plain; charset="Windows-1252"', b"caf\xe9"),
        ("text/plain; CharSet = us-ascii", b"caf\xe9"),
        (r'text/plain; title="a; charset=koi8-r"; charset="utf\-16le"', "café".encode("utf-16-le")),
        ("text/plain; charset=utf-16", "café".encode("utf-16")),
        ("text/plain; charset=utf-16", codecs.BOM_UTF16_BE + "café".encode("utf-16-be")),
        ("text/plain; charset=koi8-r", codecs.BOM_UTF8 + "café".encode()),
        ("application/json; charset=iso-8859-1", b"caf\xe9"),
        ("image/svg+xml; charset=macintosh", "café".encode("mac_roman")),
    ],
)
def test_a_declared_character_set_is_honoured(content_type: str, body: bytes) -> None:
    assert output_of(content_type, body) == '"café"'.encode()


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("shift_jis", "cp932", "日本①"), ("gbk", "gbk", "中文"), ("gb2312", "gb18030", "中文€"),
        ("big5", "big5", "中文"), ("euc-jp", "euc_jp", "日本"), ("iso-2022-jp", "iso2022_jp", "日本"),
        ("euc-kr", "cp949", "한국똠"),
        ("koi8-u", "koi8_u", "їЇ"), ("windows-1251", "cp1251", "мир"), ("tis-620", "cp874", "ไทย"),
        ("iso-8859-9", "cp1254", "ğ€"), ("iso-8859-8-i", "iso8859_8", "שלום"),
        ("x-mac-cyrillic", "mac_cyrillic", "мир"),
    ],
)  # fmt: skip
def test_a_label_means_what_the_encoding_standard_says(label: str, codec: str, text: str) -> None:
    body = (text * 40_000).encode(codec)
    assert json.loads(output_of(f"text/plain; charset={label.upper()}", body)) == text * 40_000


def test_the_encodings_are_those_of_the_standard_where_pythons_differ() -> None:
    assert decoded(b"\x81\x8d\x93", "cp1252") == "\x81\x8d“"
    assert decoded(b"\xdb", "cp874") is None
    assert decoded(b"a\x80\xff", "x-user-defined") == "a\uf780\uf7ff"
    assert decoded(b"\xae\xbe", "koi8_u") == "ўЎ"
    assert decoded(b"\xca", "cp1255") == "\u05ba"


@pytest.mark.parametrize(
    "label",
    ["rot13", "rot_13", "idna", "punycode", "utf-7", "unicode_escape", "raw_unicode_escape", "base64", "hex", "zlib",
     "mbcs", "utf_8_sig", "cp037", "undefined", "replacement", "iso-2022-kr", "utf-32", "utf8mb4",
     "utf\u20118", "a" * 999],
)  # fmt: skip
def test_an_unknown_character_set_is_binary(label: str) -> None:
    assert codec_of(label) is None
    assert output_of(f"text/plain; charset={label}", b"+AGE-") == binary("text/plain", b"+AGE-")


LABELS = [
    "utf-8", "866", "latin2", "latin3", "latin4", "cyrillic", "arabic", "greek", "hebrew", "latin6", "iso8859-13",
    "iso8859-14", "latin9", "iso-8859-16", "koi8-r", "koi8-u", "mac", "tis-620", "cp1250", "cp1251", "latin1", "cp1253",
    "latin5", "cp1255", "cp1256", "cp1257", "cp1258", "x-mac-cyrillic", "gbk", "big5", "euc-jp", "iso-2022-jp", "sjis",
    "korean", "utf-16be", "x-user-defined", "utf-16", "rot13",
]  # fmt: skip
_CODED_PIECES = [bytes([number]) for number in range(256)] + [
    b"\x1b$", b"\x1b$B", b"\x1b(J", b"\x1b$(D", b"\x1b$)C", b"\x1b.A", b"\x0e", b"\x81\x30\x81\x30", b"\x8f\xa1",
    b"\xd8\x00", b"\x00\xdc", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80",
]  # fmt: skip


def test_text_that_is_not_in_its_character_set_is_binary() -> None:
    assert output_of("text/plain; charset=shift_jis", b"\x81") == binary("text/plain", b"\x81")
    assert output_of("text/plain", b"\xff\xff") == binary("text/plain", b"\xff\xff")


@pytest.mark.parametrize("label", ["iso-8859-1", "us-ascii", "utf8mb4", "rot13", "utf-16", "shift_jis", '""', ""])
@pytest.mark.parametrize("media_type", ["application/json", "application/x-json", "application/problem+json"])
def test_json_in_utf_8_is_json_whatever_character_set_is_declared(media_type: str, label: str) -> None:
    body = '{"a": "é"}'.encode()
    assert output_of(f"{media_type}; charset={label}", body) == body
    assert output_of(f"{media_type}; charset={label}", codecs.BOM_UTF8 + body) == body


def test_json_that_is_not_in_utf_8_is_in_its_declared_character_set() -> None:
    assert output_of("application/json; charset=iso-8859-1", b'{"a": "\xe9"}') == '{"a": "é"}'.encode()


@given(st.sampled_from(LABELS), st.lists(st.sampled_from(_CODED_PIECES), max_size=12).map(b"".join))
@example("iso-2022-jp", b"$B\x1b$\x83(6$\xd96\xdc")
def test_decoding_never_raises(label: str, body: bytes) -> None:
    content_type = f"text/plain; charset={label}"
    assert is_json(output_of(content_type, body))
    assert text_of(content_type, body).encode().decode() is not None


def test_json_in_another_character_set_is_the_json_value_in_utf_8() -> None:
    assert output_of("application/json; charset=utf-16le", '{"é": 1.50}'.encode("utf-16-le")) == '{"é": 1.50}'.encode()


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_json_or_text(mark: str) -> None:
    assert output_of("application/json", '{"ok": true}'.encode(mark)) == b'{"ok": true}'
    assert output_of("text/plain", "ü".encode(mark)) == '"ü"'.encode()


@pytest.mark.parametrize(
    ("content_type", "read"),
    [
        ("", ("", "utf-8")),
        (" Text/Plain ", ("text/plain", "utf-8")),
        ("text/plain; charset", ("text/plain", "utf-8")),
        ("text/plain; charset=", ("text/plain", "utf-8")),
        ('text/plain; charset=""', ("text/plain", "utf-8")),
        ('text/plain; charset=" "', ("text/plain", "utf-8")),
        ("text/plain; charset=utf-16; charset=koi8-r", ("text/plain", "utf-16-le")),
        ('text/plain; x="' + '\\"' * 30_000, ("text/plain", "utf-8")),
        ("a" * 70_000, ("a" * 1024, "utf-8")),
    ],
)
def test_a_content_type_is_read(content_type: str, read: tuple[str, str | None]) -> None:
    assert read_content_type(content_type) == read


@given(st.text(max_size=60), st.binary(max_size=60))
def test_every_output_is_json(content_type: str, body: bytes) -> None:
    output = output_of(content_type, body)
    assert is_json(output)


@pytest.mark.parametrize("length", [3 * 16 * 1024 + add for add in (-1, 0, 1, 100_000)])
def test_large_bodies_are_whole(length: int) -> None:
    text = ("aü😀\n" * length)[:length]
    assert json.loads(output_of("text/plain", text.encode())) == text
    assert output_of("x/y", b"\xff" * length) == binary("x/y", b"\xff" * length)


# Errors


def test_the_text_of_an_error_is_in_its_character_set_and_may_be_cut() -> None:
    assert text_of("text/plain; charset=shift_jis", "日本".encode("cp932")[:-1]) == "日\ufffd"
    assert text_of("text/plain; charset=rot13", b"plain \xff") == "plain \ufffd"
    assert text_of("text/plain", b"\xef\xbb\xbfx") == "x"


def test_what_does_not_print_is_escaped_and_cut() -> None:
    assert printable("a\x1b[2J\0\udce9\u202e\n", 100, keep="\n") == "a\\x1b[2J\\x00\\udce9\\u202e\n"
    assert printable("é" * 100, 7) == "ééé"
    assert len(printable("\0" * 4000, 2048)) == 2048
