"""How many processors this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_processors(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the number of processors in this process's affinity, or its control groups' quota rounded up if smaller.

    `groups` is where control groups are mounted, `own` lists those of this process. The format of both is that of
    cgroups(7): `cpu.max` in version 2, `cpu.cfs_quota_us` and `cpu.cfs_period_us` in version 1.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(ceil(quota) for quota in _quotas(groups, own))]))


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Yield the limits of this process's groups and of all that they are part of, in processors."""
    for folder in _folders(groups, own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)  # "max" is no number: no limit
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota_us = int((folder / "cpu.cfs_quota_us").read_text())
            if quota_us > 0:  # -1 is no limit
                yield quota_us / int((folder / "cpu.cfs_period_us").read_text())


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = groups / "cpu" if controllers else groups
            # A container sees its own group at the mount, whatever the path outside of it is.
            folder = Path(os.path.normpath(mount / path.lstrip("/")))
            yield from {mount, folder, *(above for above in folder.parents if above.is_relative_to(mount))}
