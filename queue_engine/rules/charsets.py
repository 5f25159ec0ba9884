"""Character sets of text that a container declares: the labels of the WHATWG Encoding Standard, and no others.

https://encoding.spec.whatwg.org/#names-and-labels. Labels have the meaning that browsers give them: `iso-8859-1` is
windows-1252. Python's own codec names are not used, because some of them do not decode text (`rot13`,
`unicode_escape`, `idna`).
"""

from __future__ import annotations

import codecs

SLICE_BYTES = 64 * 1024
"""Number of bytes decoded at once. Other threads can run between slices."""

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# Python's codec for each encoding, and the encoding's labels. The encoding "replacement" (iso-2022-kr, hz-gb-2312 and
# others) is left out because it decodes nothing.
_LABELS = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859_2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859_3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859_4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859_5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859_6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
    "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859_7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859_8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8 "
    "iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859_10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859_13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859_14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859_15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859_16": "iso-8859-16",
    "koi8_r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8_u": "koi8-ru koi8-u",
    "mac_roman": "csmacintosh mac macintosh x-mac-roman",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
    "iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
    "windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "mac_cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "iso2022_jp": "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 "
    "ksc5601 ksc_5601 windows-949",
    "utf-16-be": "unicodefffe utf-16be",
    "x-user-defined": "x-user-defined",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
}
_CODEC_OF = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}


def _table_of(codec: str) -> str:
    """Return the decoding table of a codec. Unused bytes 0x80–0x9F of the windows encodings become the controls
    U+0080–9F, which Python's codecs refuse.
    """
    table = [bytes([number]).decode(codec, "replace") for number in range(256)]
    unused = ["\ufffe" if char == "\ufffd" else char for char in table]
    return "".join(chr(at) if char == "\ufffe" and at < 0xA0 else char for at, char in enumerate(unused))


_TABLES = {codec: _table_of(codec) for codec in _LABELS if codec.startswith(("cp125", "cp874"))}
_TABLES["cp1255"] = _TABLES["cp1255"][:0xCA] + "\u05ba" + _TABLES["cp1255"][0xCB:]
_TABLES["x-user-defined"] = "".join(chr(at if at < 0x80 else 0xF700 + at) for at in range(256))
_TABLES["koi8_u"] = bytes(range(256)).decode("koi8_u").replace("\u255d", "ў").replace("\u256c", "Ў")


def codec_of(label: str) -> str | None:
    """Return Python's codec for a label in any case, with white space around it or not; None for an unknown label."""
    return _CODEC_OF.get(label.strip("\t\n\f\r ").lower()) if label.isascii() else None


def decoded(body: bytes, codec: str, *, errors: str = "strict") -> str | None:
    """Return the text, without its byte order mark, or None when the bytes are not in `codec`.

    A byte order mark takes precedence over `codec`, as in the Encoding Standard. With `errors="replace"` the result is
    never None: bytes that Python's decoder still refuses are decoded as UTF-8.
    """
    for mark, marked in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            body, codec = body[len(mark) :], marked
            break
    slices = [body[at : at + SLICE_BYTES] for at in range(0, len(body), SLICE_BYTES)]
    try:
        if codec in _TABLES:
            return "".join(codecs.charmap_decode(part, errors, _TABLES[codec])[0] for part in slices)
        decoder = codecs.getincrementaldecoder(codec)(errors)
        return "".join([*map(decoder.decode, slices), decoder.decode(b"", final=True)])
    except UnicodeError:  # iso2022_jp raises UnicodeError itself, whatever `errors` is
        return body.decode("utf-8", errors) if errors == "replace" else None
