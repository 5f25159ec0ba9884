"""What a client sends to submit a task."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated

import orjson
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict

from queue_engine.api.fields import FieldError, OptionalWebhook, RequestModel, parsed
from queue_engine.domain.field_types import ContainerPath, ExecutionTimeout, Port, QueueTtl, matching
from queue_engine.domain.headers import MAX_HEADERS, headers_fault
from queue_engine.domain.tasks import TaskSpec
from queue_engine.runtime.strict_json import JsonObject

RAW_FIELDS = frozenset({"input"})
FINGERPRINT_BYTES = 16

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def _not_null(text: bytes) -> bytes:
    if text == b"null":
        raise ValueError("must not be null")
    return text


def _few(headers: object) -> object:
    """Refuse too many before each one is looked at: the faults of 100,000 headers take a second to make."""
    if isinstance(headers, dict) and len(headers) > MAX_HEADERS:
        raise ValueError(f"must hold at most {MAX_HEADERS} headers")
    return headers


def _forwardable(headers: dict[str, str]) -> dict[str, str]:
    fault = headers_fault(headers)
    if fault is not None:
        raise ValueError(fault)
    return headers


_EXAMPLE: JsonDict = {
    "taskId": "summary_0042",
    "input": {"text": "It was the best of times"},
    "workerPort": 8000,
    "processUri": "/summarize",
    "webhook": "https://hooks.example.com/done",
    "webhookAuthKey": "a long random word",
}


class SubmitTask(RequestModel):
    """A task for a QUEUE endpoint."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    task_id: (
        Annotated[
            str,
            matching(r"[A-Za-z0-9_]{1,255}", "must be 1–255 of letters, digits and _"),
            Field(json_schema_extra={"pattern": "^[A-Za-z0-9_]{1,255}$"}),
        ]
        | None
    ) = Field(None, description="Your id for the task; a UUID without hyphens when absent")
    input: Annotated[bytes, AfterValidator(_not_null), WithJsonSchema({"not": {"type": "null"}, "title": "Input"})] = (
        Field(description="Any JSON value but null; the container gets the same bytes")
    )
    worker_port: Port = Field(description="Port of the container that the task is posted to")
    process_uri: ContainerPath = Field(
        description="Path that the task is posted to; a leading slash is added, and one at the end is kept"
    )
    webhook: OptionalWebhook = Field(None, description="Where the result is POSTed to")
    webhook_auth_key: (
        Annotated[
            str,
            Field(min_length=1, max_length=255),
            matching(r"[!-~](?:[ -~]*[!-~])?", "must be visible ASCII characters, with spaces inside only"),
        ]
        | None
    ) = Field(None, description="Sent to the webhook as `X-API-Key`; never shown again")
    headers: Annotated[dict[str, str], BeforeValidator(_few), AfterValidator(_forwardable)] = Field(
        {}, description="Headers for the container; hop-by-hop, framing and routing headers are refused"
    )
    execution_timeout_seconds: ExecutionTimeout | None = Field(
        None, description="How long one attempt may take; as the endpoint has it when absent"
    )
    queue_ttl_seconds: QueueTtl | None = Field(
        None, description="How long it may wait before it ends as expired; as the endpoint has it when absent"
    )

    @classmethod
    def parse(cls, body: JsonObject) -> tuple[SubmitTask, list[FieldError]]:
        """Return the task and the field errors, as `parsed` does."""
        return parsed(cls, body.values | body.raw)

    @property
    def first_secret(self) -> str | None:
        """The name of a field that must be encrypted at rest; None when there is none."""
        if self.headers:
            return "headers"
        return None if self.webhook_auth_key is None else "webhookAuthKey"

    def spec(self, traceparent: str | None) -> TaskSpec:
        """What is stored with the task beside its input."""
        return TaskSpec(
            worker_port=self.worker_port,
            process_uri=self.process_uri,
            headers=self.headers,
            webhook=self.webhook.url if self.webhook else None,
            webhook_destination=self.webhook.destination if self.webhook else None,
            webhook_auth_key=self.webhook_auth_key,
            traceparent=traceparent,
        )

    def fingerprint(self, key: bytes) -> str:
        """The same for the same request, whatever its spacing outside `input` and the order of its fields.

        Keyed with `key` (at most 64 bytes), so that a guess at a secret cannot be checked against the store's data.
        """
        url = self.webhook.url if self.webhook else None
        known: list[object] = [
            self.worker_port, self.process_uri, url, self.webhook_auth_key, sorted(self.headers.items())
        ]  # fmt: skip
        # Only when given, so that a request without them stays the same request as before there were these fields.
        if self.execution_timeout_seconds is not None or self.queue_ttl_seconds is not None:
            known += [self.execution_timeout_seconds, self.queue_ttl_seconds]
        return blake2b(orjson.dumps(known) + self.input, digest_size=FINGERPRINT_BYTES, key=key).hexdigest()


def traceparent_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's `traceparent` header when there is exactly one and it is well-formed (W3C Trace Context)."""
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) != 1 or _TRACEPARENT.fullmatch(given[0]) is None:
        return None
    return given[0].decode("ascii")
