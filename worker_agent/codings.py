"""Decode the content codings of a container's response (RFC 9110, section 8.4), piece by piece.

The agent sends no Accept-Encoding, but a container may still choose a coding. The codings of the standard library are
decoded: gzip, x-gzip and deflate (with a zlib header, as RFC 9110 defines it, and raw, as some servers send it).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from queue_engine.net.error_types import BadResponse

PIECE_BYTES = 64 * 1024
"""Maximum number of bytes decoded at once, so that a small body that expands too far is rejected early."""
MAX_CODINGS = 4
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class TooLarge(Exception):
    """The body is larger than the limit, before or after decoding."""


class BodyDecoder:
    """Decodes a body. Call `feed` with each chunk that arrives, then `end`."""

    def __init__(self, codings: Iterable[str], *, max_bytes: int) -> None:
        """`codings` are the values of Content-Encoding."""
        names = (name.strip().lower() for value in codings for name in value.split(","))
        self._names = [name for name in names if name not in ("", "identity")]
        self._stages: list[_Stage] | None = None
        """None until the first byte, because an empty body has no coding even if the header declares some."""
        # A coding enlarges incompressible data a little, so the limits of the earlier stages are larger.
        self._limits = [max_bytes + max_bytes // 64 + 1024] * len(self._names) + [max_bytes]
        self._sizes = [0] * len(self._limits)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the decoded pieces.

        Raises BadResponse for an unsupported coding and for data that is not valid in its coding, and TooLarge.
        """
        if self._stages is None:
            self._stages = _stages_of(self._names)
        return self._through(self._stages, 0, data)

    def end(self) -> None:
        """Check that the body is complete. Raises BadResponse if it ended within its coding."""
        for stage in self._stages or ():
            stage.end()

    def _through(self, stages: list[_Stage], number: int, data: bytes) -> Iterator[bytes]:
        self._sizes[number] += len(data)
        if self._sizes[number] > self._limits[number]:
            raise TooLarge
        if number == len(stages):
            yield data
            return
        for piece in stages[number].feed(data):
            yield from self._through(stages, number + 1, piece)


class _Stage:
    """The decoder of a coding. A gzip body may have several members (RFC 1952, section 2.2), and zeros after them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._decoder: zlib._Decompress | None = None
        self._begun = False
        self._start = b""
        """The first bytes, kept until there are enough to distinguish zlib from raw deflate."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        data = self._start + data
        self._start = b""
        while data:
            if self._decoder is None:
                if self._begun and self._name == "gzip":
                    data = data.lstrip(b"\0")
                if len(data) < 2:
                    self._start = data
                    return
                self._decoder = self._begin(data)
            piece, data = self._decode(self._decoder, data)
            if piece:
                yield piece

    def end(self) -> None:
        if self._decoder is not None or self._start:
            raise BadResponse(f"its body ends within its content coding, {self._name}")

    def _begin(self, data: bytes) -> zlib._Decompress:
        if self._name == "deflate":
            if self._begun:
                raise BadResponse("its body continues after the end of its content coding, deflate")
            self._begun = True
            has_header = data[0] & 15 == 8 and (data[0] * 256 + data[1]) % 31 == 0
            return zlib.decompressobj(_ZLIB if has_header else _RAW)
        self._begun = True
        return zlib.decompressobj(_GZIP)

    def _decode(self, decoder: zlib._Decompress, data: bytes) -> tuple[bytes, bytes]:
        """Return a decoded piece, and the data that remains to be decoded."""
        try:
            piece = decoder.decompress(data, PIECE_BYTES)
        except zlib.error:
            raise BadResponse(f"its body is not in its content coding, {self._name}") from None
        if decoder.eof:
            self._decoder = None
            return piece, decoder.unused_data
        return piece, decoder.unconsumed_tail


def _stages_of(names: list[str]) -> list[_Stage]:
    """Return the decoders in the order of decoding: the coding that was applied last comes first."""
    stages = [_stage(name) for name in names]
    if len(stages) > MAX_CODINGS:
        raise BadResponse(f"its body has {len(stages)} content codings; at most {MAX_CODINGS} are decoded")
    return stages[::-1]


def _stage(name: str) -> _Stage:
    if name not in ("gzip", "x-gzip", "deflate"):
        shown = name[:40].encode("unicode_escape").decode()
        raise BadResponse(f"its body has the content coding {shown}; gzip and deflate are decoded")
    return _Stage(name.removeprefix("x-"))
