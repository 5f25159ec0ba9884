"""The pages of several processes become one."""

from queue_engine.observability.sums import summed

ONE = """\
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{code="200"} 12.0
# HELP seconds Durations.
# TYPE seconds histogram
seconds_bucket{le="+Inf"} 3.0
seconds_sum 1.5
# HELP memory_bytes Memory.
# TYPE memory_bytes gauge
memory_bytes 100.0
# HELP build Build.
# TYPE build gauge
build{version="1 2"} 1.0
"""
OTHER = (
    ONE.replace("12.0", "30.0").replace("100.0", "50.0").replace("3.0\n", "4.0\n")
    + """\
# HELP only_here_total Seen by one process.
# TYPE only_here_total counter
only_here_total 7.0
"""
)


def _samples(page: bytes) -> list[str]:
    return [line for line in page.decode().splitlines() if not line.startswith("#")]


def test_counters_and_histograms_are_summed_and_gauges_are_labelled_by_process() -> None:
    assert _samples(summed({"1": ONE, "2": OTHER})) == [
        'http_requests_total{code="200"} 42.0',
        'seconds_bucket{le="+Inf"} 7.0',
        "seconds_sum 3.0",
        'memory_bytes{process="1"} 100.0',
        'memory_bytes{process="2"} 50.0',
        'build{process="1",version="1 2"} 1.0',
        'build{process="2",version="1 2"} 1.0',
        "only_here_total 7.0",
    ]


def test_processes_that_have_ended_keep_their_counts_and_lose_their_gauges() -> None:
    assert _samples(summed({"1": ONE}, [OTHER])) == [
        'http_requests_total{code="200"} 42.0',
        'seconds_bucket{le="+Inf"} 7.0',
        "seconds_sum 3.0",
        'memory_bytes{process="1"} 100.0',
        'build{process="1",version="1 2"} 1.0',
        "only_here_total 7.0",
    ]


def test_each_family_is_described_once() -> None:
    lines = summed({"1": ONE, "2": OTHER}).decode().splitlines()

    assert len([line for line in lines if line.startswith("# TYPE")]) == 5


def test_without_a_process_the_page_is_empty() -> None:
    assert summed({}) == b""
