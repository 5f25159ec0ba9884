"""The figures and names on the page of the worker's contract are those of the code."""

import re

import pytest

from queue_engine.config.agent import AgentSettings
from queue_engine.config.engine import ApiSettings
from queue_engine.domain.agent_protocol import CONTAINER_STOP_SECONDS
from queue_engine.domain.deliveries import MAX_RESULT_BYTES
from queue_engine.domain.retry import MAX_CONTAINER_RETRY_AFTER_SECONDS
from queue_engine.domain.tasks import ERROR_EXCERPT_BYTES
from queue_engine.net.bad_responses import MAX_HEAD_BYTES
from queue_engine.processes.process_groups import PASSED_ON
from queue_engine.rules.headers import MAX_HEADERS, MAX_HEADERS_BYTES
from queue_engine.rules.outputs import output_of
from queue_engine.rules.paths import MAX_PROCESS_URI_CHARACTERS
from tests.docs.pages import page
from worker_agent.forward import CONNECT_TIMEOUT_SECONDS, FAILURE_BODY_SECONDS, KEEPALIVE_SECONDS

PAGE = page("docs/reference/worker-contract.md").text


def row(first: str) -> str:
    """Return the row of a table that begins with this cell."""
    [found] = [line for line in PAGE.splitlines() if line.startswith(f"| {first} |")]
    return found


def test_the_environment_is_that_of_the_process_backend() -> None:
    inherited = row("environment").partition("of the controller's own environment")[2]
    assert tuple(re.findall(r"`(\w+)`", inherited)) == PASSED_ON


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("path", f"at most {MAX_PROCESS_URI_CHARACTERS} characters"),
        ("other headers", f"at most {MAX_HEADERS}, {MAX_HEADERS_BYTES // 1024} KiB in all"),
        ("input", f"{ApiSettings.model_fields['max_body_bytes'].default // 1024**2} MiB"),
        ("status line and headers of a response", f"{MAX_HEAD_BYTES // 1024} KiB"),
        ("body of a 2xx, decoded", f"{AgentSettings.model_fields['max_answer_bytes'].default // 1024**2} MiB"),
        ("body of any other status", f"{ERROR_EXCERPT_BYTES // 1024} KiB"),
        ("result in a webhook", f"{MAX_RESULT_BYTES // 1024} KiB"),
        ("end", f"SIGKILL after {CONTAINER_STOP_SECONDS:g} s"),
        ("429, 503, or no connection", f"up to {MAX_CONTAINER_RETRY_AFTER_SECONDS:g}"),
    ],
)
def test_a_limit_is_that_of_the_code(place: str, text: str) -> None:
    assert text in row(place)


@pytest.mark.parametrize(
    "text",
    [
        f"kept alive for {KEEPALIVE_SECONDS:g} s",
        f"A connection has\n  {CONNECT_TIMEOUT_SECONDS:g} s",
        f"that body for at most {FAILURE_BODY_SECONDS:g} s",
    ],
)
def test_a_time_is_that_of_the_code(text: str) -> None:
    assert text in PAGE


@pytest.mark.parametrize(
    ("content_type", "body", "output"),
    [
        ("application/json", b"", b"null"),
        ("", b'{"x": 1.00}', b'{"x": 1.00}'),
        ("application/json; charset=latin-1", '"ä"'.encode(), '"ä"'.encode()),
        ("application/json", b'{"x": NaN}', b'"{\\"x\\": NaN}"'),
        ("text/plain", b"hello", b'"hello"'),
        ("image/png", b"\x89", b'{"contentType": "image/png", "base64": "iQ=="}'),
    ],
)
def test_an_output_is_made_as_the_page_says(content_type: str, body: bytes, output: bytes) -> None:
    assert output_of(content_type, body) == output
