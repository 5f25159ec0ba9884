"""Secrets are sealed with the current key and opened with any key of the ring."""

import base64

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.crypto.sealing import (
    SealBroken,
    Sealer,
    SealKeyUnknown,
    SecretKeyMissing,
    endpoint_key,
    endpoint_keys_text,
    fingerprint_of,
    new_secret_key,
    parse_secret_key,
    parse_secret_keys,
)

OLD, NEW, OTHER = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


@given(st.binary(max_size=300), st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_what_was_sealed_is_opened_again(secret: bytes, context: str) -> None:
    sealer = Sealer(NEW)
    sealed = sealer.seal(secret, context)
    assert sealer.open(sealed, context) == secret
    assert sealed.isascii()


def test_two_seals_of_one_secret_differ() -> None:
    sealer = Sealer(NEW)
    assert sealer.seal(b"a", "x") != sealer.seal(b"a", "x")


def test_a_text_sealed_with_a_previous_key_is_opened() -> None:
    sealed = Sealer(OLD).seal(b"secret", "task:1:a")
    ring = Sealer(NEW, (OTHER, OLD))
    assert ring.open(sealed, "task:1:a") == b"secret"
    assert not ring.is_current(sealed)


def test_sealing_uses_the_current_key() -> None:
    sealed = Sealer(NEW, (OLD,)).seal(b"secret", "x")
    assert Sealer(NEW).open(sealed, "x") == b"secret"
    with pytest.raises(SealBroken):
        Sealer(OLD).open(sealed, "x")


def test_a_sealed_text_names_its_key_and_its_format() -> None:
    version, fingerprint, _ = Sealer(NEW).seal(b"secret", "x").split(".")
    assert (version, fingerprint) == ("v1", fingerprint_of(NEW))
    assert fingerprint not in (NEW.hex(), base64.b64encode(NEW).decode())


def test_resealing_changes_only_what_another_key_sealed() -> None:
    ring = Sealer(NEW, (OLD,))
    old, current = Sealer(OLD).seal(b"secret", "x"), ring.seal(b"secret", "x")
    assert ring.resealed(current, "x") == current
    again = ring.resealed(old, "x")
    assert ring.is_current(again)
    assert Sealer(NEW).open(again, "x") == b"secret"
    assert len(again) == len(old)


def test_a_ring_knows_its_keys_by_fingerprint() -> None:
    ring = Sealer(NEW, (OLD,))
    assert ring.fingerprint == fingerprint_of(NEW)
    assert [ring.knows(fingerprint_of(key)) for key in (NEW, OLD, OTHER)] == [True, True, False]
    assert not Sealer(None).knows("")


@pytest.mark.parametrize(
    "broken",
    ["", ".", "..", "v1", "v1.", "v1..", "plain text", "whsec_abc", "v1.AAAA", f"v1.{fingerprint_of(NEW)}", "é.é.é"],
)
def test_what_is_no_sealed_text_is_refused(broken: str) -> None:
    for call in (Sealer(NEW).open, Sealer(NEW).resealed):
        with pytest.raises(SealBroken):
            call(broken, "x")
    with pytest.raises(SealBroken):
        Sealer(NEW).is_current(broken)


def test_a_changed_or_moved_text_is_refused() -> None:
    ring = Sealer(NEW, (OLD,))
    sealed = ring.seal(b"secret", "task:1:a")
    version, fingerprint, data = sealed.split(".")
    flipped = ("B" if data[20] == "A" else "A").join((data[:20], data[21:]))
    for changed, context in (
        (sealed, "task:1:b"),
        (f"{version}.{fingerprint}.{flipped}", "task:1:a"),
        (f"{version}.{fingerprint_of(OLD)}.{data}", "task:1:a"),
        (f"v2.{fingerprint}.{data}", "task:1:a"),
        (sealed[:-8], "task:1:a"),
    ):
        with pytest.raises(SealBroken):
            ring.open(changed, context)


def test_without_a_current_key_nothing_is_sealed_or_opened() -> None:
    sealed = Sealer(OLD).seal(b"secret", "x")
    for keyless in (Sealer(None), Sealer(None, (OLD,))):
        assert not keyless.has_key
        assert keyless.fingerprint == ""
        with pytest.raises(SecretKeyMissing):
            keyless.seal(b"secret", "x")
        with pytest.raises(SecretKeyMissing):
            keyless.open(sealed, "x")


def test_keys_are_read_in_either_alphabet_and_separated_by_commas() -> None:
    first, second = new_secret_key(), new_secret_key()
    standard = second.replace("-", "+").replace("_", "/")
    assert parse_secret_keys(f" {first} , {standard},") == (parse_secret_key(first), parse_secret_key(second))
    assert parse_secret_keys("") == ()


@pytest.mark.parametrize("text", ["short", "!" * 44, base64.b64encode(bytes(31)).decode(), "é" * 44])
def test_a_bad_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="32 random bytes") as refused:
        parse_secret_keys(f"{new_secret_key()},{text}")
    assert text not in str(refused.value)


# Keys of endpoints


@given(st.binary(min_size=32, max_size=32), st.integers(1, 10**12).map(str))
def test_the_key_of_an_endpoint_is_the_hkdf_of_the_secret_key(key: bytes, endpoint_id: str) -> None:
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"endpoint:{endpoint_id}".encode())
    assert endpoint_key(key, endpoint_id) == hkdf.derive(key)


def test_the_ring_of_an_endpoint_opens_only_what_is_sealed_for_the_endpoint() -> None:
    engine = Sealer(NEW, (OLD,))
    ring = Sealer.of(parse_secret_keys(endpoint_keys_text((NEW, OLD), "7")))
    for sealed in (engine, Sealer(OLD)):
        assert ring.open(sealed.for_endpoint("7").seal(b"headers", "x"), "x") == b"headers"
        for other in (sealed, sealed.for_endpoint("8"), sealed.for_endpoint("77")):
            with pytest.raises(SealKeyUnknown):
                ring.open(other.seal(b"headers", "x"), "x")
    assert ring.is_current(engine.for_endpoint("7").seal(b"headers", "x"))


def test_an_engine_without_a_key_has_no_key_for_an_endpoint() -> None:
    assert not Sealer(None).for_endpoint("7").has_key
    assert endpoint_keys_text((), "7") == ""
