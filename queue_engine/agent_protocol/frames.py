"""Frames: the body of a request or a response. A JSON message and the bytes that belong to it, without base64.

    "qea1"  head length  number of blobs  length of each blob  head (JSON)  blobs
    4       4            4                4 each               …            …         bytes; integers are big-endian

A frame has exactly this length. The four bytes at the beginning tell it from the page of a proxy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

CONTENT_TYPE = "application/vnd.queue-engine.agent.v1"

MAX_HEAD_BYTES = 4 * 1024 * 1024
"""Maximum length of the JSON message. The longest ones are the lines of a log and the headers of started tasks: 500
lines of 4 KiB, and 64 times 16 KiB."""
MAX_BLOBS = 64
"""Maximum number of blobs: one for each attempt that a call starts or ends."""

_MAGIC = b"qea1"
_FIXED = struct.Struct(">4sII")
_MAX_LENGTH = 2**32 - 1

Blob = bytes | bytearray | memoryview


class BadFrame(ValueError):
    """Bytes that are not a frame, or a message that breaks a rule. The text names the rule."""


def framed(head: bytes, blobs: Sequence[Blob] = ()) -> tuple[Blob, ...]:
    """Return a frame in parts, to be sent one after the other. Blobs are not copied."""
    if len(head) > MAX_HEAD_BYTES or len(blobs) > MAX_BLOBS or any(len(blob) > _MAX_LENGTH for blob in blobs):
        raise BadFrame("the message is too large for a frame")
    sizes = struct.pack(f">{len(blobs)}I", *map(len, blobs))
    return _FIXED.pack(_MAGIC, len(head), len(blobs)) + sizes + head, *blobs


def parts_of(frame: Blob) -> tuple[memoryview, list[memoryview]]:
    """Return the head and the blobs of a frame, as views of it. Raises BadFrame."""
    view = memoryview(frame)
    if len(view) < _FIXED.size:
        raise BadFrame("the frame is cut off")
    magic, head_length, count = _FIXED.unpack_from(view)
    if magic != _MAGIC:
        raise BadFrame("is not a frame of this protocol")
    if head_length > MAX_HEAD_BYTES:
        raise BadFrame(f"the message must be at most {MAX_HEAD_BYTES} bytes")
    if count > MAX_BLOBS:
        raise BadFrame(f"the frame must have at most {MAX_BLOBS} blobs")
    if len(view) < _FIXED.size + 4 * count:
        raise BadFrame("the frame is cut off")
    sizes = struct.unpack_from(f">{count}I", view, _FIXED.size)
    at = _FIXED.size + 4 * count
    if len(view) != at + head_length + sum(sizes):
        raise BadFrame("the lengths in the frame do not add up to its length")
    head, blobs = view[at : at + head_length], []
    at += head_length
    for size in sizes:
        blobs.append(view[at : at + size])
        at += size
    return head, blobs
