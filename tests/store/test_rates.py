"""Rate limits of submissions: token buckets in the store."""

import asyncio
from itertools import accumulate

import pytest

from queue_engine.domain.rates import RateScope, RateState
from queue_engine.store.scripts import load_library, make_script
from queue_engine.store.store import Store
from queue_engine.store.tasks import Submission
from tests.store.bench import TENANT, Bench, config
from tests.store.probe import Probe

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND
BUCKET = """\
-- Take tokens at these times, one after the other. Return the number left after each, and -1 without a token.
--
-- arguments: per_second text, times list of text
-- replies:
--   OK: left list of integer
local bucket, found = false, {}
for index, time in ipairs(times) do
  local after, left = take_token(bucket, per_second, tonumber(time))
  if after then bucket = after end
  found[index] = left or -1
end
return { 'OK', found }
"""


async def _left_after(probe: Probe, per_second: int, times: list[int]) -> list[int]:
    text = make_script("example", BUCKET, load_library()).text
    _, left = await probe.ask("EVAL", text, 0, per_second, *(NOW + time for time in times))
    return [int(number) for number in left]


@pytest.mark.parametrize("per_second", [1, 2, 3, 6, 7, 49, 64, 999, 1000, 1357])
async def test_a_bucket_gives_the_tokens_of_one_second_and_no_more(probe: Probe, per_second: int) -> None:
    left = await _left_after(probe, per_second, [0] * (per_second + 2))
    assert left == [*range(per_second - 1, -1, -1), -1, -1]


@pytest.mark.parametrize("per_second", [1, 3, 7, 100])
async def test_a_token_comes_back_after_its_share_of_a_second(probe: Probe, per_second: int) -> None:
    share = SECOND // per_second + 1
    empty = [0] * per_second
    assert (await _left_after(probe, per_second, [*empty, share - 100]))[-1] == -1
    assert (await _left_after(probe, per_second, [*empty, share, share]))[-2:] == [0, -1]


async def test_a_bucket_never_has_more_than_the_tokens_of_one_second(probe: Probe) -> None:
    hours = 3600 * SECOND
    assert (await _left_after(probe, 5, [0, *[hours] * 6]))[1:] == [4, 3, 2, 1, 0, -1]


async def test_a_bucket_from_before_a_step_back_of_the_clock_is_full(probe: Probe) -> None:
    back = -3600 * SECOND
    assert await _left_after(probe, 2, [0, 0, back, back, back, back + SECOND]) == [1, 0, 1, 0, -1, 1]


@pytest.mark.parametrize("seconds", [1, 10])
async def test_a_steady_load_gets_the_rate_on_average(probe: Probe, seconds: int) -> None:
    times = list(accumulate([SECOND // 40] * (40 * seconds), initial=0))
    accepted = sum(left >= 0 for left in await _left_after(probe, 20, times))
    assert 20 * (seconds + 1) - 1 <= accepted <= 20 * (seconds + 1) + 1


async def _limited(store: Store, probe: Probe, per_second: int) -> Bench:
    endpoint = await store.endpoints.create(TENANT, config(max_submits_per_second=per_second))
    return Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])


async def test_an_endpoint_accepts_no_more_submissions_than_its_limit(store: Store, probe: Probe) -> None:
    bench = await _limited(store, probe, 5)
    began = await probe.now_ms()
    results = await asyncio.gather(*(bench.submit(f"t{number}") for number in range(40)))
    seconds = (await probe.now_ms() - began) / 1000
    accepted = results.count(Submission.ACCEPTED)
    assert 5 <= accepted <= 5 + 5 * seconds + 1
    assert results.count(Submission.LIMITED) == 40 - accepted
    assert (await store.tasks.counts(bench.endpoint_id)).queued == accepted
    assert await bench.check() == []


async def test_a_submission_says_how_many_are_left(store: Store, probe: Probe) -> None:
    bench = await _limited(store, probe, 1000)
    first = await store.tasks.enqueue(bench.new_task("t1"))
    assert first.rate == RateState(RateScope.ENDPOINT, 1000, 999)


async def test_a_repeated_submission_costs_a_token(store: Store, probe: Probe) -> None:
    bench = await _limited(store, probe, 1)
    # More than one token is there only when the machine stalls for a second.
    results = [await bench.submit("t1") for _ in range(50)]
    assert results[0] is Submission.ACCEPTED
    assert set(results[1:]) <= {Submission.DUPLICATE, Submission.LIMITED}
    assert Submission.LIMITED in results
    assert (await store.tasks.counts(bench.endpoint_id)).queued == 1


async def test_an_endpoint_without_a_limit_has_no_bucket(bench: Bench) -> None:
    enqueued = await bench.store.tasks.enqueue(bench.new_task("t1"))
    assert (enqueued.result, enqueued.rate) == (Submission.ACCEPTED, None)
    assert "submits" not in await bench.probe.hash(bench.keys.counts)
