"""Responses with long texts have the same content as short ones, and do not copy the texts."""

import json

import pytest

from queue_engine.api.http.cycle import MAX_JOINED_BYTES
from queue_engine.api.http.responses import Response, success_with_texts

LONG = b'"' + b"x" * MAX_JOINED_BYTES + b'"'


def content_of(response: Response) -> object:
    parts = [part for part in response.more if isinstance(part, bytes | memoryview)]
    return json.loads(b"".join([response.body, *map(bytes, parts)]))


@pytest.mark.parametrize("input_", [b'{"n": 1}', LONG, memoryview(LONG)])
@pytest.mark.parametrize("output", [None, b"", b"[2]", LONG])
def test_the_texts_are_members_of_the_data(input_: bytes | memoryview, output: bytes | None) -> None:
    response = success_with_texts({"taskId": "a"}, {"input": input_, "output": output})
    data = {"taskId": "a", "input": json.loads(bytes(input_)), "output": json.loads(output) if output else None}
    assert content_of(response) == {"message": "success", "code": 10000, "data": data}


def test_a_long_text_is_not_copied() -> None:
    response = success_with_texts({"taskId": "a"}, {"input": LONG, "output": None})
    assert any(part is LONG for part in response.more)


async def test_the_length_is_that_of_all_parts() -> None:
    response, messages = success_with_texts({"taskId": "a"}, {"input": LONG, "output": LONG}), []

    async def send(message: dict[str, object]) -> None:
        messages.append(message)

    await response.send(send)  # type: ignore[arg-type]
    start, *bodies = messages
    assert dict(start["headers"])[b"content-length"] == b"%d" % sum(len(one["body"]) for one in bodies)  # type: ignore[call-overload, arg-type, misc]
    assert [one.get("more_body", False) for one in bodies] == [True] * (len(bodies) - 1) + [False]
