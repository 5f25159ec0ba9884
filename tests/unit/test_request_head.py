"""Rules for the head of a request that the HTTP parser does not check."""

import pytest

from queue_engine.api.http.request_head import head_problem


@pytest.mark.parametrize(
    "host",
    [
        "x",
        "x.example",
        "x.example.",
        "X.example:8000",
        "a_b.example",
        "xn--bcher-kva.example",
        "a--b",
        "127.0.0.1",
        "[::1]:1",
    ],
)
def test_a_host_name_or_an_address_is_a_host(host: str) -> None:
    assert head_problem("1.1", b"/", [(b"host", host.encode())]) is None


@pytest.mark.parametrize(
    "host", ["", ".", "..", "a..b", ".a", "a..", "-", "a.-", "-.a", "a.-.b", "a b", "a/b", "a" * 256, ":80", "..:80"]
)
def test_a_name_with_an_empty_label_is_no_host(host: str) -> None:
    problem = head_problem("1.1", b"/", [(b"host", host.encode())])
    assert problem is not None
    assert problem.status == 400
    target = f"http://{host}/".encode()
    assert head_problem("1.1", target, [(b"host", host.encode())]) is not None
