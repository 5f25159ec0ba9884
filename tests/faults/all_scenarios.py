"""All scenarios by name, in the order in which they are run."""

from __future__ import annotations

from tests.faults import kills, links, stores
from tests.faults.scenarios import SCENARIOS

MODULES = (kills, links, stores)
"""Importing them has entered their scenarios."""

__all__ = ["SCENARIOS"]
