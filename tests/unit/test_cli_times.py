from datetime import UTC, timedelta, timezone

import pytest

from queue_engine.cli.times import age, length, local_time, moment_ms

NOW_MS = 1_764_000_000_000
EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0s"),
        (1, "0.001s"),
        (420, "0.42s"),
        (8_400, "8s"),
        (119_999, "119s"),
        (120_000, "2m"),
        (7_199_000, "119m"),
        (7_200_000, "2h"),
        (172_799_000, "47h"),
        (172_800_000, "2d"),
        (40 * 86_400_000, "40d"),
    ],
)
def test_a_length_is_shown_in_its_largest_fitting_unit(milliseconds: int, text: str) -> None:
    assert length(milliseconds) == text


def test_an_age_has_whole_seconds_and_is_never_negative() -> None:
    assert age(NOW_MS - 1_500, NOW_MS) == "1s"
    assert age(NOW_MS + 10_000, NOW_MS) == "0s"


def test_a_time_has_its_offset() -> None:
    assert local_time(NOW_MS + 7, EAST) == "2025-11-24T18:00:00.007+02:00"
    assert local_time(NOW_MS, None)[-6] in "+-"


@pytest.mark.parametrize("epoch_ms", [10**18, -(10**18)])
def test_a_time_beyond_the_calendar_stays_a_number(epoch_ms: int) -> None:
    assert local_time(epoch_ms, UTC) == str(epoch_ms)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", NOW_MS - 600_000),
        ("1.5h", NOW_MS - 5_400_000),
        ("0s", NOW_MS),
        ("2d", NOW_MS - 172_800_000),
        ("1w", NOW_MS - 604_800_000),
        ("999999999w", 0),
        ("1763999999999", NOW_MS - 1),
        ("2025-11-24T16:00:00Z", NOW_MS),
        ("2025-11-24T16:00:00.250+00:00", NOW_MS + 250),
        ("2025-11-24T18:00:00+02:00", NOW_MS),
        ("2025-11-24T16:00:00", NOW_MS),
        ("2025-11-24", NOW_MS - 16 * 3_600_000),
    ],
)
def test_a_moment_is_read_as_people_write_it(text: str, expected: int) -> None:
    assert moment_ms(text, NOW_MS) == expected


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5 m", "1e3s", "٣m", "2025-13-01", "9" * 16])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be like 10m"):
        moment_ms(text, NOW_MS)
