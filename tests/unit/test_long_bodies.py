"""Long bodies are parsed beside the event loop."""

import threading

import pytest
from starlette.requests import Request
from starlette.types import Message

from queue_engine.api.http.bodies import MAX_SPLIT_BYTES, BodyReader, TenantBodies


class NotingNames(frozenset[str]):
    """A set of names that notes the threads in which it is asked."""

    threads: set[int]

    def __contains__(self, name: object) -> bool:
        self.threads.add(threading.get_ident())
        return super().__contains__(name)


@pytest.mark.parametrize("is_long", [False, True])
async def test_only_a_long_body_is_parsed_in_a_thread(is_long: bool) -> None:
    text = b'{"a": "%b"}' % (b"x" * (MAX_SPLIT_BYTES if is_long else 1))

    async def receive() -> Message:
        return {"type": "http.request", "body": text}

    names = NotingNames({"a"})
    names.threads = set()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    request = Request({"type": "http", "headers": headers}, receive)
    body = await BodyReader(2 * len(text), 9.0, TenantBodies(0)).read_object(request, "a", names)
    assert len(body.values["a"]) == len(text) - len(b'{"a": ""}')
    assert (threading.get_ident() in names.threads) is not is_long
