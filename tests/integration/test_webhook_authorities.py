"""Receivers of webhooks with certificates of a private authority."""

import logging
import os
from pathlib import Path

import pytest

from queue_engine.delivery.guard import Guard
from queue_engine.delivery.sender import OutgoingRequest, SenderLimits, open_sender
from queue_engine.net.authorities import Authorities
from queue_engine.net.reloaded_files import CHECK_SECONDS
from queue_engine.rules.webhook_urls import AddressPolicy
from queue_engine.store.store import Store
from tests.integration.certificates import Authority, Certificate, self_signed
from tests.integration.parts import Programs, new_endpoint
from tests.integration.receivers import OK, answering, receiver, stub_resolver
from tests.integration.test_delivery import end_task
from tests.waiting import wait_until_async

HOST = "hook.example"
LOOPBACK = Guard(AddressPolicy.allowing(["127.0.0.0/8"]))
PATIENT = SenderLimits(total_seconds=20.0, connect_seconds=10.0, body_seconds=10.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def error_of(authorities: Authorities, certificate: Certificate) -> str | None:
    """Return the error type of an attempt to a receiver at HOST with this certificate."""
    async with (
        receiver(answering(OK), tls=certificate.server_context()) as target,
        open_sender(LOOPBACK, stub_resolver({HOST: [["127.0.0.1"]]}), PATIENT, tls=authorities.context) as sender,
    ):
        response = await sender.send(OutgoingRequest(f"https://{HOST}:{target.port}/", {}, b"{}"))
        assert len(target.received) == (response.error_type is None)
        return response.error_type


def replaced(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    os.replace(draft, path)


async def test_a_certificate_of_the_bundles_authority_is_accepted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue(HOST)
    assert await error_of(Authorities(authority.bundle), certificate) is None
    assert await error_of(Authorities(), certificate) == "tls_error"


async def test_a_bundle_changes_no_other_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    authorities = Authorities(authority.bundle)
    assert await error_of(authorities, authority.issue("other.example")) == "tls_error"
    assert await error_of(authorities, other.issue(HOST)) == "tls_error"
    assert await error_of(authorities, self_signed(tmp_path, HOST)) == "tls_error"
    monkeypatch.setenv("SSL_CERT_FILE", str(other.bundle))
    assert await error_of(Authorities(authority.bundle), other.issue(HOST)) is None, "the system's are trusted too"


async def test_a_changed_bundle_is_used_by_new_connections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    bundle, clock = tmp_path / "bundle.pem", Clock()
    replaced(bundle, first.bundle.read_bytes())
    authorities = Authorities(bundle, monotonic=clock)
    for broken in (b"no certificate", second.bundle.read_bytes()[:100]):
        replaced(bundle, broken)
        for _ in range(2):
            clock.now += CHECK_SECONDS
            assert await error_of(authorities, first.issue(HOST)) is None
    assert caplog.text.count("the new bundle of authorities is not used (QUEUE_ENGINE_WEBHOOK_CA)") == 2
    replaced(bundle, second.bundle.read_bytes())
    clock.now += CHECK_SECONDS
    with caplog.at_level(logging.INFO):
        assert await error_of(authorities, second.issue(HOST)) is None
    assert "the bundle of authorities was replaced" in caplog.text
    assert await error_of(authorities, first.issue(HOST)) == "tls_error"


async def test_a_bundle_may_have_several_authorities_and_comments(tmp_path: Path) -> None:
    one, two = Authority(tmp_path, "one"), Authority(tmp_path, "two")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes("# für uns\n".encode() + one.bundle.read_bytes() + b"# two\n" + two.bundle.read_bytes())
    for authority in (one, two):
        assert await error_of(Authorities(bundle), authority.issue(HOST)) is None


async def test_a_delivery_process_trusts_the_authorities_of_its_bundle(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("127.0.0.1")
    async with receiver(answering(OK), tls=certificate.server_context()) as target:
        endpoint_id = await new_endpoint(store)
        await end_task(store, endpoint_id, webhook=f"https://127.0.0.1:{target.port}/hook")
        programs.delivery(QUEUE_ENGINE_WEBHOOK_CA=str(authority.bundle))
        await wait_until_async(lambda: target.received, message="nothing was delivered")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/nowhere.pem", "No such file or directory"),
        ("/", "Is a directory"),
        (__file__, "must have certificates in PEM form"),
    ],
)
def test_an_unusable_bundle_ends_the_start_and_names_the_setting(programs: Programs, path: str, problem: str) -> None:
    program = programs.start("delivery", "queue_engine", "delivery", QUEUE_ENGINE_WEBHOOK_CA=path)
    assert program.wait() == 2
    assert f"QUEUE_ENGINE_WEBHOOK_CA: {problem}" in program.output()
