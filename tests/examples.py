"""How many examples Hypothesis tries of a property."""

from typing import Any

from hypothesis import settings

FULL = 100
"""Examples of a property that names no number, in the profile `tests`."""


def examples(count: int, **options: Any) -> settings:
    """Return settings for `count` examples in the profile `tests`, and for a share of them in one with fewer."""
    return settings(max_examples=max(1, count * settings().max_examples // FULL), **options)
