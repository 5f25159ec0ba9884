"""Schemas that all JSON responses share: the envelope, and the base class of its content."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

T = TypeVar("T")


class View(BaseModel):
    """A JSON object in a response. Times are epoch milliseconds."""

    # Built when the OpenAPI document is, because nothing else uses these classes, and every API process imports them.
    model_config = ConfigDict(alias_generator=to_camel, defer_build=True)  # type: ignore[pydantic-alias]


class Success(View, Generic[T]):
    """The envelope of every successful response."""

    message: Literal["success"]
    code: Literal[10000]
    data: T = Field(description="The content of the response")


class Failure(View):
    """The envelope of every error."""

    message: str = Field(
        description="Description of the error; for a field, `<field>: <rule>`", examples=["input: is required"]
    )
    code: int = Field(description="Error code, more specific than the HTTP status", examples=[10001])
    data: None = Field(description="Always null")
