"""Signatures, verified by the Standard Webhooks project's own library."""

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from queue_engine.crypto.signing import new_secret, sign, signature_headers
from queue_engine.rules.signing_secrets import SECRET_RULE, check_auth_key, signs

SECRET = new_secret(bytes(range(32)))


def b64(key: bytes) -> str:
    return base64.b64encode(key).decode()


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
    headers = signature_headers([SECRET], message_id, int(time.time()), body)
    Webhook(SECRET).verify(body, headers)


def test_receivers_with_each_of_several_secrets_verify_a_message() -> None:
    secrets = [SECRET, new_secret(b"y" * 32)]
    headers = signature_headers(secrets, "msg_1", int(time.time()), b"{}")
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in secrets:
        Webhook(secret).verify(b"{}", headers)


def test_a_message_without_a_secret_has_no_signature() -> None:
    assert signature_headers([], "msg_1", 5, b"{}") == {"webhook-id": "msg_1", "webhook-timestamp": "5"}


def test_a_body_that_was_changed_is_noticed() -> None:
    headers = signature_headers([SECRET], "msg_1", int(time.time()), b'{"a":1}')
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b'{"a":2}', headers)


def test_another_secret_is_noticed() -> None:
    headers = signature_headers([SECRET], "msg_1", int(time.time()), b"{}")
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret(b"y" * 32)).verify(b"{}", headers)


@pytest.mark.parametrize("secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!", "whsec_é", "whsec_A"])
def test_a_secret_of_another_form_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError) as error:
        sign(secret, "msg_1", 1, b"")
    assert str(error.value) == "a signing secret is whsec_ and base64"


@pytest.mark.parametrize(
    "auth_key", [SECRET, new_secret(b"x" * 24), new_secret(b"x" * 64), "whsec", "a whsec_ key", "k"]
)
def test_an_auth_key_that_signs_or_is_sent_is_accepted(auth_key: str) -> None:
    assert check_auth_key(auth_key) == auth_key
    assert signs(auth_key) is auth_key.startswith("whsec_")


@pytest.mark.parametrize(
    "rest", ["", "!!!", "A", "QUJD", "QUJD" * 7 + "QQ", b64(b"x" * 23), b64(b"x" * 65), b64(b"x" * 32) + " ", "é" * 32]
)
def test_an_auth_key_that_only_begins_like_a_signing_secret_is_refused(rest: str) -> None:
    with pytest.raises(ValueError) as error:
        check_auth_key(f"whsec_{rest}")
    assert str(error.value) == SECRET_RULE
