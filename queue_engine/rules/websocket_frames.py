"""Frames of WebSocket (RFC 6455, section 5): where they begin and end in a stream of bytes. Pure."""

from __future__ import annotations

MAX_HEADER_BYTES = 14
MAX_CONTROL_BYTES = 125
"""Limit of the payload of a control frame, such as Close."""

_CLOSE = 0x8
_CONTROL = 0x8
_FINAL = 0x80
_MASKED = 0x80


class BadFrame(Exception):
    """A frame breaks the protocol. `before` are the bytes before it that can still be passed on."""

    def __init__(self, problem: str, before: bytes) -> None:
        super().__init__(problem)
        self.before = before


class FrameCutter:
    """Follows the frames of one direction, so that another frame can be put between two of them.

    Payloads are not kept, so the size of a message has no limit. The header of a frame is held back until it is
    complete. `masked` is True for the frames of a client.
    """

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._held = b""
        self._left = 0
        """Bytes of the current frame's payload that have not arrived."""
        self._is_close = False
        """True if the current frame is a Close."""

    @property
    def is_between_frames(self) -> bool:
        """True if all bytes that were returned are whole frames."""
        return self._left == 0

    @property
    def has_closed(self) -> bool:
        """True after a Close. No frame follows it."""
        return self._is_close and self._left == 0

    def take(self, data: bytes) -> bytes:
        """Return the bytes that can be passed on: `data` without the incomplete header at its end. Raises BadFrame."""
        data = self._held + data
        self._held = b""
        at = min(self._left, len(data))
        self._left -= at
        while at < len(data) and not self._is_close:
            end = self._end_of_frame(data, at)
            if end is None:
                self._held = data[at:]
                break
            self._left = max(0, end - len(data))
            at = min(end, len(data))
        return data[:at]

    def _end_of_frame(self, data: bytes, at: int) -> int | None:
        """Return the end of the frame that begins at `at`; None if its header is incomplete."""
        if len(data) < at + 2:
            return None
        first, second = data[at], data[at + 1]
        length = second & ~_MASKED
        if bool(second & _MASKED) is not self._masked:
            raise BadFrame("a frame must be masked by a client, and not by a server", data[:at])
        if first & _CONTROL and (length > MAX_CONTROL_BYTES or not first & _FINAL):
            raise BadFrame(f"a control frame must be whole and have at most {MAX_CONTROL_BYTES} bytes", data[:at])
        extended = {126: 2, 127: 8}.get(length, 0)
        size = 2 + extended + 4 * self._masked
        if len(data) < at + size:
            return None
        if extended:
            length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
        if length >= 1 << 63:
            raise BadFrame("a frame must be shorter than 2^63 bytes", data[:at])
        self._is_close = first & 0x0F == _CLOSE
        return at + size + length


def close_frame(code: int, reason: str, mask: bytes | None = None) -> bytes:
    """Return a Close. A client gives a `mask` of four random bytes."""
    payload = (code.to_bytes(2, "big") + reason.encode())[:MAX_CONTROL_BYTES]
    head = bytes((_FINAL | _CLOSE, len(payload) | (_MASKED if mask else 0)))
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
