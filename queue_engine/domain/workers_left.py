"""Exit statuses of a controller that was to end its workers (QUEUE_ENGINE_END_WORKERS) and has left some."""

from __future__ import annotations

from enum import IntEnum


class WorkersLeft(IntEnum):
    """The reason why workers are left. Its value is the controller's exit status."""

    UNLISTED = 20
    """The platform, or a part of it, has not listed its workers."""
    NOT_ENDED = 21
    """Workers were stopped, and have not ended."""
    NOT_LEADING = 22
    """Only a leader may end workers, and this controller did not lead."""
