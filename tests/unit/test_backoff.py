import pytest

from queue_engine.aio import Backoff


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.2), (2, 0.4), (3, 0.8), (6, 6.4), (7, 10.0), (8, 10.0), (1_000_000, 10.0)]
)
def test_the_wait_doubles_up_to_the_highest(failures: int, seconds: float) -> None:
    assert Backoff(0.2, 10.0).delay_after(failures) == pytest.approx(seconds)


@pytest.mark.parametrize(("luck", "seconds"), [(0.0, 5.0), (0.5, 7.5), (0.999, 9.995)])
def test_luck_shortens_the_wait_by_up_to_half(luck: float, seconds: float) -> None:
    assert Backoff(1.0, 10.0).delay_after(9, luck=luck) == pytest.approx(seconds)
