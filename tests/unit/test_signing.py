"""Signatures, verified by the Standard Webhooks project's own library."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from queue_engine.crypto.signing import new_secret, sign, signature_headers

SECRET = new_secret(bytes(range(32)))


def test_a_secret_is_its_prefix_and_base64() -> None:
    assert new_secret(b"\0" * 24) == "whsec_" + "A" * 32


@pytest.mark.parametrize("length", [0, 23, 65])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="24–64"):
        new_secret(b"x" * length)


def test_the_signature_of_the_specification_is_reproduced() -> None:
    """The example of the specification's reference libraries."""
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(text=st.text(), message_id=st.from_regex(r"[A-Za-z0-9_]{1,40}", fullmatch=True))
def test_a_receiver_verifies_what_was_signed(text: str, message_id: str) -> None:
    body = json.dumps({"result": text}, ensure_ascii=False).encode("utf-8", "replace")
    headers = signature_headers(SECRET, message_id, int(time.time()), body)
    Webhook(SECRET).verify(body, headers)


def test_a_body_that_was_changed_is_noticed() -> None:
    headers = signature_headers(SECRET, "msg_1", int(time.time()), b'{"a":1}')
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b'{"a":2}', headers)


def test_another_secret_is_noticed() -> None:
    headers = signature_headers(SECRET, "msg_1", int(time.time()), b"{}")
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret(b"y" * 32)).verify(b"{}", headers)


@pytest.mark.parametrize("secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!", "whsec_é", "whsec_A"])
def test_a_secret_of_another_form_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError) as error:
        sign(secret, "msg_1", 1, b"")
    assert str(error.value) == "a signing secret is whsec_ and base64"
