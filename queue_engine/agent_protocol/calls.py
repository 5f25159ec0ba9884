"""The calls of the protocol, each with its path and the types of its messages. Both sides encode and decode here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from queue_engine.agent_protocol import messages
from queue_engine.agent_protocol.frames import BadFrame, Blob, framed, parts_of

PREFIX = "/agent/v1/"

Request = TypeVar("Request")
Response = TypeVar("Response")
Message = TypeVar("Message")


class Codec(Generic[Message]):
    """Encodes and decodes frames with one type of message."""

    def __init__(self, kind: type[Message]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def encode(self, message: Message, blobs: Sequence[Blob] = ()) -> tuple[Blob, ...]:
        """Return the frame in parts, to be sent one after the other. Text that UTF-8 cannot encode raises BadFrame."""
        try:
            return framed(msgspec.json.encode(message), blobs)
        except UnicodeEncodeError:
            raise BadFrame("the message has text that UTF-8 cannot encode") from None

    def decode(self, frame: Blob) -> tuple[Message, list[memoryview]]:
        """Return the message and the blobs, which are views of the frame. Raises BadFrame."""
        head, blobs = parts_of(frame)
        try:
            return self._decoder.decode(head), blobs
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(f"the message is not valid: {error}") from None


class Call(Generic[Request, Response]):
    """A call: `POST path` with a request. The response is a 200 with its message, or a refusal."""

    def __init__(self, name: str, request: type[Request], response: type[Response]) -> None:
        self.name = name
        self.path = PREFIX + name
        self.request = Codec(request)
        self.response = Codec(response)


HELLO = Call("hello", messages.WorkerRequest, messages.HelloResponse)
CLAIM = Call("claim", messages.ClaimRequest, messages.ClaimResponse)
START = Call("start", messages.StartRequest, messages.StartResponse)
PUT_BACK = Call("put-back", messages.PutBackRequest, messages.Done)
RENEW = Call("renew", messages.RenewRequest, messages.RenewResponse)
WATCH = Call("watch", messages.WatchRequest, messages.WatchResponse)
SETTLE = Call("settle", messages.SettleRequest, messages.SettleResponse)
REGISTER = Call("register", messages.WorkerRequest, messages.Done)
REPORT = Call("report", messages.ReportRequest, messages.ReportResponse)
REMOVE = Call("remove", messages.WorkerRequest, messages.Done)
LOG = Call("log", messages.LogRequest, messages.Done)
