"""Versions of Redis and Valkey with published vulnerabilities that an authenticated client can use, most of them by
Lua.

The fixed versions are from the projects' release notes and security advisories. A distribution may fix a version
without changing its number (Debian's 7.0.15-1~deb12uN), so the version is a reason to check and not a proof.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, int, int]

_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?")


@dataclass(frozen=True)
class _Vulnerability:
    names: tuple[str, ...]
    redis: tuple[Version, ...]
    """The first fixed version of each series. A series newer than all of these was never affected."""
    valkey: tuple[Version, ...]


_VULNERABILITIES = (
    _Vulnerability(("CVE-2024-31449",), ((6, 2, 16), (7, 2, 6), (7, 4, 1)), ((7, 2, 7), (8, 0, 1))),
    _Vulnerability(("CVE-2024-46981",), ((6, 2, 17), (7, 2, 7), (7, 4, 2)), ((7, 2, 8), (8, 0, 2))),
    _Vulnerability(("CVE-2025-21605",), ((6, 2, 18), (7, 2, 8), (7, 4, 3)), ((7, 2, 9), (8, 0, 3), (8, 1, 1))),
    _Vulnerability(
        ("CVE-2025-46817", "CVE-2025-46818", "CVE-2025-46819", "CVE-2025-49844"),
        ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
        ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
    ),
    _Vulnerability(("CVE-2025-67733",), (), ((7, 2, 12), (8, 0, 7), (8, 1, 6), (9, 0, 2))),
)


def known_vulnerabilities(server: str, version: str) -> str | None:
    """Return a warning about this version of `redis` or `valkey`; None if no vulnerability of it is listed here."""
    found = _VERSION.match(version)
    if found is None or server not in ("redis", "valkey"):
        return None
    number = (int(found[1]), int(found[2]), int(found[3] or 0))
    fixes = [(one, one.valkey if server == "valkey" else one.redis) for one in _VULNERABILITIES]
    bad = [(one, fixed) for one, fixed in fixes if _is_bad(number, fixed)]
    if not bad:
        return None
    names = ", ".join(name for one, _ in bad for name in one.names)
    latest = {fixed[:2]: fixed for _, versions in bad for fixed in versions if fixed[:2] >= number[:2]}
    good = ", ".join(".".join(map(str, fixed)) for _, fixed in sorted(latest.items()))
    return (
        f"{server} {version} has known faults by its version ({names}), most of them in Lua: a client of the store may "
        f"run code in it. Fixed in {good}. A distribution may have fixed them without another version, as Debian does "
        "in 7.0.15-1~deb12uN: see its changelog"
    )


def _is_bad(number: Version, fixed: tuple[Version, ...]) -> bool:
    """Return whether a version is older than the fix of its series, or of a series older than the newest fixed one."""
    in_series = [version for version in fixed if version[:2] == number[:2]]
    if in_series:
        return number < in_series[0]
    return bool(fixed) and number < max(fixed)
