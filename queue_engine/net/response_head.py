"""The head of an HTTP response."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header fields of a response; names are in lower case."""

    status: int
    fields: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[str]:
        """Return all values of a header."""
        return [value.decode("utf-8", "surrogateescape") for found, value in self.fields if found == name]

    def value(self, name: bytes) -> str | None:
        """Return the first value of a header."""
        return next(iter(self.values(name)), None)

    @property
    def length(self) -> int | None:
        """The Content-Length."""
        value = self.value(b"content-length")
        return None if value is None else int(value)

    @property
    def transfer_codings(self) -> list[str]:
        """The transfer codings, in lower case and in the order in which they were applied."""
        values = self.values(b"transfer-encoding")
        return [name.strip() for name in ",".join(values).lower().split(",")] if values else []

    @property
    def body_ends_with_connection(self) -> bool:
        """True if neither a length nor chunks say where the body ends."""
        return self.length is None and self.transfer_codings[-1:] != ["chunked"]
