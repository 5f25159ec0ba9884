"""Which endpoints have metrics of their own."""

from hypothesis import given
from hypothesis import strategies as st

from queue_engine.controller.endpoint_figures import OTHER, EndpointQueue, endpoint_figures


def test_an_endpoint_where_no_task_waits_has_no_series_and_the_sum_of_others_always_exists() -> None:
    figures = endpoint_figures([EndpointQueue("1", 0, None)], limit=5)
    assert figures.depth == {OTHER: 0}
    assert figures.oldest_seconds == {OTHER: 0}


def test_below_the_limit_every_endpoint_where_tasks_wait_is_named() -> None:
    figures = endpoint_figures([EndpointQueue("1", 3, 5000), EndpointQueue("2", 4, None)], limit=2)
    assert figures.depth == {"1": 3, "2": 4, OTHER: 0}
    assert figures.oldest_seconds == {"1": 5, "2": 0, OTHER: 0}


def test_above_the_limit_the_oldest_are_named_then_the_deepest_and_the_rest_is_summed_up() -> None:
    queues = [
        EndpointQueue("1", 9, None), EndpointQueue("2", 1, 3000), EndpointQueue("3", 1, 1000),
        EndpointQueue("4", 90, None), EndpointQueue("5", 500, 2000), EndpointQueue("6", 2, 4000),
    ]  # fmt: skip
    assert list(endpoint_figures(queues, limit=2).depth) == ["3", "5", OTHER]
    assert list(endpoint_figures(queues, limit=5).depth) == ["3", "5", "2", "6", "4", OTHER]
    figures = endpoint_figures(queues, limit=2)
    assert figures.depth == {"3": 1, "5": 500, OTHER: 9 + 1 + 90 + 2}
    assert figures.oldest_seconds == {"3": 1, "5": 2, OTHER: 3}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(1, 10**13)), max_size=30),
    st.integers(min_value=1, max_value=10),
)
def test_no_task_is_missing_and_the_oldest_is_named_within_the_limit(
    queues: list[tuple[int, int | None]], limit: int
) -> None:
    given_queues = [EndpointQueue(str(number), *queue) for number, queue in enumerate(queues, start=1)]
    figures = endpoint_figures(given_queues, limit)
    assert figures.depth.keys() == figures.oldest_seconds.keys()
    assert len(figures.depth) <= limit + 1
    assert sum(figures.depth.values()) == sum(queue.depth for queue in given_queues)
    oldest = min((queue.oldest_ms for queue in given_queues if queue.depth and queue.oldest_ms), default=None)
    named = [at for endpoint_id, at in figures.oldest_seconds.items() if endpoint_id != OTHER and at]
    assert (min(named) if named else None) == (oldest / 1000 if oldest else None)
