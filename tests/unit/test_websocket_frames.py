"""Where WebSocket frames end in a stream, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.rules.websocket_frames import BadFrame, FrameCutter, close_frame

MASK = b"mask"


def frame(payload: bytes, *, opcode: int = 0x2, masked: bool = False, final: bool = True) -> bytes:
    first = (0x80 if final else 0) | opcode
    flag = 0x80 if masked else 0
    if len(payload) < 126:
        head = bytes((first, flag | len(payload)))
    elif len(payload) < 1 << 16:
        head = bytes((first, flag | 126)) + len(payload).to_bytes(2, "big")
    else:
        head = bytes((first, flag | 127)) + len(payload).to_bytes(8, "big")
    return head + (MASK if masked else b"") + payload


FRAMES = st.lists(
    st.builds(
        frame,
        st.one_of(st.binary(max_size=5), st.sampled_from([b"x" * size for size in (125, 126, 300, 65535, 65536)])),
        masked=st.just(True),
        final=st.booleans(),
        opcode=st.sampled_from([0x0, 0x1, 0x2]),
    ),
    max_size=6,
)


@given(frames=FRAMES, data=st.data())
def test_a_stream_is_passed_on_unchanged_in_whatever_pieces_it_comes(frames: list[bytes], data: st.DataObject) -> None:
    stream, cutter, passed = b"".join(frames), FrameCutter(masked=True), b""
    ends = {sum(map(len, frames[:count])) for count in range(len(frames) + 1)}
    at = 0
    while at < len(stream):
        size = data.draw(st.sampled_from([1, 2, 3, 7, 14, 1000, 70000]))
        passed += cutter.take(stream[at : at + size])
        at += size
        assert passed == stream[: len(passed)]
        assert len(passed) > min(at, len(stream)) - 14, "only an incomplete header is held back"
        assert cutter.is_between_frames is (len(passed) in ends)
    assert passed == stream
    assert not cutter.has_closed


@pytest.mark.parametrize("masked", [True, False])
def test_nothing_is_passed_on_after_a_close(masked: bool) -> None:
    cutter = FrameCutter(masked=masked)
    closing = frame(b"\x03\xe8bye", opcode=0x8, masked=masked)
    more = frame(b"more", masked=masked)
    assert cutter.take(more + closing + more) == more + closing
    assert cutter.has_closed
    assert cutter.take(more) == b""


def test_a_close_ends_the_stream_when_all_of_it_has_arrived() -> None:
    cutter, closing = FrameCutter(masked=False), frame(b"\x03\xe8bye", opcode=0x8)
    assert cutter.take(closing[:-1]) == closing[:-1]
    assert not cutter.has_closed
    assert cutter.take(closing[-1:]) == closing[-1:]
    assert cutter.has_closed


@pytest.mark.parametrize(
    ("masked", "bad"),
    [
        (True, frame(b"x", masked=False)),
        (False, frame(b"x", masked=True)),
        (True, frame(b"x" * 126, opcode=0x9, masked=True)),
        (True, frame(b"", opcode=0x9, masked=True, final=False)),
        (True, frame(b"", opcode=0x8, masked=True, final=False)),
        (False, b"\x82\x7f" + b"\xff" * 8),
    ],
    ids=["client without mask", "server with mask", "long ping", "ping in parts", "close in parts", "too long"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_bad_frame_is_not_passed_on(masked: bool, bad: bytes, at_once: bool) -> None:
    good, cutter = frame(b"good", masked=masked), FrameCutter(masked=masked)
    before = b"" if at_once else cutter.take(good)
    with pytest.raises(BadFrame) as caught:
        cutter.take((good if at_once else b"") + bad)
    assert before + caught.value.before == good
    assert cutter.is_between_frames


def test_a_close_frame_is_one_that_ends_its_stream() -> None:
    for masked in (True, False):
        made = close_frame(1001, "x" * 200, MASK if masked else None)
        cutter = FrameCutter(masked=masked)
        assert cutter.take(made) == made
        assert cutter.has_closed
    assert close_frame(1000, "") == b"\x88\x02\x03\xe8"
    assert close_frame(1000, "", b"\x01\x02\x03\x04") == b"\x88\x82\x01\x02\x03\x04\x02\xea"
