"""The admission of agents by their token: its form, its header, and unknown tokens beside valid ones."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from queue_engine.api.http.auth import AgentAuthenticator
from queue_engine.api.http.failed_keys import FailedKeys
from queue_engine.crypto.api_keys import new_agent_token, new_api_key
from queue_engine.domain.agent_tokens import AgentPrincipal, AgentToken
from queue_engine.domain.errors import TooManyRequests, Unauthorized
from queue_engine.engine.key_lookups import MAX_BATCH
from queue_engine.engine.principals import CACHE_SECONDS, AgentPrincipals
from queue_engine.store.agent_tokens import TokenPlace, place_of

TOKEN, OF_WORKER = new_agent_token("7"), new_agent_token("7-3fa9c0d1e2")
ADDRESS = "192.0.2.1"


class Tokens:
    """Valid tokens, and the numbers of look-ups."""

    def __init__(self, *tokens: str) -> None:
        self.valid = set(map(place_of, tokens))
        self.singles = 0
        self.batches: list[int] = []
        self.noted: list[TokenPlace] = []

    async def find(self, place: TokenPlace) -> AgentToken | None:
        self.singles += 1
        await asyncio.sleep(0)  # as a call of the store does
        return self._token(place)

    async def find_all(self, places: Sequence[TokenPlace]) -> Mapping[TokenPlace, AgentToken | None]:
        self.batches.append(len(places))
        await asyncio.sleep(0)
        return {place: self._token(place) for place in places}

    async def note_use(self, place: TokenPlace) -> None:
        self.noted.append(place)

    def _token(self, place: TokenPlace) -> AgentToken | None:
        return AgentToken(place.holder, place.token_hash, "acme", "", 0) if place in self.valid else None


class Gate:
    """An authenticator with a clock that does not advance."""

    def __init__(self, *tokens: str) -> None:
        self.now = 1000.0
        self.tokens = Tokens(*tokens)
        principals = AgentPrincipals(self.tokens, monotonic=lambda: self.now)
        self._authenticator = AgentAuthenticator(principals, FailedKeys(60, monotonic=lambda: self.now))

    async def admit(self, *headers: tuple[bytes, bytes]) -> AgentPrincipal:
        return await self._authenticator.principal_of([(b"host", b"x"), *headers], ADDRESS)

    async def outcome(self, token: str) -> str:
        try:
            return (await self.admit(bearer(token))).endpoint_id
        except (Unauthorized, TooManyRequests) as error:
            return type(error).__name__


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


async def test_a_token_admits_to_its_endpoint() -> None:
    gate = Gate(TOKEN, OF_WORKER)
    by_hand, of_worker = await gate.admit(bearer(TOKEN)), await gate.admit(bearer(OF_WORKER))
    assert (by_hand.tenant, by_hand.endpoint_id, by_hand.worker_id) == ("acme", "7", None)
    assert (of_worker.tenant, of_worker.endpoint_id, of_worker.worker_id) == ("acme", "7", "7-3fa9c0d1e2")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-api-key", TOKEN.encode())],
        [(b"cookie", b"token=" + TOKEN.encode())],
        [(b"authorization", TOKEN.encode())],
        [(b"authorization", b"Basic " + TOKEN.encode())],
        [bearer(TOKEN), bearer(TOKEN)],
        [bearer(TOKEN), bearer(OF_WORKER)],
        [bearer(new_api_key())],
        [bearer(TOKEN + "x")],
        [bearer(TOKEN[:-1])],
        [bearer(TOKEN.upper())],
        [bearer(f" {TOKEN}\t")],
        [bearer(TOKEN.replace("qea_7_", "qea_07_"))],
        [bearer(TOKEN.replace("qea_7_", "qea_7/../8_"))],
        [bearer(TOKEN.replace("qea_7_", "qea__"))],
        [bearer("qea_" + "9" * 400)],
        [(b"authorization", b"Bearer \xff\x00")],
    ],
)
async def test_a_request_without_exactly_one_token_is_refused_without_a_look_up(
    headers: list[tuple[bytes, bytes]],
) -> None:
    gate = Gate(TOKEN, OF_WORKER)
    with pytest.raises(Unauthorized, match="Authorization: one valid agent token is required"):
        await gate.admit(*headers)
    assert (gate.tokens.singles, gate.tokens.batches) == (0, [])


async def test_a_revoked_token_is_refused_after_a_second() -> None:
    gate = Gate(TOKEN)
    assert await gate.outcome(TOKEN) == "7"
    gate.tokens.valid.clear()
    gate.now += CACHE_SECONDS
    assert await gate.outcome(TOKEN) == "Unauthorized"


async def test_ten_thousand_unknown_tokens_do_not_displace_valid_ones() -> None:
    """They come from the address of the valid agents, 400 at a time, as fast as the API refuses them."""
    fresh = new_agent_token("8")
    gate = Gate(TOKEN, fresh)
    assert await gate.outcome(TOKEN) == "7"
    unknown = [new_agent_token(str(number)) for number in range(1, 10_001)]
    outcomes: list[str] = []
    for first in range(0, len(unknown), 400):
        outcomes += await asyncio.gather(*map(gate.outcome, unknown[first : first + 400]))
        assert await gate.outcome(TOKEN) == "7"
    assert set(outcomes) == {"Unauthorized", "TooManyRequests"}
    assert outcomes.count("Unauthorized") == 60
    assert await gate.outcome(fresh) == "8"  # used for the first time, after the flood
    assert gate.tokens.singles == 61  # the limit of the address, and TOKEN once
    assert len(gate.tokens.batches) <= 26
    assert max(gate.tokens.batches) <= MAX_BATCH


async def test_the_use_of_a_token_is_noted() -> None:
    gate = Gate(TOKEN)
    for _ in range(3):
        await gate.outcome(TOKEN)
    assert gate.tokens.noted == [place_of(TOKEN)]
