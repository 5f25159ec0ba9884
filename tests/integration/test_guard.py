"""The guard at connect: a canary listens on loopback and must never hear a thing."""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest

from queue_engine.delivery.guard import Guard, Origin, guarded_pool
from queue_engine.delivery.sender import OutgoingRequest, SenderLimits, open_sender
from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.net.connection_pool import ConnectionPool
from queue_engine.net.error_types import BlockedAddress, CallError
from queue_engine.net.resolver import CachingResolver
from queue_engine.rules.webhook_urls import AddressPolicy, destination_refusal, parse_webhook
from tests.integration.receivers import OK, Receiver, answering, receiver, stub_resolver

LOOPBACK = AddressPolicy.allowing(["127.0.0.0/8", "::1/128"])
LIMITS = SenderLimits(total_seconds=5.0, connect_seconds=4.0)


@pytest.fixture
async def canary() -> AsyncIterator[Receiver]:
    async with receiver(answering(OK)) as target:
        yield target
        assert target.connections == 0


@contextmanager
def connections(guard: Guard, resolver: CachingResolver) -> Iterator[ConnectionPool[Origin]]:
    pool = guarded_pool(guard, resolver, tls=ssl.create_default_context, connections=4, connect_seconds=4.0)
    try:
        yield pool
    finally:
        pool.close()


async def send(guard: Guard, resolver: CachingResolver, url: str) -> WebhookResponse:
    async with open_sender(guard, resolver, LIMITS) as sender:
        return await sender.send(OutgoingRequest(url, {}, b"{}"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "[::]", "10.0.0.5", "localhost"]
)
async def test_an_inside_address_is_not_connected_to(canary: Receiver, host: str) -> None:
    answer = await send(Guard(), stub_resolver(), f"http://{host}:{canary.port}/")
    assert (answer.status, answer.error_type) == (None, "blocked_address")
    assert answer.excerpt == "the destination is not allowed"


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "a@127.0.0.1"])
async def test_another_spelling_of_an_inside_address_is_not_connected_to(canary: Receiver, host: str) -> None:
    assert (await send(Guard(), stub_resolver(), f"http://{host}:{canary.port}/")).error_type == "invalid_request"
    with connections(Guard(), stub_resolver()) as pool, pytest.raises(CallError):
        await pool.acquire(Origin(host, canary.port, is_tls=False))


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        ["127.0.0.1", "93.184.216.34"],
        ["fe80::1%1"],
    ],
)
async def test_a_name_with_an_inside_address_is_not_connected_to(canary: Receiver, addresses: list[str]) -> None:
    resolver = stub_resolver({"hook.example": [addresses]})
    assert (await send(Guard(), resolver, f"http://hook.example:{canary.port}/")).error_type == "blocked_address"


async def test_one_refused_address_among_allowed_ones_refuses_the_name(canary: Receiver) -> None:
    resolver = stub_resolver({"hook.example": [["127.0.0.1", "10.0.0.1"]]})
    assert (
        await send(Guard(LOOPBACK), resolver, f"http://hook.example:{canary.port}/")
    ).error_type == "blocked_address"


async def test_a_name_that_changes_between_submit_and_connect_is_refused(canary: Receiver) -> None:
    resolver = stub_resolver({"rebind.example": [["93.184.216.34"], ["127.0.0.1"]]})
    webhook = parse_webhook(f"http://rebind.example:{canary.port}/")
    guard = Guard()
    assert destination_refusal(webhook, await resolver.addresses(webhook.host), guard.policy) is None
    assert (await send(guard, resolver, webhook.url)).error_type == "blocked_address"


async def test_a_private_networks_name_is_refused_although_its_address_is_public(canary: Receiver) -> None:
    resolver = stub_resolver({"metadata.google.internal": [["93.184.216.34"]]})
    assert (await send(Guard(), resolver, "http://metadata.google.internal/")).error_type == "blocked_address"


async def test_the_socket_is_refused_where_the_check_of_the_lookup_would_not_see_it(canary: Receiver) -> None:
    """An address literal never reaches the resolver: the connector's own socket must be refused."""
    with connections(Guard(), stub_resolver()) as pool, pytest.raises(CallError) as error:
        await pool.acquire(Origin("127.0.0.1", canary.port, is_tls=False))
    assert isinstance(error.value.__cause__, BlockedAddress)
    assert error.value.error_type == "blocked_address"


async def test_this_apis_own_port_is_refused_although_loopback_is_allowed(canary: Receiver) -> None:
    guard = Guard(LOOPBACK, own_ports=frozenset({canary.port}))
    resolver = stub_resolver({"me.example": [["127.0.0.1"]]})
    for host in ("127.0.0.1", "localhost", "me.example"):
        assert (await send(guard, resolver, f"http://{host}:{canary.port}/")).error_type == "blocked_address"


async def test_the_stores_port_is_refused_at_every_private_address(canary: Receiver) -> None:
    guard = Guard(LOOPBACK, store_ports=frozenset({canary.port}))
    resolver = stub_resolver({"store.example": [["127.0.0.1"]]})
    for host in ("127.0.0.1", "localhost", "store.example"):
        assert (await send(guard, resolver, f"http://{host}:{canary.port}/")).error_type == "blocked_address"


async def test_what_the_operator_allows_is_connected_to() -> None:
    async with receiver(answering(OK)) as target:
        resolver = stub_resolver({"hook.internal": [["127.0.0.1"]]})
        for host in ("127.0.0.1", "localhost", "hook.internal"):
            assert (await send(Guard(LOOPBACK), resolver, f"http://{host}:{target.port}/")).error_type is None
    assert target.connections == 3


async def test_closing_a_sender_leaves_the_resolver_open() -> None:
    resolver = stub_resolver({"hook.example": [["127.0.0.1"]]})
    async with open_sender(Guard(), resolver):
        pass
    assert await resolver.addresses("hook.example") == ("127.0.0.1",)
