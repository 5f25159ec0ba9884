"""`…/tasks/{taskId}/input` and `…/output`: the bytes of a task's input and output as a file.

They are read from the store in parts while they are sent, and decoded in turns with other long work. No response is one
that a browser runs: it is an attachment of a media type without scripts, and has a policy that allows nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import dataclass

from starlette.requests import Request

from queue_engine.api.http.errors import ResponseCutOff
from queue_engine.api.http.line_streams import LineStream
from queue_engine.api.http.operations import Operation
from queue_engine.api.http.responses import Headers, Response
from queue_engine.api.http.services import Services, task_id_in
from queue_engine.api.http.turns import Turns
from queue_engine.api.v2.endpoints import ENDPOINT_ID
from queue_engine.api.v2.tasks import TAG, TASK_ID
from queue_engine.domain.errors import NoOutput, NotFound, Resource, StoreUnavailable
from queue_engine.domain.principals import Right
from queue_engine.domain.tasks import TERMINAL_STATES, LongText, TaskState
from queue_engine.rules.raw_outputs import JSON, TAIL_BYTES, Decoder, Form, RawForm, is_base64, raw_form, whole_json

ANY_TYPE = "*/*"
MAX_NAME_CHARACTERS = 200
"""Part of a task's id in the name of a file. Many file systems limit a name to 255 bytes."""
_POLICY = b"sandbox; default-src 'none'"


class RawValueRoutes:
    """Sends inputs and outputs of tasks as files."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._queries = services.engine.queries
        self._turns = services.bodies.turns

    def operations(self) -> list[Operation]:
        task = "/v2/serverless/{id}/tasks/{taskId}"
        return [
            Operation(
                "GET", f"{task}/input", self.get_task_input, right=Right.VIEW_TASK,
                summary="Download the input of a task", tag=TAG, media_type=JSON,
                parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503), waits=True,
            ),
            Operation(
                "GET", f"{task}/output", self.get_task_output, right=Right.VIEW_TASK,
                summary="Download the output of a task", tag=TAG, media_type=ANY_TYPE,
                parameters=[ENDPOINT_ID, TASK_ID], failures=(401, 404, 429, 503), waits=True,
            ),
        ]  # fmt: skip

    async def get_task_input(self, request: Request) -> Response:
        """The response is the JSON text as submitted, as an attachment."""
        principal = await self._services.admit(request)
        self._services.check_shows_payloads(request.scope)
        endpoint = await self._services.endpoint(request, principal)
        task, texts = await self._queries.texts(principal, endpoint, task_id_in(request))
        first = await _first_part(texts.input)
        name = f"{task.task_id[:MAX_NAME_CHARACTERS]}-input"
        return self._response(request, texts.input, first, whole_json(texts.input.size), name)

    async def get_task_output(self, request: Request) -> Response:
        """The response is an attachment with the bytes that the container returned: JSON as it is, a text in UTF-8 as
        `text/plain`, also if it is a string in JSON, and any other with the media type that the container gave.
        `application/octet-stream` replaces types that a browser may run, such as HTML and SVG.

        404 if the task has not succeeded; `message` has the reason.
        """
        principal = await self._services.admit(request)
        self._services.check_shows_payloads(request.scope)
        endpoint = await self._services.endpoint(request, principal)
        task, texts = await self._queries.texts(principal, endpoint, task_id_in(request))
        if task.state is not TaskState.SUCCEEDED:
            raise NoOutput(task.state, has_ended=task.state in TERMINAL_STATES)
        name = f"{task.task_id[:MAX_NAME_CHARACTERS]}-output"
        if texts.output is None:
            return Response(200, b"null", JSON.encode(), _headers(f"{name}.json"))
        first = await _first_part(texts.output)
        return self._response(request, texts.output, first, await _form_of(texts.output, first), name)

    def _response(self, request: Request, text: LongText, first: bytes, found: RawForm, name: str) -> Response:
        raw = _Raw(text, first, found, self._turns)
        media_type, headers = found.media_type.encode(), _headers(f"{name}.{found.suffix}")
        if found.size is not None:
            return Response(200, b"", media_type, headers, more=(raw,))
        return LineStream.to(request, media_type, raw.pieces, headers=headers, at_end=lambda: None)


async def _first_part(text: LongText) -> bytes:
    """Return the first part of a text. Raises NotFound if it was removed since the task was read."""
    first = await text.read(0)
    if not first and text.size:
        raise NotFound(Resource.TASK)
    return first


async def _form_of(text: LongText, first: bytes) -> RawForm:
    """Return the form of an output.

    JSON of the container may begin and end as `outputs` writes bytes, and have other members between. So bytes that go
    on behind the first part are read twice: it is too late for another form once the headers are sent.
    """
    if len(first) == text.size:
        return raw_form(first, first, text.size)
    found = raw_form(first, await _read(text, text.size - TAIL_BYTES), text.size)
    place = len(first)
    while found.form is Form.BASE64 and place < found.end:
        part = await _read(text, place)
        if not is_base64(part[: found.end - place]):
            return whole_json(text.size)
        place += len(part)
    return found


async def _read(text: LongText, place: int) -> bytes:
    part = await text.read(place)
    if not part:
        raise NotFound(Resource.TASK)
    return part


def _headers(file_name: str) -> Headers:
    """Return the headers of a download. A task's id has nothing but letters, digits and `_`."""
    return (
        (b"content-disposition", b'attachment; filename="%b"' % file_name.encode()),
        (b"content-security-policy", _POLICY),
    )


@dataclass(frozen=True)
class _Raw:
    """The decoded bytes of a text.

    If the text no longer exists, or the store is unavailable, the response is cut off, which the client sees.
    """

    text: LongText
    first: bytes
    found: RawForm
    turns: Turns

    def __len__(self) -> int:
        return self.found.size or 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.pieces()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the bytes in pieces, while parts of the text are read."""
        decoder, place, part = Decoder(self.found.form), 0, self.first
        while True:
            start, place = max(0, self.found.start - place), place + len(part)
            is_last = place >= self.found.end
            inside = part[start : len(part) - max(0, place - self.found.end)]
            try:
                pieces = decoder.pieces(inside, is_last=is_last)
                while (piece := await self.turns.run(_next(pieces))) is not None:
                    yield piece
                if is_last:
                    return
                part = await self.text.read(place)
            except (StoreUnavailable, ValueError) as error:
                raise ResponseCutOff from error
            if not part:
                raise ResponseCutOff


def _next(pieces: Iterator[bytes]) -> Generator[None, None, bytes | None]:
    """Decode the next piece in one step, and return it; None after the last one."""
    piece = next(pieces, None)
    yield
    return piece
