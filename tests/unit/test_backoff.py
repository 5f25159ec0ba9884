import pytest

from queue_engine.runtime.supervisor import Backoff


@pytest.mark.parametrize(
    ("deaths", "seconds"), [(1, 0.2), (2, 0.4), (3, 0.8), (6, 6.4), (7, 10.0), (8, 10.0), (1_000_000, 10.0)]
)
def test_the_wait_doubles_up_to_the_highest(deaths: int, seconds: float) -> None:
    assert Backoff().delay_seconds(deaths) == pytest.approx(seconds)
