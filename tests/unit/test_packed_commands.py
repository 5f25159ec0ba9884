"""Commands are packed as redis-py packs them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection
from redis.exceptions import DataError

from queue_engine.store.redis.connections import MAX_COPIED_BYTES, Pieces, PlainConnection

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_ARGUMENTS = st.lists(st.one_of(st.binary(), _TEXT, st.integers(), st.floats()))


def _packed(kind: type[Connection], *command: object) -> bytes:
    return b"".join(kind().pack_command(*command))  # type: ignore[arg-type]


@given(name=st.sampled_from(["GET", b"GET", "CLUSTER SLOTS", b"SCRIPT LOAD"]), arguments=_ARGUMENTS)
def test_commands_have_the_bytes_that_redis_py_sends(name: str | bytes, arguments: list[object]) -> None:
    assert _packed(PlainConnection, name, *arguments) == _packed(Connection, name, *arguments)


@pytest.mark.parametrize("value", [True, None, [1], bytearray(b"x")])
def test_an_argument_of_another_type_is_refused_by_name_of_its_command(value: object) -> None:
    with pytest.raises(DataError, match="SET"):
        _packed(PlainConnection, "SET", "key", value)


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_long_argument_is_sent_without_a_copy(kind: type[bytes] | type[memoryview]) -> None:
    long = kind(bytes(MAX_COPIED_BYTES + 1))
    pieces = PlainConnection().pack_command("SET", "key", long)

    assert any(piece is long for piece in pieces)


@given(st.binary())
def test_a_view_has_the_bytes_of_what_it_shows(data: bytes) -> None:
    assert _packed(PlainConnection, "SET", "key", memoryview(bytearray(data))) == _packed(
        Connection, "SET", "key", data
    )


@given(_ARGUMENTS, st.lists(st.binary()), st.integers(0, 3))
def test_an_argument_in_pieces_has_the_bytes_of_the_joined_one(
    others: list[object], pieces: list[bytes], place: int
) -> None:
    joined, apart = list(others), list(others)
    joined.insert(place, b"".join(pieces))
    apart.insert(place, Pieces(pieces))
    assert _packed(PlainConnection, "EVALSHA", *apart) == _packed(Connection, "EVALSHA", *joined)


def test_a_long_piece_is_sent_without_a_copy() -> None:
    long = memoryview(bytes(MAX_COPIED_BYTES + 1))
    packed = PlainConnection().pack_command("SET", "key", Pieces((b"head", long)))
    assert any(piece is long for piece in packed)
