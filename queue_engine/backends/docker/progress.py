"""The progress of a pull in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_LAYERS = 1000
"""Maximum number of layers whose progress is kept. Engines accept images with at most 127."""
MAX_MESSAGE_CHARACTERS = 300
_GB = 1_000_000_000


class Progress:
    """Sums up the lines of a pull."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def note(self, line: Mapping[str, Any]) -> None:
        """Note a line of the engine's response. Lines without a size are ignored."""
        layer, status, detail = line.get("id"), line.get("status"), line.get("progressDetail")
        if not isinstance(layer, str) or (layer not in self._layers and len(self._layers) >= MAX_LAYERS):
            return
        if status in ("Download complete", "Pull complete"):
            total = self._layers.get(layer, (0, 0))[1]
            self._layers[layer] = (total, total)
        elif status == "Downloading" and isinstance(detail, Mapping):
            current, total = _count(detail.get("current")), _count(detail.get("total"))
            self._layers[layer] = (current, max(current, total))

    @property
    def text(self) -> str:
        """The progress, such as `pulling 3.1 of 8.4 GB`; without numbers while the size is unknown."""
        current = sum(done for done, _ in self._layers.values())
        total = sum(size for _, size in self._layers.values())
        return f"pulling {current / _GB:.1f} of {total / _GB:.1f} GB" if total else "pulling the image"


def short(message: str) -> str:
    """Return an engine's message in one line of limited length."""
    return " ".join(message.split())[:MAX_MESSAGE_CHARACTERS]


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
