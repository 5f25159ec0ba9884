"""How long an agent claims nothing after tasks that it cannot open."""

from worker_agent.claim_pause import ClaimPause


class Time:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def pauses(pause: ClaimPause, time: Time, count: int) -> list[float]:
    found = []
    for _ in range(count):
        pause.begin()
        found.append(pause.seconds_left)
        time.seconds += pause.seconds_left
    return found


def test_pauses_grow_up_to_a_limit_while_no_task_can_be_opened() -> None:
    time = Time()
    pause = ClaimPause(time)
    assert pause.seconds_left == 0
    assert pauses(pause, time, 6) == [60, 120, 240, 480, 600, 600]
    assert pause.seconds_left == 0


def test_a_second_task_of_the_same_read_does_not_prolong_a_pause() -> None:
    time = Time()
    pause = ClaimPause(time)
    pause.begin()
    time.seconds += 1
    pause.begin()
    assert pause.seconds_left == 59


def test_a_task_that_can_be_opened_makes_the_next_pause_short() -> None:
    time = Time()
    pause = ClaimPause(time)
    pauses(pause, time, 3)
    pause.note_readable()
    assert pauses(pause, time, 2) == [60, 120]


def test_a_wait_neither_shortens_a_pause_nor_makes_the_next_one_longer() -> None:
    time = Time()
    pause = ClaimPause(time)
    pause.wait(2)
    assert pause.seconds_left == 2
    time.seconds += 2
    assert pauses(pause, time, 1) == [60]
    pause.begin()
    pause.wait(2)
    assert pause.seconds_left == 120
